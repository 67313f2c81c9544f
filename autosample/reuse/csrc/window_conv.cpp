// Convolution with filters that are windows of a summary, each piece of work done once.
//
// The caller describes the layer as a program of integers (see schedule.py): which input samples the segments of the
// summary meet, which shifted sums turn segments into windows, and which windows make an output channel. Work goes
// tile by tile, so that all intermediate results stay in cache:
//
//   pack     input channels of the tile, channel groups added up where they share their positions
//   segments B[row](u) = sum over taps and columns of bank[row] * x
//   sums     in place: D[row](u) = sum over r of B[row + r*step](u + r*shift)
//   select   y[n](u) = factor * sum over groups of D[position[n, g]](u) + bias, then ReLU and max-pool
//
// Positions u run over the flattened output map; `width` is the length of a row of it with its padding.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <memory>
#include <optional>
#include <type_traits>
#include <vector>

#include "simd.h"

namespace autosample {
namespace {

struct Term {
  int64_t row, phase, shift;
};

struct Sum {
  int64_t target;
  std::vector<Term> terms;
};

// A sum of a few terms per target, or, with `count`, of `count` terms at equal distances within each phase.
struct Pass {
  int64_t rows, count = 0, step = 1, shift = 0;
  std::vector<Sum> sums;
};

struct Program {
  // as in the program
  int64_t stride_h, stride_w, pad_h, pad_w, after_h, after_w, reach_h, reach_w;
  int64_t groups, windows, columns, channels, fold, rows, relu, pool, phases;
  // as the input has it
  int64_t dim_h, dim_w, out_h, out_w, width;
  std::vector<std::vector<Term>> taps;  // of each phase of B; `row` is unused, `phase` is that of the input
  std::vector<Pass> passes;
  std::vector<Term> last;
  int64_t halo_sum = 0, halo = 0;  // columns that B, and the input, need beyond a tile

  Program(c10::ArrayRef<int64_t> code, int64_t height, int64_t breadth) : dim_h(height), dim_w(breadth) {
    const int64_t* p = code.data();
    const int64_t* const end = p + code.size();
    auto next = [&] {
      TORCH_CHECK(p < end, "window_conv: the program ends too early");
      return *p++;
    };
    int64_t* const header[] = {&stride_h, &stride_w, &pad_h,   &pad_w,    &after_h, &after_w, &reach_h, &reach_w, &groups,
                               &windows,  &columns,  &channels, &fold,    &rows,    &relu,    &pool,    &phases};
    for (int64_t* field : header) *field = next();
    TORCH_CHECK(stride_h > 0 && stride_w > 0 && groups > 0 && columns > 0 && rows > 0 && phases > 0 && pool > 0,
                "window_conv: the program is broken");
    out_h = (dim_h + pad_h + after_h - reach_h - 1) / stride_h + 1;
    out_w = (dim_w + pad_w + after_w - reach_w - 1) / stride_w + 1;
    TORCH_CHECK(dim_h + pad_h + after_h > reach_h && dim_w + pad_w + after_w > reach_w,
                "window_conv: the kernel can't be larger than the padded input");
    width = out_w + reach_w / stride_w;
    // zeros that pad a row on the right can be those that pad the next one on the left
    if (stride_w == 1 && dim_h > 1) width -= std::min(pad_w, after_w);
    auto shift = [&] {
      const int64_t down = next();
      return down * width + next();
    };
    auto terms = [&](std::vector<Term>& list) {
      list.resize(next());
      for (Term& term : list) term.row = next(), term.phase = next(), term.shift = shift();
    };
    taps.resize(phases);
    for (auto& list : taps) terms(list);
    passes.resize(next());
    for (Pass& pass : passes) {
      pass.rows = next(), pass.count = next();
      if (pass.count) pass.step = next(), pass.shift = shift();
      pass.sums.resize(next());
      for (Sum& sum : pass.sums) {
        sum.target = next();
        if (!pass.count) terms(sum.terms);
      }
    }
    terms(last);
    TORCH_CHECK(p == end, "window_conv: the program is too long");
    halo_sum = reach(last);
    for (const Pass& pass : passes) halo_sum += reach(pass);
    halo = halo_sum;
    int64_t most = 0;
    for (const auto& list : taps) most = std::max(most, reach(list));
    halo += most;
  }

