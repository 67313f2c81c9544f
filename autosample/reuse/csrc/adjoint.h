// The way back: gradients of the input and of the bank, tile by tile like the forward pass and with the same sums.
#pragma once

#include <vector>

#include "segments.h"
#include "select.h"
#include "tile.h"

namespace autosample {

inline void add_to(float* out, const float* from, float scale, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(out + i, load(out + i) + scale * load(from + i));
  for (; i < count; ++i) out[i] += scale * from[i];
}

// Gradients of the windows from those of the output channels; columns between rows of the map stay zero.
inline void select_adjoint(const Program& p, const Selection& s, const Select& select, int64_t group, const float* grad,
                           const std::vector<Run>& runs, float* windows) {
  for (int64_t n = group * s.filters; n < (group + 1) * s.filters; ++n) {
    for (int64_t t = 0; t < select.terms; ++t) {
      const int64_t g = t / static_cast<int64_t>(p.last.size());
      const float scale = s.factors ? s.factors[n * s.factor_count + (s.factor_count > 1 ? g : 0)] : 1.f;
      float* const to = windows + select.at[n * select.terms + t];
      for (const Run& run : runs) add_to(to + run.from, grad + n * select.size + run.to, scale, run.count);
    }
  }
}

// Rows from the last one up: a row hands its gradient on to rows below it, which have handed on theirs.
inline void few_terms_adjoint(const Pass& pass, float* segments, const Rows& rows, int64_t count) {
  for (int64_t row = pass.rows - 1; row >= 0; --row) {
    for (const Sum& sum : pass.sums) {
      const float* from = segments + sum.target * rows.plane + rows.at[row];
      for (size_t t = 1; t < sum.terms.size(); ++t) {
        const Term& term = sum.terms[t];
        add_to(segments + term.phase * rows.plane + rows.at[row + term.row] + term.shift, from, 1.f, count);
      }
    }
  }
}

// A sum over the `count` rows that begin `count - 1` rows before: `running_strip` upside down, where windows may
// stick out beyond the last row.
inline void running_strip_adjoint(float* last_row, int64_t length, int64_t rows, int64_t count) {
  auto at = [&](int64_t j, int v) { return last_row - j * length + v * kLanes; };
  for (int64_t block = 0; block < rows; block += count) {
    Vec total[kStrip] = {};
    for (int64_t j = std::min(block + count, rows) - 1; j >= block; --j) {
      for (int v = 0; v < kStrip; ++v) store(at(j, v), total[v] += load(at(j, v)));
    }
    Vec next[kStrip] = {};
    for (int64_t j = block + count; j < block + 2 * count - 1 && j - count + 1 < rows; ++j) {
      for (int v = 0; v < kStrip; ++v) {
        if (j < rows) next[v] += load(at(j, v));
        store(at(j - count + 1, v), load(at(j - count + 1, v)) + next[v]);
      }
    }
  }
}

inline void many_terms_adjoint(const Pass& pass, float* segments, const Rows& rows, int64_t count) {
  for_strips(pass, rows, count, [&](int64_t target, int64_t residue, int64_t first, int64_t last, int64_t column) {
    float* const base = segments + target * rows.plane + rows.at[residue] + column;
    if (last > first) running_strip_adjoint(base + (last - 1) * rows.length, rows.length, last - first, pass.count);
  });
}

// Gradients of the segments' outputs from those of the windows, in place. What lies around them becomes zero.
inline void window_sums_adjoint(const Program& p, float* segments, const Rows& rows, int64_t tile, int64_t margin) {
  int64_t count = tile + Program::reach(p.last);
  for (auto pass = p.passes.rbegin(); pass != p.passes.rend(); ++pass) {
    pass->count ? many_terms_adjoint(*pass, segments, rows, count) : few_terms_adjoint(*pass, segments, rows, count);
    count += Program::reach(*pass);
  }
  for (int64_t phase = 0; phase < p.phases; ++phase) {
    for (const int64_t at : rows.at) {
      float* const row = segments + phase * rows.plane + at;
      std::fill(row - margin, row, 0.f);
      std::fill(row + count, row + count + margin + kTileVectors * kLanes, 0.f);
    }
  }
}

// bank[row][d] += sum over u of segments[row](u) * x[d](u).
template <int kRows, int kDepth>
void bank_tile(const float* segments, const int64_t* at, const float* const* x, int64_t count, float* bank,
               int64_t depth) {
  Vec sum[kRows][kDepth];
  clear(sum);
  for (int64_t i = 0; i < count; i += kLanes) {
    Vec value[kDepth];
    times<kDepth>([&](int d) AUTOSAMPLE_INLINE { value[d] = kept(load(x[d] + i)); });
    times<kRows>([&](int r) AUTOSAMPLE_INLINE { add_product(sum[r], load(segments + at[r] + i), value); });
  }
  times<kRows>([&](int r) AUTOSAMPLE_INLINE {
    times<kDepth>([&](int d) AUTOSAMPLE_INLINE { bank[r * depth + d] += total(sum[r][d]); });
  });
}

inline void bank_gradient(const Program& p, const float* segments, const Rows& rows, const float* x, int64_t row_x,
                          int64_t plane_x, int64_t count, float* bank) {
  const int64_t depth = p.depth();
  std::vector<const float*> columns(depth);
  for (int64_t phase = 0; phase < p.phases; ++phase) {
    for (int64_t d = 0; d < depth; ++d) {
      const Term& tap = p.taps[phase][d / p.columns];
      columns[d] = x + tap.phase * plane_x + d % p.columns * row_x + tap.shift;
    }
    const float* const from = segments + phase * rows.plane;
    for (int64_t row = 0; row < p.rows; row += kTileRows) {
      const int64_t* at = rows.at.data() + row;
      float* const to = bank + row * depth;
      int64_t d = 0;
      for (; d + 3 <= depth; d += 3) bank_tile<kTileRows, 3>(from, at, &columns[d], count, to + d, depth);
      for (; d < depth; ++d) bank_tile<kTileRows, 1>(from, at, &columns[d], count, to + d, depth);
    }
  }
}

// x[q](u) = sum over taps and rows of turned[tap][row][q] * segments[row](u - shift), for one phase of the input.
template <int kRows>
void input_tile(const Program& p, int64_t input_phase, const float* turned, const float* segments, const Rows& rows,
                float* out, int64_t row_x) {
  Vec sum[kRows][kTileVectors];
  clear(sum);
  for (int64_t phase = 0; phase < p.phases; ++phase) {
    for (size_t i = 0; i < p.taps[phase].size(); ++i) {
      const Term& tap = p.taps[phase][i];
      if (tap.phase != input_phase) continue;
      const float* const from = segments + phase * rows.plane - tap.shift;
      const float* factor = turned + static_cast<int64_t>(i) * p.rows * kPanel;
      for (int64_t row = 0; row < p.rows; ++row, factor += kPanel) {
        Vec value[kTileVectors];
        const float* const at = from + rows.at[row];
        times<kTileVectors>([&](int v) AUTOSAMPLE_INLINE { value[v] = kept(load(at + v * kLanes)); });
        times<kRows>([&](int r) AUTOSAMPLE_INLINE { add_product(sum[r], factor[r], value); });
      }
    }
  }
  times<kRows>([&](int r) AUTOSAMPLE_INLINE {
    times<kTileVectors>([&](int v) AUTOSAMPLE_INLINE { store(out + r * row_x + v * kLanes, sum[r][v]); });
  });
}

inline void input_gradient(const Program& p, const float* turned, const float* segments, const Rows& rows, float* x,
                           int64_t row_x, int64_t plane_x, int64_t count) {
  const int64_t panel = static_cast<int64_t>(p.taps[0].size()) * p.rows * kPanel;
  for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
    for (int64_t u = 0; u < count; u += kTileVectors * kLanes) {
      for (int64_t q = 0, step = 0; q < p.columns; q += step) {
        const float* from = turned + q / kPanel * panel + q % kPanel;
        float* const to = x + phase * plane_x + q * row_x + u;
        const int64_t left = p.columns - q;
        step = left >= kTileRows ? kTileRows : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (step == kTileRows) input_tile<kTileRows>(p, phase, from, segments + u, rows, to, row_x);
        else if (step == 4) input_tile<4>(p, phase, from, segments + u, rows, to, row_x);
        else if (step == 2) input_tile<2>(p, phase, from, segments + u, rows, to, row_x);
        else input_tile<1>(p, phase, from, segments + u, rows, to, row_x);
      }
    }
  }
}

