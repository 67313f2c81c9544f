// From windows to output channels, with bias, a map that is added, ReLU and max-pool.
#pragma once

#include <vector>

#include "segments.h"
#include "tile.h"

namespace autosample {

struct Selection {
  const int32_t* rows;                         // (N, blocks)
  const float *factors, *bias;                 // (N, factor_count), (N,); either may be missing
  int64_t filters, factor_count, filters_out;  // filters of one convolution group, and of the layer
};

struct Range {
  int64_t from, to;
};

// Filters of a convolution group, or of a block with folds: filter n of N is in block floor(n * folds / N).
inline Range filters_of(const Program& p, const Selection& s, int64_t group, int64_t block) {
  if (!p.folds) return {group * s.filters, (group + 1) * s.filters};
  return {(block * s.filters + p.folds - 1) / p.folds, ((block + 1) * s.filters + p.folds - 1) / p.folds};
}

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
inline Vec total_of(const float* const* rows, const Recipe& r, int64_t i) {
  Vec total = load(rows[0] + i);
  if (kTerms) {
    for (int t = 1; t < kTerms; ++t) total += load(rows[t] + i);
    return total;
  }
  const float* const windows = rows[0] - r.at[0];
  if (!r.factors) {
    for (int64_t t = 1; t < r.terms; ++t) total += load(windows + r.at[t] + i);
    return total;
  }
  total = Vec{};
  for (int64_t t = 0; t < r.terms; ++t) total += r.factors[t / r.per_factor] * load(windows + r.at[t] + i);
  return total;
}

// What is added to the output, from the place that belongs to the output's; `at` may be missing.
template <typename T>
struct More {
  const T *at, *end;

  More operator+(int64_t by) const { return {at ? at + by : nullptr, end}; }
  // A vector, of which `count` numbers matter.
  Vec get(int64_t i, int count) const {
    if (at + i + kLanes <= end) return load_as(at + i);
    T last[kLanes] = {};
    std::copy_n(at + i, count, last);
    return load_as(last);
  }
};

template <int kTerms, typename T>
void write_channel(const Program& p, const Recipe& r, const float* windows, const std::vector<Run>& runs, float* line,
                   More<T> more, T* out) {
  // in registers: what is written could otherwise be where these are read from
  const Vec floor = (p.relu ? 0.f : -__builtin_inff()) - Vec{}, scale = r.scale - Vec{}, bias = r.bias - Vec{};
  const float* rows[kTerms ? kTerms : 1];
  for (int t = 0; t < (kTerms ? kTerms : 1); ++t) rows[t] = windows + r.at[t];
  auto value = [&](int64_t i) { return maximum(total_of<kTerms>(rows, r, i) * scale + bias, floor); };
  auto write = [&](int64_t from, int64_t to, int count) {
    if (!more.at) return store_as(out + to, value(from), count);
    const Vec sum = total_of<kTerms>(rows, r, from) * scale + bias + more.get(to, count);
    store_as(out + to, maximum(sum, floor), count);
  };
  for (const Run& run : runs) {
    if (p.pool > 1) {
      for (int64_t i = 0; i < run.count; i += kLanes) store(line + i, value(run.from + i));
      pool_line(line, run.count / p.pool, p.pool, out + run.to / p.pool);
      continue;
    }
    const int64_t from = run.from, to = run.to, count = run.count;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) write(from + i, to + i, kLanes);
    if (i == count) continue;
    if (count >= kLanes) {  // once more the last ones that fill a vector
      write(from + count - kLanes, to + count - kLanes, kLanes);
    } else {
      write(from, to, static_cast<int>(count));
    }
  }
}

// Whether filters are the segments themselves, in their order, so that these can go to the output at once.
inline bool are_segments(const Program& p, const Selection& s) {
  if (!p.folds || !p.passes.empty() || p.phases > 1 || p.pool > 1 || s.factors || p.last.size() > 1) return false;
  if (p.last[0].row || p.last[0].shift) return false;
  for (int64_t b = 0; b < p.folds; ++b) {
    const Range filters = filters_of(p, s, 0, b);
    for (int64_t n = filters.from; n < filters.to; ++n) {
      if (s.rows[n] != n - filters.from) return false;
    }
  }
  return true;
}

// Where segments go that are filters: to the output, with all that `Select` does. Columns are those of one run.
template <typename T>
struct InMap {
  static constexpr bool kRowByRow = true;  // memory is written faster in a few streams
  Range filters;
  int64_t size, count;  // of an output channel, and of the tile
  const float* bias;
  Vec floor;
  More<T> more;
  T* y;

  InMap(const Program& p, const Selection& s, Range filters, const Run& run, int64_t size, More<T> more, T* y)
      : filters(filters), size(size), count(run.count), bias(s.bias), floor((p.relu ? 0.f : -__builtin_inff()) - Vec{}),
        more(more + run.to), y(y + run.to) {}

  template <int kRows, int kVectors>
  AUTOSAMPLE_INLINE void put(int64_t row, int64_t column, const Vec (&sum)[kRows][kVectors]) const {
    const int64_t first = filters.from + row, rows = filters.to - first;
    if (rows < kRows || column + kVectors * kLanes > count) {
      Vec copy[kRows][kVectors];
      times<kRows>([&](int r) AUTOSAMPLE_INLINE {
        times<kVectors>([&](int v) AUTOSAMPLE_INLINE { copy[r][v] = sum[r][v]; });
      });
      return put_some(first, column, copy[0], std::min<int64_t>(rows, kRows), kVectors);
    }
    times<kRows>([&](int r) AUTOSAMPLE_INLINE {
      const int64_t at = (first + r) * size + column;
      const Vec shift = bias ? bias[first + r] - Vec{} : Vec{};
      times<kVectors>([&](int v) AUTOSAMPLE_INLINE {
        Vec value = sum[r][v] + shift;
        if (more.at) value += load_as(more.at + at + v * kLanes);
        store_as(y + at + v * kLanes, maximum(value, floor), kLanes);
      });
    });
  }

  // Where the map or the block ends. Not inline: calls would put the sums of whole tiles in memory too.
  __attribute__((noinline)) void put_some(int64_t first, int64_t column, const Vec* sum, int64_t rows, int vectors) const {
    for (int64_t n = first; n < first + rows; ++n, sum += vectors) {
      for (int v = 0; v < vectors; ++v) {
        const int64_t at = n * size + column + v * kLanes, left = std::min<int64_t>(count - column - v * kLanes, kLanes);
        if (left <= 0) break;
        Vec value = bias ? sum[v] + bias[n] : sum[v];
        if (more.at) value += more.get(at, static_cast<int>(left));
        store_as(y + at, maximum(value, floor), static_cast<int>(left));
      }
    }
  }
};

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
  void operator()(const Program& p, const Selection& s, Range filters, const float* windows,
                  const std::vector<Run>& runs, float* line, More<T> more, T* out) const {
    const bool per_window = s.factors && s.factor_count > 1;
    for (int64_t n = filters.from; n < filters.to; ++n) {
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
      write(p, r, windows, runs, line, more + n * size, out + n * size);
    }
  }
};

}  // namespace autosample