  static int64_t reach(const std::vector<Term>& list) {
    int64_t most = 0;
    for (const Term& term : list) most = std::max(most, term.shift);
    return most;
  }
  static int64_t reach(const Pass& pass) {
    int64_t most = pass.count ? (pass.count - 1) * pass.shift : 0;
    for (const Sum& sum : pass.sums) most = std::max(most, reach(sum.terms));
    return most;
  }
  // The pass of many terms, or none: there is at most one.
  const Pass* running() const {
    for (const Pass& pass : passes) {
      if (pass.count) return &pass;
    }
    return nullptr;
  }
  int64_t blocks() const { return fold ? 1 : windows; }
  int64_t input_phases() const { return stride_h * stride_w; }
  int64_t depth() const { return static_cast<int64_t>(taps[0].size()) * columns; }
  int64_t length() const { return out_h > 0 && out_w > 0 ? (out_h - 1) * width + out_w : 0; }
  int64_t pooled() const { return pool > 1 ? out_w / pool : out_w; }
};

struct Tile;

// Scratch memory of a thread for some use, kept between calls.
template <typename Use = Tile>
float* scratch(int64_t floats) {
  static thread_local std::unique_ptr<float[]> memory;
  static thread_local int64_t size = 0;
  if (floats + 16 > size) {
    memory.reset(new float[floats + 16]());
    size = floats + 16;
  }
  const auto address = reinterpret_cast<uintptr_t>(memory.get());
  return memory.get() + (64 - address % 64) % 64 / sizeof(float);
}

// ---- pack ----------------------------------------------------------------------------------------------------------

template <bool kAdd, typename T>
void pack_channel(const T* image, const Program& p, int64_t phase, int64_t start, int64_t count, float* out,
                  int64_t step) {
  const int64_t phase_h = phase / p.stride_w, phase_w = phase % p.stride_w;
  int64_t row = start / p.width, column = start % p.width;
  for (int64_t done = 0; done < count; ++row, column = 0) {
    const int64_t run = std::min(p.width - column, count - done);
    const int64_t y = row * p.stride_h + phase_h - p.pad_h;
    const int64_t x = column * p.stride_w + phase_w - p.pad_w;
    int64_t left = run, right = run;
    if (y >= 0 && y < p.dim_h) {
      left = x < 0 ? std::min(run, (-x + p.stride_w - 1) / p.stride_w) : 0;
      right = x < p.dim_w ? std::min(run, (p.dim_w - x + p.stride_w - 1) / p.stride_w) : 0;
      right = std::max(left, right);
    }
    float* to = out + done * step;
    if (!kAdd) {
      for (int64_t i = 0; i < left; ++i) to[i * step] = 0;
      for (int64_t i = right; i < run; ++i) to[i * step] = 0;
    }
    const T* from = image + y * p.dim_w + x;
    auto put = [&](int64_t i, float value) { kAdd ? to[i * step] += value : to[i * step] = value; };
    if (left >= right) {
    } else if (step == 1 && p.stride_w == 1) {
      for (int64_t i = left; i < right; ++i) kAdd ? to[i] += float(from[i]) : to[i] = float(from[i]);
    } else if (step == 1 && p.stride_w == 2) {
      int64_t i = left;
      if constexpr (std::is_same_v<T, float>) {
        for (; i + kLanes < right; i += kLanes) {  // the last vector would read beyond the row
          const Vec even = every_second(from + 2 * i);
          store(to + i, kAdd ? load(to + i) + even : even);
        }
      }
      for (; i < right; ++i) put(i, float(from[2 * i]));
    } else {
      for (int64_t i = left; i < right; ++i) put(i, float(from[i * p.stride_w]));
    }
    done += run;
  }
}

// Column q of window group g; with `fold`, of all groups added up. Channels beyond the last one are zero.
template <typename T>
void pack_column(const T* image, const Program& p, int64_t g, int64_t q, int64_t phase, int64_t start, int64_t count,
                 float* out, int64_t step) {
  const int64_t plane = p.dim_h * p.dim_w;
  const int64_t first = p.fold ? 0 : g, last = p.fold ? p.windows : g + 1;
  for (int64_t group = first; group < last; ++group) {
    const int64_t channel = group * p.columns + q;
    if (channel < p.channels) {
      if (group == first) {
        pack_channel<false>(image + channel * plane, p, phase, start, count, out, step);
      } else {
        pack_channel<true>(image + channel * plane, p, phase, start, count, out, step);
      }
    } else if (group == first) {
      for (int64_t i = 0; i < count; ++i) out[i * step] = 0;
    }
  }
}

// ---- wide tiles: vectors run along the output map ------------------------------------------------------------------

// Where the rows of B lie. Terms of the running pass, B[j + r*step](u + r*shift), come to lie under one another.
struct Rows {
  int64_t length, plane;
  std::vector<int64_t> at;