// The bank with columns side by side: turned[q / 16][tap][row][q % 16].
inline std::vector<float> turn_bank(const Program& p, const float* bank) {
  const int64_t taps = static_cast<int64_t>(p.taps[0].size());
  std::vector<float> turned(round_up(p.columns, kPanel) * taps * p.rows);
  for (int64_t row = 0; row < p.rows; ++row) {
    for (int64_t d = 0; d < p.depth(); ++d) {
      const int64_t i = d / p.columns, q = d % p.columns;
      turned[((q / kPanel * taps + i) * p.rows + row) * kPanel + q % kPanel] =
          bank[(row / kPanel * p.depth() + d) * kPanel + row % kPanel];
    }
  }
  return turned;
}

// Adds a packed channel back to the image: the adjoint of `pack_channel`.
inline void unpack_channel(float* image, const Program& p, const std::vector<Piece>& pieces, const float* from) {
  for (const Piece& piece : pieces) {
    for (int64_t i = piece.left; i < piece.right; ++i) image[piece.place + i * p.stride_w] += from[piece.at + i];
  }
}

struct Gradients {
  float *x, *bank;  // either may be missing; `bank` has a part for each thread
  int64_t bank_size;
};

inline void run_adjoint(const Program& p, const Selection& s, const float* bank, const float* x, const float* grad,
                        int64_t batch, const Gradients& out) {
  int64_t reach = 0;
  for (const auto& list : p.taps) reach = std::max(reach, Program::reach(list));
  const int64_t tile = tile_length(p, batch * p.groups), tiles = (p.length() + tile - 1) / tile;
  const int64_t margin = round_up(reach + kTileVectors * kLanes, kLanes);  // so rows begin at a cache line
  const Rows rows(p, tile + p.halo_sum + 2 * margin + 3 * kTileVectors * kLanes);
  const int64_t row_x = padded_row(tile + p.halo + 2 * kTileVectors * kLanes);
  const int64_t block = rows.plane * p.phases, plane_x = (p.columns + kTileRows) * row_x;
  const Select select(p, s, rows, block);
  const std::vector<float> turned = out.x ? turn_bank(p, bank) : std::vector<float>();
  const int64_t plane = p.dim_h * p.dim_w, image_in = p.channels * plane;
  at::parallel_for(0, batch * p.groups, 1, [&](int64_t begin, int64_t end) {
    const int64_t size = block * p.blocks();
    float* const memory = scratch(2 * (margin + rows.length) + size + plane_x * p.input_phases());
    float* const sums = memory + margin + rows.length;
    float* const input = sums + size + margin + rows.length;
    float* const own_bank = out.bank ? out.bank + at::get_thread_num() * out.bank_size : nullptr;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t image = item / p.groups, group = item % p.groups;
      for (int64_t start = 0; start < p.length(); start += tile) {
        const int64_t count = std::min(tile, p.length() - start);
        // a vector more than needed: what meets the zeros beyond a tile must be a number
        const int64_t taken = count + p.halo + kLanes;
        const auto pieces = input_pieces(p, start, taken);
        std::fill(memory, input, 0.f);
        select_adjoint(p, s, select, group, grad + image * s.filters_out * select.size, output_runs(p, start, count), sums);
        for (int64_t g = 0; g < p.blocks(); ++g) {
          float* const segments = sums + g * block;
          window_sums_adjoint(p, segments, rows, count, margin);
          if (own_bank) {
            for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
              for (int64_t q = 0; q < p.columns; ++q) {
                float* const to = input + phase * plane_x + q * row_x;
                pack_column(x + item * image_in, p, g, q, pieces[phase], to, 1);
              }
            }
            bank_gradient(p, segments, rows, input, row_x, plane_x, count + p.halo_sum, own_bank);
          }
          if (!out.x) continue;
          input_gradient(p, turned.data(), segments, rows, input, row_x, plane_x, taken);
          for (int64_t channel = 0; channel < p.channels; ++channel) {
            const int64_t q = channel % p.columns;
            if (!p.fold && channel / p.columns != g) continue;
            for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
              unpack_channel(out.x + item * image_in + channel * plane, p, pieces[phase],
                             input + phase * plane_x + q * row_x);
            }
          }
        }
      }
    }
  });
}

}  // namespace autosample
