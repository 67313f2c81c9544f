// From windows to output channels, with bias, ReLU and max-pool.
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

}  // namespace autosample