  Rows(const Program& p, int64_t columns) {
    const Pass* pass = p.running();
    const int64_t step = pass ? pass->step : 1, shift = pass ? pass->shift : 0;
    const int64_t rows = round_up(p.rows, kPanel), each = (rows + step - 1) / step;
    length = padded_row(columns + shift);
    for (int64_t j = 0; j < rows; ++j) at.push_back((j % step * (each + 1) + j / step) * length - j / step * shift);
    plane = (each + 1) * step * length;
  }
};

template <int kRows, int kVectors>
void segment_tile(const float* panel, const float* x, int64_t row_x, const std::vector<Term>& taps, int64_t plane,
                  int64_t columns, float* out, const int64_t* at) {
  Vec sum[kRows][kVectors] = {};
  for (const Term& tap : taps) {
    const float* from = x + tap.phase * plane + tap.shift;
    for (int64_t q = 0; q < columns; ++q, from += row_x, panel += kPanel) {
      Vec value[kVectors];
      for (int v = 0; v < kVectors; ++v) value[v] = load(from + v * kLanes);
      for (int r = 0; r < kRows; ++r) {
        for (int v = 0; v < kVectors; ++v) sum[r][v] += panel[r] * value[v];
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVectors; ++v) store(out + at[r] + v * kLanes, sum[r][v]);
  }
}

template <int kVectors>
void segment_column(const float* bank, const Program& p, const float* x, int64_t row_x, int64_t plane, int phase,
                    float* out, const Rows& rows) {
  for (int64_t row = 0; row < p.rows; row += kTileRows) {
    const float* panel = bank + row / kPanel * kPanel * p.depth() + row % kPanel;
    segment_tile<kTileRows, kVectors>(panel, x, row_x, p.taps[phase], plane, p.columns, out, rows.at.data() + row);
  }
}

void segments(const float* bank, const Program& p, const float* x, int64_t row_x, int64_t plane, float* out,
              const Rows& rows, int64_t count) {
  int64_t vectors = (count + kLanes - 1) / kLanes;
  for (int64_t start = 0; vectors > 0;) {
    // four vectors are two and two: one alone leaves the multipliers waiting
    const int take = vectors == 4 ? 2 : static_cast<int>(std::min<int64_t>(vectors, kTileVectors));
    for (int phase = 0; phase < p.phases; ++phase) {
      float* to = out + phase * rows.plane + start;
      if (take == 3) segment_column<3>(bank, p, x + start, row_x, plane, phase, to, rows);
      if (take == 2) segment_column<2>(bank, p, x + start, row_x, plane, phase, to, rows);
      if (take == 1) segment_column<1>(bank, p, x + start, row_x, plane, phase, to, rows);
    }
    start += take * kLanes;
    vectors -= take;
  }
}

template <int kTerms>
void add_rows(float* out, const float* const* from, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec total = load(from[0] + i);
    for (int t = 1; t < kTerms; ++t) total += load(from[t] + i);
    store(out + i, total);
  }
}

void add_rows(float* out, const std::vector<const float*>& from, int64_t count) {
  switch (from.size()) {
    case 2: return add_rows<2>(out, from.data(), count);
    case 3: return add_rows<3>(out, from.data(), count);
    case 4: return add_rows<4>(out, from.data(), count);
    default:
      for (int64_t i = 0; i < count; i += kLanes) {
        Vec total = load(from[0] + i);
        for (size_t t = 1; t < from.size(); ++t) total += load(from[t] + i);
        store(out + i, total);
      }
  }
}

// In place: a sum reads its own row and rows below it, which are still as they were.
void few_terms(const Program& p, const Pass& pass, float* segments, const Rows& rows, int64_t count) {
  std::vector<const float*> from;
  for (int64_t row = 0; row < pass.rows; ++row) {
    for (const Sum& sum : pass.sums) {
      from.clear();
      for (const Term& t : sum.terms) from.push_back(segments + t.phase * rows.plane + rows.at[row + t.row] + t.shift);
      add_rows(segments + sum.target * rows.plane + rows.at[row], from, count);
    }
  }
}

constexpr int kStrip = 2;  // vectors that a running sum takes along

// One strip of columns, rows `length` apart. Rows go in blocks of `count`; a window is the end of one block and the
// beginning of the next (van Herk 1992, Gil and Werman 1993, for sums): three additions a row however long it is, and
// no differences.
void running_strip(float* strip, int64_t length, int64_t rows, int64_t count) {
  for (int64_t block = 0; block + count <= rows; block += count) {
    Vec total[kStrip] = {};
    for (int64_t j = block + count - 1; j >= block; --j) {
      for (int v = 0; v < kStrip; ++v) {
        float* at = strip + j * length + v * kLanes;
        store(at, total[v] += load(at));
      }
    }
    Vec next[kStrip] = {};
    const int64_t stop = std::min(block + 2 * count - 1, rows);
    for (int64_t j = block + count; j < stop; ++j) {
      for (int v = 0; v < kStrip; ++v) {
        float* window = strip + (j - count + 1) * length + v * kLanes;
        next[v] += load(strip + j * length + v * kLanes);
        store(window, load(window) + next[v]);
      }
    }
  }
}

// The same for a whole tile: `count` columns come out, of `rows` windows in each of the interleaved sequences.
void many_terms(const Pass& pass, float* segments, const Rows& rows, int64_t count) {
  const int64_t width = kStrip * kLanes, in = count + Program::reach(pass);
  const int64_t total = pass.rows + (pass.count - 1) * pass.step;
  for (const Sum& sum : pass.sums) {
    for (int64_t residue = 0; residue < pass.step && residue < pass.rows; ++residue) {
      float* const base = segments + sum.target * rows.plane + rows.at[residue];
      const int64_t have = (total - residue + pass.step - 1) / pass.step;
      // under column c lie the samples c + j*shift of row j; only rows where these are within the tile take part
      const int64_t lowest = -(have - 1) * pass.shift;
      for (int64_t c = lowest; c < in; c += width) {
        int64_t first = 0, last = have;
        if (pass.shift) {
          first = std::max<int64_t>(0, (-c - width) / pass.shift + (c + width <= 0));
          last = std::min<int64_t>(have, (in - 1 - c) / pass.shift + 1);
        }
        if (last - first >= pass.count) {
          running_strip(base + first * rows.length + c, rows.length, last - first, pass.count);
        }
      }
    }
  }
}

void window_sums(const Program& p, float* segments, const Rows& rows, int64_t tile) {
  int64_t count = tile + p.halo_sum;
  for (const Pass& pass : p.passes) {
    count -= Program::reach(pass);
    pass.count ? many_terms(pass, segments, rows, count) : few_terms(p, pass, segments, rows, count);
  }
}

struct Run {
  int64_t from, to, count;  // in the tile, in the output plane, and how long
};

std::vector<Run> output_runs(const Program& p, int64_t start, int64_t count) {
  std::vector<Run> runs;
  for (int64_t u = start; u < start + count;) {
    const int64_t row = u / p.width, column = u % p.width;
    const int64_t stop = std::min(start + count, (row + 1) * p.width);
    const int64_t valid = std::min(stop, row * p.width + p.out_w) - u;
    if (valid > 0) runs.push_back({u - start, row * p.out_w + column, valid});
    u = stop;
  }
  return runs;
}

struct Selection {
  const int32_t* rows;                         // (N, blocks)
  const float *factors, *bias;                 // (N, factor_count), (N,); either may be missing
  int64_t filters, factor_count, filters_out;  // filters of one convolution group, and of the layer
};

// Max-pool of a line, in place; as torch's, a NaN is larger than everything. Maxima of pairs, of fours, and so on.
// Reads up to `pool` and two vectors beyond the end.
template <typename T>
void pool_line(float* line, int64_t count, int64_t pool, T* out) {
  for (int64_t width = 1, next; width < pool; width = next) {
    next = std::min(2 * width, pool);
    for (int64_t i = 0; i < count * pool; i += kLanes) {
      store(line + i, larger(load(line + i), load(line + i + next - width)));
    }
  }
  for (int64_t i = 0; i < count; ++i) out[i] = T(line[i * pool]);
}

// What an output channel adds up: places relative to the tile's windows, with a factor each where they differ.
struct Recipe {
  const int64_t* at;
  int64_t terms, per_factor;
  const float* factors;
  float scale, bias;
};

template <int kTerms>
inline Vec total_of(const float* windows, const Recipe& r, int64_t i) {
  Vec total = load(windows + r.at[0] + i);
  if (kTerms) {
    for (int t = 1; t < kTerms; ++t) total += load(windows + r.at[t] + i);
    return total;
  }
  if (!r.factors) {
    for (int64_t t = 1; t < r.terms; ++t) total += load(windows + r.at[t] + i);
    return total;
  }
  total = Vec{};
  for (int64_t t = 0; t < r.terms; ++t) total += r.factors[t / r.per_factor] * load(windows + r.at[t] + i);
  return total;
}

template <int kTerms, typename T>
void write_channel(const Program& p, const Recipe& r, const float* windows, const std::vector<Run>& runs, float* line,
                   T* out) {
  const Vec floor = (p.relu ? 0.f : -__builtin_inff()) - Vec{};
  auto value = [&](int64_t i) { return maximum(total_of<kTerms>(windows, r, i) * r.scale + r.bias, floor); };
  for (const Run& run : runs) {
    if (p.pool > 1) {
      for (int64_t i = 0; i < run.count; i += kLanes) store(line + i, value(run.from + i));
      pool_line(line, run.count / p.pool, p.pool, out + run.to / p.pool);
      continue;
    }
    int64_t i = 0;
    for (; i + kLanes <= run.count; i += kLanes) store_as(out + run.to + i, value(run.from + i), kLanes);
    if (i < run.count) store_as(out + run.to + i, value(run.from + i), static_cast<int>(run.count - i));
  }
}

struct Select {
  int64_t terms, size;
  std::vector<int64_t> at;

