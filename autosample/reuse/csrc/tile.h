// Tiles of the flattened output map: their input, their memory, and where they end up.
#pragma once

#include <ATen/Parallel.h>

#include <memory>
#include <type_traits>
#include <vector>

#include "program.h"

namespace autosample {

struct Tile;

// Scratch memory of a thread for some use, kept between calls.
template <typename Use = Tile>
float* scratch(int64_t floats) {
  TORCH_CHECK(floats < int64_t{1} << 28, "window_conv: the layer needs more than 1 GB of scratch memory");
  static thread_local std::unique_ptr<float[]> memory;
  static thread_local int64_t size = 0;
  if (floats + 16 > size) {
    memory.reset(new float[floats + 16]());
    size = floats + 16;
  }
  const auto address = reinterpret_cast<uintptr_t>(memory.get());
  return memory.get() + (64 - address % 64) % 64 / sizeof(float);
}

// A piece of a phase image's row within a tile, or whole rows that lie one after the other in the image: samples `left` to
// `right` of its `count` lie in the image, sample i at `place + i * stride_w` of it; the others are padding.
struct Piece {
  int64_t at, left, right, count, place;
};

// The pieces of a tile, the same for every channel.
inline std::vector<Piece> tile_pieces(const Program& p, int64_t phase, int64_t start, int64_t count) {
  std::vector<Piece> pieces;
  const int64_t phase_h = phase / p.stride_w, phase_w = phase % p.stride_w;
  int64_t row = start / p.width, column = start % p.width;
  for (int64_t at = 0; at < count; ++row, column = 0) {
    const int64_t run = std::min(p.width - column, count - at);
    const int64_t image = p.images > 1 ? row / p.period : 0;
    const int64_t y = (row - image * p.period) * p.stride_h + phase_h - p.pad_h;
    const int64_t x = column * p.stride_w + phase_w - p.pad_w;
    int64_t left = run, right = run;
    if (y >= 0 && y < p.dim_h && image < p.images) {
      left = x < 0 ? std::min(run, (-x + p.stride_w - 1) / p.stride_w) : 0;
      right = x < p.dim_w ? std::min(run, (p.dim_w - x + p.stride_w - 1) / p.stride_w) : 0;
      right = std::max(left, right);
    }
    const Piece piece{at, left, right, run, image * p.channels * p.groups * p.dim_h * p.dim_w + y * p.dim_w + x};
    at += run;
    if (!pieces.empty() && !left && right == run) {
      Piece& last = pieces.back();
      if (!last.left && last.right == last.count && last.place + last.count * p.stride_w == piece.place) {
        last.count += run, last.right += run;
        continue;
      }
    }
    pieces.push_back(piece);
  }
  return pieces;
}

template <bool kAdd, typename T>
void pack_channel(const T* image, const Program& p, const std::vector<Piece>& pieces, float* out, int64_t step) {
  for (const Piece& piece : pieces) {
    float* const to = out + piece.at * step;
    if (!kAdd) {
      for (int64_t i = 0; i < piece.left; ++i) to[i * step] = 0;
      for (int64_t i = piece.right; i < piece.count; ++i) to[i * step] = 0;
    }
    if (piece.left >= piece.right) continue;
    const T* const from = image + piece.place;
    auto put = [&](int64_t i, float value) { kAdd ? to[i * step] += value : to[i * step] = value; };
    int64_t i = piece.left;
    if (step == 1 && p.stride_w == 1) {
      for (; i < piece.right; ++i) kAdd ? to[i] += float(from[i]) : to[i] = float(from[i]);
    }
    if constexpr (std::is_same_v<T, float>) {
      if (step == 1 && p.stride_w == 2) {
        for (; i + kLanes < piece.right; i += kLanes) {  // the last vector would read beyond the row
          const Vec even = every_second(from + 2 * i);
          store(to + i, kAdd ? load(to + i) + even : even);
        }
      }
    }
    for (; i < piece.right; ++i) put(i, float(from[i * p.stride_w]));
  }
}

// Sums and differences of vectors `kStep` apart.
template <int kStep, int kRows>
inline AUTOSAMPLE_INLINE void butterflies(Vec (&row)[kRows]) {
  times<kRows>([&](auto r) AUTOSAMPLE_INLINE {
    if constexpr (kStep < kRows && !(r & kStep)) {
      const Vec a = row[r], b = row[r + kStep];
      row[r] = a + b, row[r + kStep] = a - b;
    }
  });
}

// Sums and differences of rows `half`, 2 `half` … apart, as many steps at once as kRows has factors of two. Row r of the
// input is `from[r]`.
template <int kRows>
void hadamard_steps(const float* const* from, float* out, int64_t plane, int64_t order, int64_t half, int64_t count) {
  for (int64_t first = 0; first < order; ++first) {
    if (first / half % kRows) continue;
    float* const at = out + first * plane;
    const float* rows[kRows];
    times<kRows>([&](int r) AUTOSAMPLE_INLINE { rows[r] = from[first + r * half]; });
    for (int64_t i = 0; i < count; i += kLanes) {
      Vec row[kRows];
      times<kRows>([&](int r) AUTOSAMPLE_INLINE { row[r] = load(rows[r] + i); });
      butterflies<1>(row);
      butterflies<2>(row);
      butterflies<4>(row);
      times<kRows>([&](int r) AUTOSAMPLE_INLINE { store(at + r * half * plane + i, row[r]); });
    }
  }
}

// The signed sums of `order` rows, all Walsh-Hadamard steps; `from` becomes the rows of the result.
inline void hadamard(const float** from, float* out, int64_t plane, int64_t order, int64_t count) {
  for (int64_t half = 1; half < order;) {
    const int64_t left = order / half, rows = left >= 8 ? 8 : left;
    if (rows == 8) hadamard_steps<8>(from, out, plane, order, half, count);
    if (rows == 4) hadamard_steps<4>(from, out, plane, order, half, count);
    if (rows == 2) hadamard_steps<2>(from, out, plane, order, half, count);
    for (int64_t g = 0; g < order; ++g) from[g] = out + g * plane;
    half *= rows;
  }
}

// Column q of window group g; with `fold`, of all groups added up. Channels beyond the last one are zero.
template <typename T>
void pack_column(const T* image, const Program& p, int64_t g, int64_t q, const std::vector<Piece>& pieces, float* out,
                 int64_t step) {
  const int64_t plane = p.dim_h * p.dim_w;
  const int64_t first = p.fold ? 0 : g, last = p.fold ? p.windows : g + 1;
  for (int64_t group = first; group < last; ++group) {
    const int64_t channel = group * p.columns + q;
    if (channel < p.channels) {
      if (group == first) {
        pack_channel<false>(image + channel * plane, p, pieces, out, step);
      } else {
        pack_channel<true>(image + channel * plane, p, pieces, out, step);
      }
    } else if (group == first) {
      for (const Piece& piece : pieces) {
        for (int64_t i = 0; i < piece.count; ++i) out[(piece.at + i) * step] = 0;
      }
    }
  }
}

// Column q of all signed sums, `plane` apart. `from` has room for as many pointers.
template <typename T>
void pack_sums(const T* image, const Program& p, int64_t q, const std::vector<Piece>& pieces, int64_t count, float* out,
               int64_t plane, const float** from) {
  const int64_t order = p.sums(), size = p.dim_h * p.dim_w;
  const Piece& whole = pieces[0];
  // where the tile is a piece of the image, whole vectors of it need no copy
  const bool alone = std::is_same_v<T, float> && pieces.size() == 1 && p.stride_w == 1 && !whole.left && whole.right == count;
  const int64_t direct = alone && (p.windows * p.columns == p.channels || q < p.channels - (p.windows - 1) * p.columns)
                             ? count / kLanes * kLanes : 0;
  for (int64_t g = 0; g < order; ++g) {
    const int64_t channel = g * p.columns + q;
    float* const row = out + g * plane;
    from[g] = row;
    if (g >= p.windows || channel >= p.channels) {
      std::memset(row, 0, count * sizeof(float));
    } else if (!direct) {
      pack_channel<false>(image + channel * size, p, pieces, row, 1);
    } else {
      if constexpr (std::is_same_v<T, float>) from[g] = image + channel * size + whole.place;
      for (int64_t i = direct; i < count; ++i) row[i] = float(image[channel * size + whole.place + i]);
    }
  }
  if (direct) hadamard(from, out, plane, order, direct);
  for (int64_t g = 0; g < order; ++g) from[g] = out + g * plane + direct;
  if (count > direct) hadamard(from, out + direct, plane, order, count - direct);
}

// Pieces of all phases of the input.
inline std::vector<std::vector<Piece>> input_pieces(const Program& p, int64_t start, int64_t count) {
  std::vector<std::vector<Piece>> pieces;
  for (int64_t phase = 0; phase < p.input_phases(); ++phase) pieces.push_back(tile_pieces(p, phase, start, count));
  return pieces;
}

struct Run {
  int64_t from, to, count;  // in the tile, in the output, and how long
};

// Where a tile goes in the output plane of one channel; `image_out` is how far apart those of the images are.
inline std::vector<Run> output_runs(const Program& p, int64_t start, int64_t count, int64_t image_out = 0) {
  std::vector<Run> runs;
  for (int64_t u = start; u < start + count;) {
    const int64_t row = u / p.width, column = u % p.width;
    const int64_t image = p.images > 1 ? row / p.period : 0, y = row - image * p.period;
    const int64_t stop = std::min(start + count, (row + 1) * p.width);
    const int64_t valid = y < p.out_h ? std::min(stop, row * p.width + p.out_w) - u : 0;
    const Run run{u - start, image * image_out + y * p.out_w + column, valid};
    if (valid > 0 && !runs.empty() && p.pool == 1 && runs.back().from + runs.back().count == run.from &&
        runs.back().to + runs.back().count == run.to) {
      runs.back().count += valid;  // rows without padding between them
    } else if (valid > 0) {
      runs.push_back(run);
    }
    u = stop;
  }
  return runs;
}

// Work of a tile's column, in units of about 10 ps: multiply-adds, and what comes with them.
inline double column_work(const Program& p) {
  const double segments = double(p.bank_rows()) * p.phases * p.blocks() * (p.depth() + 24);
  return segments + 12. * (p.bank_rows() + p.columns * p.phases_read() * p.blocks() * p.sums());
}

// How many items of so much work are worth waking a thread for.
inline int64_t grain(double work) { return std::max<int64_t>(1, static_cast<int64_t>(8e6 / work)); }

constexpr int64_t kCache = 192 * 1024;  // floats of scratch memory that stay in a core's second-level cache
constexpr int64_t kCacheOfSums = 80 * 1024;  // with folds, next to a block's bank

inline int64_t tile_length(const Program& p, int64_t images) {
  const int64_t rows = round_up(p.rows, kPanel) * p.phases * p.blocks() + p.columns * p.phases_read() * p.sums();
  const int64_t cache = p.folds ? kCacheOfSums : kCache;
  int64_t most = std::max<int64_t>(cache / rows - p.halo, 4 * kLanes);
  most = std::min<int64_t>(most, 4096);
  int64_t tiles = (p.length() + most - 1) / most;
  // every thread should have a tile, as long as tiles are not mostly halo
  const int64_t worth = images * p.length() / grain(column_work(p));
  const int64_t threads = std::min<int64_t>(at::get_num_threads(), worth);
  while (images * tiles < threads && p.length() / (tiles + 1) >= 2 * kLanes + p.halo) ++tiles;
  int64_t tile = round_up((p.length() + tiles - 1) / tiles, std::max<int64_t>(p.pool, 1) * kLanes);
  return std::max<int64_t>(tile, kLanes);
}

}  // namespace autosample
