// Maps too narrow for vectors to run along them: vectors run along the rows of the summary instead.
#pragma once

#include <vector>

#include "select.h"

namespace autosample {

template <int kColumns, int kVectors>
void segment_block(const float* bank, int64_t depth, const float* x, int64_t plane, const std::vector<Term>& taps,
                   int64_t columns, float* out, int64_t row_out) {
  Vec sum[kColumns][kVectors];
  clear(sum);
  constexpr int kPerPanel = kPanel / kLanes;
  for (size_t i = 0; i < taps.size(); ++i) {
    const float* from = x + taps[i].phase * plane + taps[i].shift * columns;
    const float* panel = bank + static_cast<int64_t>(i) * columns * kPanel;
    for (int64_t q = 0; q < columns; ++q, panel += kPanel) {
      Vec value[kVectors];
      times<kVectors>([&](int v) AUTOSAMPLE_INLINE {
        value[v] = kept(load(panel + v / kPerPanel * kPanel * depth + v % kPerPanel * kLanes));
      });
      times<kColumns>([&](int c) AUTOSAMPLE_INLINE { add_product(sum[c], from[c * columns + q], value); });
    }
  }
  times<kColumns>([&](int c) AUTOSAMPLE_INLINE {
    times<kVectors>([&](int v) AUTOSAMPLE_INLINE { store(out + c * row_out + v * kLanes, sum[c][v]); });
  });
}

template <int kVectors>
void narrow_rows(const float* bank, const Program& p, const float* x, int64_t plane, int phase, int64_t count,
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
inline void narrow_few(const Narrow& n, float* segments, const std::vector<Sum>& sums, int64_t rows, int64_t count) {
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

inline void narrow_sums(const Program& p, const Narrow& n, float* segments) {
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
  const auto pieces = input_pieces(p, 0, n.count_x);
  constexpr int kVectors = 4, kRows = kVectors * kLanes;
  const int64_t row_blocks = (p.rows + kRows - 1) / kRows;
  for (int64_t first = 0; first < images; first += lot) {
    const int64_t count = std::min(lot, images - first);
    const int64_t some = grain(n.count_b * 24. * p.rows * p.phases * p.blocks());
    const int64_t block = grain(double(count) * n.count_b * kRows * p.phases * p.blocks() * p.depth());
    at::parallel_for(0, count, some, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t g = 0; g < p.blocks(); ++g) {
          for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
            float* to = inputs + i * size_x + (g * p.input_phases() + phase) * n.plane_x;
            for (int64_t q = 0; q < p.columns; ++q) {
              pack_column(x + (first + i) * image_in, p, g, q, pieces[phase], to + q, p.columns);
            }
          }
        }
      }
    });
    at::parallel_for(0, row_blocks, block, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int64_t row = b * kRows, left = round_up(p.rows, kPanel) - row;
        const float* panel = bank + row * p.depth();
        for (int64_t i = 0; i < count * p.blocks(); ++i) {
          const float* from = inputs + i * n.plane_x * p.input_phases();
          for (int phase = 0; phase < p.phases; ++phase) {
            float* to = sums + i * n.block + phase * n.plane_b + row;
            if (left >= kRows) {
              narrow_rows<kVectors>(panel, p, from, n.plane_x, phase, n.count_b, to, n.row);
            } else {
              for (int64_t r = 0; r < left; r += kPanel) {
                narrow_rows<kPanel / kLanes>(panel + r * p.depth(), p, from, n.plane_x, phase, n.count_b, to + r,
                                              n.row);
              }
            }
          }
        }
      }
    });
    at::parallel_for(0, count, some, [&](int64_t begin, int64_t end) {
      float* const line = scratch(p.out_w + p.pool + 4 * kLanes);
      for (int64_t i = begin; i < end; ++i) {
        for (int64_t g = 0; g < p.blocks(); ++g) narrow_sums(p, n, sums + i * size_b + g * n.block);
        const int64_t image = (first + i) / p.groups, group = (first + i) % p.groups;
        narrow_select(p, n, s, group, sums + i * size_b, line, y + image * image_out * p.groups);
      }
    });
  }
}

}  // namespace autosample