  Select(const Program& p, const Selection& s, const Rows& rows, int64_t block)
      : terms(p.blocks() * static_cast<int64_t>(p.last.size())),
        size(p.pool > 1 ? p.pooled() : p.out_h * p.out_w) {
    at.reserve(s.filters_out * terms);
    for (int64_t i = 0; i < s.filters_out * p.blocks(); ++i) {
      for (const Term& t : p.last) {
        at.push_back(i % p.blocks() * block + t.phase * rows.plane + rows.at[s.rows[i] + t.row] + t.shift);
      }
    }
  }

  template <typename T>
  void operator()(const Program& p, const Selection& s, int64_t group, const float* windows,
                  const std::vector<Run>& runs, float* line, T* out) const {
    const bool per_window = s.factors && s.factor_count > 1;
    for (int64_t n = group * s.filters; n < (group + 1) * s.filters; ++n) {
      const Recipe r{at.data() + n * terms, terms, static_cast<int64_t>(p.last.size()),
                     per_window ? s.factors + n * s.factor_count : nullptr,
                     s.factors && !per_window ? s.factors[n] : 1.f, s.bias ? s.bias[n] : 0.f};
      const auto write = per_window ? write_channel<0, T>
                         : terms == 1 ? write_channel<1, T>
                         : terms == 2 ? write_channel<2, T>
                         : terms == 3 ? write_channel<3, T>
                         : terms == 4 ? write_channel<4, T>
                         : terms == 8 ? write_channel<8, T>
                                      : write_channel<0, T>;
      write(p, r, windows, runs, line, out + n * size);
    }
  }
};

constexpr int64_t kCache = 192 * 1024;  // floats of scratch memory that stay in a core's second-level cache

int64_t tile_length(const Program& p, int64_t images) {
  const int64_t rows = round_up(p.rows, kPanel) * p.phases * p.blocks() + p.columns * p.input_phases();
  int64_t most = std::max<int64_t>(kCache / rows - p.halo, 4 * kLanes);
  most = std::min<int64_t>(most, 1024);
  int64_t tiles = (p.length() + most - 1) / most;
  // every thread should have a tile, as long as tiles are not mostly halo
  const int64_t threads = at::get_num_threads();
  while (images * tiles < threads && p.length() / (tiles + 1) >= 2 * kLanes + p.halo) ++tiles;
  int64_t tile = round_up((p.length() + tiles - 1) / tiles, std::max<int64_t>(p.pool, 1) * kLanes);
  return std::max<int64_t>(tile, kLanes);
}

template <typename T>
void run_wide(const Program& p, const Selection& s, const float* bank, const T* x, T* y, int64_t batch) {
  const int64_t tile = tile_length(p, batch * p.groups), tiles = (p.length() + tile - 1) / tile;
  // columns beyond a tile hold rubbish that strips and vectors may touch
  const Rows rows(p, tile + p.halo_sum + 2 * kTileVectors * kLanes);
  const int64_t row_x = padded_row(tile + p.halo + kTileVectors * kLanes);
  const int64_t block = rows.plane * p.phases, plane_x = p.columns * row_x, margin = rows.length;
  const Select select(p, s, rows, block);
  const int64_t image_in = p.channels * p.groups * p.dim_h * p.dim_w;
  const int64_t image_out = s.filters_out * (p.pool > 1 ? p.pooled() : p.out_h * p.out_w);
  at::parallel_for(0, batch * p.groups * tiles, 1, [&](int64_t begin, int64_t end) {
    const int64_t size = block * p.blocks() + plane_x * p.input_phases() + tile + p.pool + 4 * kLanes;
    float* const sums = scratch(2 * margin + size) + margin;
    float* const input = sums + block * p.blocks() + margin;
    float* const line = input + plane_x * p.input_phases();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t start = item % tiles * tile, image = item / tiles / p.groups, group = item / tiles % p.groups;
      const int64_t count = std::min(tile, p.length() - start);
      const T* from = x + image * image_in + group * p.channels * p.dim_h * p.dim_w;
      for (int64_t g = 0; g < p.blocks(); ++g) {
        for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
          for (int64_t q = 0; q < p.columns; ++q) {
            pack_column(from, p, g, q, phase, start, count + p.halo, input + phase * plane_x + q * row_x, 1);
          }
        }
        segments(bank, p, input, row_x, plane_x, sums + g * block, rows, count + p.halo_sum);
        window_sums(p, sums + g * block, rows, count);
      }
      select(p, s, group, sums, output_runs(p, start, count), line, y + image * image_out);
    }
  });
}

