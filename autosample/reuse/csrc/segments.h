// Wide tiles: vectors run along the output map. Segments of the bank meet the input, and sums make windows of them.
#pragma once

#include <vector>

#include "program.h"

namespace autosample {

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

// Where segments go: to the rows from which windows are added up.
struct InRows {
  static constexpr bool kRowByRow = false;  // so a tile's input stays in the first-level cache
  float* out;
  const std::vector<int64_t>& at;

  template <int kRows, int kVectors>
  AUTOSAMPLE_INLINE void put(int64_t row, int64_t column, const Vec (&sum)[kRows][kVectors]) const {
    times<kRows>([&](int r) AUTOSAMPLE_INLINE {
      float* const to = out + at[row + r] + column;
      times<kVectors>([&](int v) AUTOSAMPLE_INLINE { store(to + v * kLanes, sum[r][v]); });
    });
  }
};

// Adds a tap: `columns` rows of x, `row_x` apart.
template <int kRows, int kVectors>
inline AUTOSAMPLE_INLINE void add_tap(Vec (&sum)[kRows][kVectors], const float* panel, const float* from, int64_t row_x,
                                      int64_t columns) {
  do {
    Vec value[kVectors];
    times<kVectors>([&](int v) AUTOSAMPLE_INLINE { value[v] = kept(load(from + v * kLanes)); });
    times<kRows>([&](int r) AUTOSAMPLE_INLINE { add_product(sum[r], panel[r], value); });
    from += row_x, panel += kPanel;
  } while (--columns > 0);
}

// Adds three taps whose shifts follow each other: vectors that cross cache lines are loaded once, and then shifted.
template <int kRows, int kVectors>
inline AUTOSAMPLE_INLINE void add_three_taps(Vec (&sum)[kRows][kVectors], const float* panel, const float* from,
                                             int64_t row_x, int64_t columns) {
  const int64_t apart = columns * kPanel;
  do {
    Vec whole[kVectors + 1];
    times<kVectors + 1>([&](int v) AUTOSAMPLE_INLINE { whole[v] = kept(load(from + v * kLanes)); });
    times<3>([&](auto shift) AUTOSAMPLE_INLINE {
      Vec value[kVectors];
      times<kVectors>([&](int v) AUTOSAMPLE_INLINE { value[v] = kept(shifted<shift>(whole[v], whole[v + 1])); });
      times<kRows>([&](int r) AUTOSAMPLE_INLINE { add_product(sum[r], panel[shift * apart + r], value); });
    });
    from += row_x, panel += kPanel;
  } while (--columns > 0);
}

inline bool follow(const Term* tap) {
  return tap[1].phase == tap->phase && tap[2].phase == tap->phase && tap[1].shift == tap->shift + 1 &&
         tap[2].shift == tap->shift + 2;
}

// Taps and columns are at least one.
template <int kRows, int kVectors, typename Out>
void segment_tile(const float* panel, const float* x, int64_t row_x, const std::vector<Term>& taps, int64_t plane,
                  int64_t columns, int64_t row, int64_t column, const Out& out) {
  Vec sum[kRows][kVectors];
  clear(sum);
  const Term *tap = taps.data(), *const end = tap + taps.size();
  do {
    const float* const from = x + tap->phase * plane + tap->shift + column;
    int step = 1;
    // smaller vectors cross fewer lines, and more than two leave too few registers
    if (kLanes == 16 && kVectors < 3 && end - tap >= 3 && follow(tap)) {
      add_three_taps(sum, panel, from, row_x, columns);
      step = 3;
    } else {
      add_tap(sum, panel, from, row_x, columns);
    }
    tap += step, panel += step * columns * kPanel;
  } while (tap != end);
  out.put(row, column, sum);
}

// How far apart the signed sums of a tile are; not a multiple of the cache's sets.
inline int64_t sum_plane(const Program& p, int64_t plane) { return plane * p.input_phases() + 16; }

// Part of the bank that stays in the second-level cache while a tile goes by [floats].
constexpr int64_t kBank = 32 * 1024;

// Calls `visit(column, vectors)` for the tiles of so many columns.
template <typename F>
void for_columns(int64_t count, const F& visit) {
  int64_t vectors = (count + kLanes - 1) / kLanes;
  for (int64_t column = 0; vectors > 0;) {
    // four vectors are two and two: one alone leaves the multipliers waiting
    const int take = vectors == 4 ? 2 : static_cast<int>(std::min<int64_t>(vectors, kTileVectors));
    visit(column, take);
    column += take * kLanes;
    vectors -= take;
  }
}

// The segments of a phase whose first is row `first` of the bank, for `count` columns.
template <typename Out>
void segments(const float* bank, int64_t first, const Program& p, const float* x, int64_t row_x, int64_t plane, int phase,
              int64_t count, const Out& out) {
  auto tile = [&](int64_t row, int64_t column, int vectors) {
    const int64_t at = first + row;
    const float* panel = bank + at / kPanel * kPanel * p.depth() + at % kPanel;
    const auto& taps = p.taps[phase];
    if (vectors == 3) segment_tile<kTileRows, 3>(panel, x, row_x, taps, plane, p.columns, row, column, out);
    if (vectors == 2) segment_tile<kTileRows, 2>(panel, x, row_x, taps, plane, p.columns, row, column, out);
    if (vectors == 1) segment_tile<kTileRows, 1>(panel, x, row_x, taps, plane, p.columns, row, column, out);
  };
  if (Out::kRowByRow) {
    for (int64_t row = 0; row < p.rows; row += kTileRows) {
      for_columns(count, [&](int64_t column, int vectors) { tile(row, column, vectors); });
    }
    return;
  }
  const int64_t most = std::max<int64_t>(kBank / p.depth() / kPanel, 1) * kPanel;
  for (int64_t from = 0; from < p.rows; from += most) {
    for_columns(count, [&](int64_t column, int vectors) {
      for (int64_t row = from; row < std::min(from + most, p.rows); row += kTileRows) tile(row, column, vectors);
    });
  }
}

// All segments, each phase in its own plane of rows.
inline void segments(const float* bank, int64_t first, const Program& p, const float* x, int64_t row_x, int64_t plane,
                     float* out, const Rows& rows, int64_t count) {
  for (int phase = 0; phase < p.phases; ++phase) {
    segments(bank, first, p, x, row_x, plane, phase, count, InRows{out + phase * rows.plane, rows.at});
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

inline void add_rows(float* out, const std::vector<const float*>& from, int64_t count) {
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
inline void few_terms(const Program& p, const Pass& pass, float* segments, const Rows& rows, int64_t count) {
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
inline void running_strip(float* strip, int64_t length, int64_t rows, int64_t count) {
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

// Calls `visit(target, residue, first, last, column)` for every strip of columns of a pass whose result has `count`
// columns. Sums go over each of `step` interleaved sequences of rows; under column c lie the samples c + j*shift of
// the sequence's row j, and only rows where some of these are within the tile take part.
template <typename F>
void for_strips(const Pass& pass, const Rows& rows, int64_t count, const F& visit) {
  const int64_t width = kStrip * kLanes, in = count + Program::reach(pass);
  const int64_t total = pass.rows + (pass.count - 1) * pass.step;
  for (const Sum& sum : pass.sums) {
    for (int64_t residue = 0; residue < pass.step && residue < total; ++residue) {
      const int64_t have = (total - residue + pass.step - 1) / pass.step;
      for (int64_t c = -(have - 1) * pass.shift; c < in; c += width) {
        int64_t first = 0, last = have;
        if (pass.shift) {
          first = c + width <= 0 ? (-c - width) / pass.shift + 1 : 0;
          last = std::min<int64_t>(have, (in - 1 - c) / pass.shift + 1);
        }
        visit(sum.target, residue, first, last, c);
      }
    }
  }
}

inline void many_terms(const Pass& pass, float* segments, const Rows& rows, int64_t count) {
  for_strips(pass, rows, count, [&](int64_t target, int64_t residue, int64_t first, int64_t last, int64_t column) {
    if (last - first < pass.count) return;
    float* const base = segments + target * rows.plane + rows.at[residue] + column;
    running_strip(base + first * rows.length, rows.length, last - first, pass.count);
  });
}

inline void window_sums(const Program& p, float* segments, const Rows& rows, int64_t tile) {
  int64_t count = tile + p.halo_sum;
  for (const Pass& pass : p.passes) {
    count -= Program::reach(pass);
    pass.count ? many_terms(pass, segments, rows, count) : few_terms(p, pass, segments, rows, count);
  }
}

}  // namespace autosample