// ---- narrow maps: vectors run along the rows of the summary --------------------------------------------------------

template <int kColumns, int kVectors>
void segment_block(const float* bank, int64_t depth, const float* x, int64_t plane, const std::vector<Term>& taps,
                   int64_t columns, float* out, int64_t row_out) {
  Vec sum[kColumns][kVectors] = {};
  constexpr int kPerPanel = kPanel / kLanes;
  for (size_t i = 0; i < taps.size(); ++i) {
    const float* from = x + taps[i].phase * plane + taps[i].shift * columns;
    const float* panel = bank + static_cast<int64_t>(i) * columns * kPanel;
    for (int64_t q = 0; q < columns; ++q, panel += kPanel) {
      Vec value[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        value[v] = load(panel + v / kPerPanel * kPanel * depth + v % kPerPanel * kLanes);
      }
      for (int c = 0; c < kColumns; ++c) {
        for (int v = 0; v < kVectors; ++v) sum[c][v] += from[c * columns + q] * value[v];
      }
    }
  }
  for (int c = 0; c < kColumns; ++c) {
    for (int v = 0; v < kVectors; ++v) store(out + c * row_out + v * kLanes, sum[c][v]);
  }
}

template <int kVectors>
void segment_rows(const float* bank, const Program& p, const float* x, int64_t plane, int phase, int64_t count,
                  float* out, int64_t row_out) {
  constexpr int kMost = kLanes == 8 ? 3 : 6;
  for (int64_t u = 0; u < count; u += kMost) {
    const float* from = x + u * p.columns;
    float* to = out + u * row_out;
    switch (std::min<int64_t>(count - u, kMost)) {
#define AUTOSAMPLE_COLUMNS(n) \
  case n: segment_block<n, kVectors>(bank, p.depth(), from, plane, p.taps[phase], p.columns, to, row_out); break;
      AUTOSAMPLE_COLUMNS(1)
      AUTOSAMPLE_COLUMNS(2)
      AUTOSAMPLE_COLUMNS(3)
      AUTOSAMPLE_COLUMNS(4)
      AUTOSAMPLE_COLUMNS(5)
      AUTOSAMPLE_COLUMNS(6)
#undef AUTOSAMPLE_COLUMNS
    }
  }
}

constexpr size_t kMostSums = 8;

struct Narrow {
  int64_t count_b, count_x, row, plane_b, plane_x, block;

  explicit Narrow(const Program& p)
      : count_b(p.length() + p.halo_sum),
        count_x(p.length() + p.halo),
        row(round_up(p.rows, kPanel) + 2 * kPanel),
        plane_b(count_b * row),
        plane_x((count_x + 1) * p.columns),
        block(plane_b * p.phases) {}
};

// Sums over rows that lie side by side; in place for the same reason as in `few_terms`.
void narrow_few(const Narrow& n, float* segments, const std::vector<Sum>& sums, int64_t rows, int64_t count) {
  for (int64_t u = 0; u < count; ++u) {
    for (int64_t row = 0; row < rows; row += kLanes) {
      // all sums of these rows are made before one is stored: each may read what another one replaces
      Vec total[kMostSums];
      for (size_t k = 0; k < sums.size(); ++k) {
        total[k] = Vec{};
        for (const Term& t : sums[k].terms) {
          total[k] += load(segments + t.phase * n.plane_b + (u + t.shift) * n.row + row + t.row);
        }
      }
      for (size_t k = 0; k < sums.size(); ++k) {
        store(segments + sums[k].target * n.plane_b + u * n.row + row, total[k]);
      }
    }
  }
}

void narrow_sums(const Program& p, const Narrow& n, float* segments) {
  int64_t count = n.count_b, rows = p.rows;
  for (const Pass& pass : p.passes) {
    int64_t left = pass.count, step = pass.step, shift = pass.shift;
    if (!left) narrow_few(n, segments, pass.sums, rows = pass.rows, count -= Program::reach(pass));
    for (int64_t factor = 2; left > 1; left /= factor, step *= factor, shift *= factor) {
      while (left % factor) ++factor;
      std::vector<Sum> sums;
      for (const Sum& sum : pass.sums) {
        sums.push_back({sum.target, {}});
        for (int64_t r = 0; r < factor; ++r) sums.back().terms.push_back({r * step, sum.target, r * shift});
      }
      narrow_few(n, segments, sums, rows -= (factor - 1) * step, count -= (factor - 1) * shift);
    }
  }
}

template <typename T>
void narrow_select(const Program& p, const Narrow& n, const Selection& s, int64_t group, const float* windows,
                   float* line, T* out) {
  const int64_t size = p.pool > 1 ? p.pooled() : p.out_h * p.out_w;
  const int64_t used = p.pool > 1 ? p.pooled() * p.pool : p.out_w;
  for (int64_t i = 0; i < s.filters; ++i) {
    const int64_t f = group * s.filters + i;
    for (int64_t y = 0; y < p.out_h; ++y) {
      for (int64_t x = 0; x < used; ++x) {
        float total = 0;
        for (int64_t g = 0; g < p.blocks(); ++g) {
          float sum = 0;
          const float* from = windows + g * n.block + (y * p.width + x) * n.row + s.rows[f * p.blocks() + g];
          for (const Term& t : p.last) sum += from[t.phase * n.plane_b + t.shift * n.row + t.row];
          total += s.factors && s.factor_count > 1 ? s.factors[f * s.factor_count + g] * sum : sum;
        }
        if (s.factors && s.factor_count == 1) total *= s.factors[f];
        total += s.bias ? s.bias[f] : 0.f;
        line[x] = p.relu && total < 0 ? 0.f : total;
      }
      pool_line(line, p.pool > 1 ? p.pooled() : p.out_w, std::max<int64_t>(p.pool, 1), out + f * size + y * p.out_w);
    }
  }
}

template <typename T>
void run_narrow(const Program& p, const Selection& s, const float* bank, const T* x, T* y, int64_t batch) {
  const Narrow n(p);
  const int64_t images = batch * p.groups, image_in = p.channels * p.dim_h * p.dim_w;
  const int64_t size_x = n.plane_x * p.input_phases() * p.blocks(), size_b = n.block * p.blocks();
  const int64_t image_out = s.filters * (p.pool > 1 ? p.pooled() : p.out_h * p.out_w);
  // images go in lots that together stay in cache, so that each panel of the bank is read once a lot
  const int64_t lot = std::max<int64_t>(1, std::min<int64_t>(images, 4 * kCache / (size_x + size_b)));
  float* const inputs = scratch<struct Lot>(lot * (size_x + size_b));
  float* const sums = inputs + lot * size_x;
  constexpr int kVectors = 4, kRows = kVectors * kLanes;
  const int64_t row_blocks = (p.rows + kRows - 1) / kRows;
  for (int64_t first = 0; first < images; first += lot) {
    const int64_t count = std::min(lot, images - first);
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t g = 0; g < p.blocks(); ++g) {
          for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
            float* to = inputs + i * size_x + (g * p.input_phases() + phase) * n.plane_x;
            for (int64_t q = 0; q < p.columns; ++q) {
              pack_column(x + (first + i) * image_in, p, g, q, phase, 0, n.count_x, to + q, p.columns);
            }
          }
        }
      }
    });
    at::parallel_for(0, row_blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t row = b * kRows, left = round_up(p.rows, kPanel) - row;
        const float* panel = bank + row * p.depth();
        for (int64_t i = 0; i < count * p.blocks(); ++i) {
          const float* from = inputs + i * n.plane_x * p.input_phases();
          for (int phase = 0; phase < p.phases; ++phase) {
            float* to = sums + i * n.block + phase * n.plane_b + row;
            if (left >= kRows) {
              segment_rows<kVectors>(panel, p, from, n.plane_x, phase, n.count_b, to, n.row);
            } else {
              for (int64_t r = 0; r < left; r += kPanel) {
                segment_rows<kPanel / kLanes>(panel + r * p.depth(), p, from, n.plane_x, phase, n.count_b, to + r,
                                              n.row);
              }
            }
          }
        }
      }
    });
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      float* const line = scratch(p.out_w + p.pool + 4 * kLanes);
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t g = 0; g < p.blocks(); ++g) narrow_sums(p, n, sums + i * size_b + g * n.block);
        const int64_t image = (first + i) / p.groups, group = (first + i) % p.groups;
        narrow_select(p, n, s, group, sums + i * size_b, line, y + image * image_out * p.groups);
      }
    });
  }
}

// ---- the operator --------------------------------------------------------------------------------------------------

template <typename T>
void run(const Program& p, const Selection& s, const float* bank, const at::Tensor& x, at::Tensor& y) {
  const T* from = x.const_data_ptr<T>();
  T* to = y.mutable_data_ptr<T>();
  bool narrow = p.length() + p.halo_sum <= 24;
  for (const Pass& pass : p.passes) narrow = narrow && pass.sums.size() <= kMostSums;
  narrow ? run_narrow(p, s, bank, from, to, x.size(0)) : run_wide(p, s, bank, from, to, x.size(0));
}

at::Tensor window_conv(const at::Tensor& x, const at::Tensor& bank, const at::Tensor& rows,
                       const std::optional<at::Tensor>& factors, const std::optional<at::Tensor>& bias,
                       c10::ArrayRef<int64_t> program) {
  const at::Tensor input = x.contiguous();
  TORCH_CHECK(input.dim() == 3 || input.dim() == 4, "window_conv: a batch of signals or images is needed");
  const Program p(program, input.dim() == 4 ? input.size(2) : 1, input.size(-1));
  TORCH_CHECK(input.size(1) == p.groups * p.channels, "window_conv: expected ", p.groups * p.channels,
              " input channels, got ", input.size(1));
  TORCH_CHECK(bank.is_contiguous() && bank.scalar_type() == at::kFloat &&
                  bank.numel() == round_up(p.rows, kPanel) * p.depth(),
              "window_conv: the bank does not fit the program");
  TORCH_CHECK(rows.is_contiguous() && rows.scalar_type() == at::kInt && rows.dim() == 2 && rows.size(1) == p.blocks() &&
                  rows.size(0) % p.groups == 0,
              "window_conv: the table of positions does not fit the program");
  Selection s{rows.const_data_ptr<int32_t>(), nullptr, nullptr, rows.size(0) / p.groups, 0, rows.size(0)};
  int64_t reach = 0;
  for (const Term& term : p.last) reach = std::max(reach, term.row);
  const int64_t limit = (p.passes.empty() ? p.rows : p.passes.back().rows) - reach;
  for (int64_t i = 0; i < rows.numel(); ++i) {
    TORCH_CHECK(s.rows[i] >= 0 && s.rows[i] < limit, "window_conv: a position lies outside of the bank");
  }
  if (factors) {
    TORCH_CHECK(factors->is_contiguous() && factors->scalar_type() == at::kFloat && factors->dim() == 2 &&
                    factors->size(0) == s.filters_out && (factors->size(1) == 1 || factors->size(1) == p.blocks()),
                "window_conv: factors must be a table of floats for each filter, or filter and window");
    s.factors = factors->const_data_ptr<float>(), s.factor_count = factors->size(1);
  }
  if (bias) {
    TORCH_CHECK(bias->is_contiguous() && bias->scalar_type() == at::kFloat && bias->numel() == s.filters_out,
                "window_conv: the bias must be a float for each filter");
    s.bias = bias->const_data_ptr<float>();
  }
  std::vector<int64_t> shape{input.size(0), s.filters_out};
  if (input.dim() == 4) shape.push_back(p.out_h);
  shape.push_back(p.pool > 1 ? p.pooled() : p.out_w);
  at::Tensor y = at::empty(shape, input.options());
  if (y.numel() == 0) return y;
  if (input.scalar_type() == at::kFloat) {
    run<float>(p, s, bank.const_data_ptr<float>(), input, y);
  } else {
    TORCH_CHECK(input.scalar_type() == at::kBFloat16, "window_conv: float32 and bfloat16 only");
    run<c10::BFloat16>(p, s, bank.const_data_ptr<float>(), input, y);
  }
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(autosample, m) {
  m.def("window_conv(Tensor x, Tensor bank, Tensor rows, Tensor? factors, Tensor? bias, int[] program) -> Tensor");
}
TORCH_LIBRARY_IMPL(autosample, CPU, m) { m.impl("window_conv", window_conv); }

}  // namespace autosample
