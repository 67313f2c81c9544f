// What a layer asks for, as the integers that program.py writes down.
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "simd.h"

namespace autosample {

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
  int64_t groups, windows, columns, channels, fold, folds, rows, relu, pool, phases;
  // as the input has it
  int64_t dim_h, dim_w, out_h, out_w, width;
  int64_t images, period;  // that lie below one another as one map, and how many rows apart
  std::vector<std::vector<Term>> taps;  // of each phase of B; `row` is unused, `phase` is that of the input
  std::vector<Pass> passes;
  std::vector<Term> last;
  int64_t halo_sum = 0, halo = 0;  // columns that B, and the input, need beyond a tile
  std::vector<char> reads;         // whether any tap reads a phase of the input

  // Reads and checks a program: with one that passes, no kernel leaves its memory, whatever the numbers are.
  Program(c10::ArrayRef<int64_t> code, int64_t height, int64_t breadth, int64_t batch = 1)
      : dim_h(height), dim_w(breadth), left(code) {
    check(std::max(dim_h, dim_w) < kFar && static_cast<int64_t>(code.size()) < kMost, "it or its input is too large");
    int64_t* const header[] = {&stride_h, &stride_w, &pad_h,   &pad_w,    &after_h, &after_w, &reach_h, &reach_w, &groups,
                               &windows,  &columns,  &channels, &fold,    &folds,   &rows,    &relu,    &pool,    &phases};
    for (int64_t* field : header) *field = next(0);
    check(std::min({stride_h, stride_w, groups, windows, columns, channels, rows, pool, phases}) > 0, "a size is 0");
    check(phases <= std::min<int64_t>(input_phases(), left.size()), "more phases than the stride has");
    check(!folds || (fold == 1 && groups == 1 && rows % kBlock == 0), "folds of something else");
    check(fold < 2 && relu < 2 && (windows - 1) * columns < channels, "windows without channels");
    TORCH_CHECK(dim_h + pad_h + after_h > reach_h && dim_w + pad_w + after_w > reach_w,
                "window_conv: the kernel can't be larger than the padded input");
    out_h = (dim_h + pad_h + after_h - reach_h - 1) / stride_h + 1;
    out_w = (dim_w + pad_w + after_w - reach_w - 1) / stride_w + 1;
    width = out_w + reach_w / stride_w;
    // a pool goes by places that are counted from the beginning of a signal
    images = pool > 1 ? 1 : batch;
    // zeros that pad a row on the right can be those that pad the next one on the left; with images likewise
    if (stride_w == 1 && dim_h * images > 1) width -= std::min({pad_w, after_w, reach_w});
    period = std::max(out_h, (dim_h + std::max(pad_h, after_h) + stride_h - 1) / stride_h);
    read_steps();
    halo_sum = reach(last);
    for (const Pass& pass : passes) {
      halo_sum += reach(pass);
      check(halo_sum < kFar, "a shift is too large");
    }
    int64_t most = 0;
    for (const auto& list : taps) most = std::max(most, reach(list));
    reads.assign(input_phases(), false);
    for (const auto& list : taps) {
      for (const Term& tap : list) reads[tap.phase] = true;
    }
    halo = halo_sum + most;
    check_size();
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
  // Rows of the bank: every block of filters has some of its own.
  int64_t bank_rows() const { return rows * std::max<int64_t>(folds, 1); }
  // How many sums of the channel groups there are: with signs, as many as the Hadamard matrix has rows.
  int64_t sums() const {
    int64_t order = 1;
    while (folds && order < windows) order *= 2;
    return order;
  }
  int64_t input_phases() const { return stride_h * stride_w; }
  int64_t phases_read() const { return std::count(reads.begin(), reads.end(), true); }
  int64_t depth() const { return static_cast<int64_t>(taps[0].size()) * columns; }
  int64_t length() const { return out_h > 0 && out_w > 0 ? ((images - 1) * period + out_h - 1) * width + out_w : 0; }
  int64_t pooled() const { return pool > 1 ? out_w / pool : out_w; }

 private:
  // Largest number in a program, and largest distance: sums and products of a few of them do not overflow.
  static constexpr int64_t kMost = int64_t{1} << 24, kFar = int64_t{1} << 31;
  c10::ArrayRef<int64_t> left;  // what is still to be read

  static void check(bool right, const char* wrong) {
    TORCH_CHECK(right, "window_conv: the program is broken (", wrong, ")");
  }
  int64_t next(int64_t least, int64_t end = kMost) {
    check(!left.empty(), "it ends too early");
    const int64_t value = left.front();
    check(value >= least && value < end, "a number is out of range");
    left = left.slice(1);
    return value;
  }
  // How many items follow, `each` of so many numbers at least.
  int64_t many(int64_t least, int64_t each) { return next(least, static_cast<int64_t>(left.size()) / each + 1); }
  int64_t shift() {
    const int64_t down = next(0, reach_h / stride_h + 1), right = next(0, reach_w / stride_w + 1);
    check(down * width + right < kFar, "a shift is too large");
    return down * width + right;
  }
  // Terms that read rows and phases of what the step before has made.
  void terms(std::vector<Term>& list, int64_t rows_there, int64_t phases_there) {
    list.resize(many(1, 4));
    for (Term& term : list) term.row = next(0, rows_there), term.phase = next(0, phases_there), term.shift = shift();
  }
  void read_steps() {
    taps.resize(phases);
    for (auto& list : taps) {
      terms(list, 1, input_phases());
      check(list.size() == taps[0].size(), "phases differ in their taps");
    }
    passes.resize(many(0, 4));
    int64_t there = rows;
    for (Pass& pass : passes) {
      pass.rows = next(1, there + 1), pass.count = next(0);
      if (pass.count) {
        check(pass.count > 1 && running() == &pass, "two running sums");
        pass.step = next(1), pass.shift = shift();
        check((pass.count - 1) * pass.shift <= reach_h * width + reach_w, "a sum reaches too far");
        check(pass.rows + (pass.count - 1) * pass.step == there, "a sum reads rows that are not there");
      }
      pass.sums.resize(many(1, 1));
      for (Sum& sum : pass.sums) {
        sum.target = next(0, phases);
        if (!pass.count) terms(sum.terms, there - pass.rows + 1, phases);
      }
      there = pass.rows;
    }
    terms(last, there, phases);
    check(left.empty(), "it is too long");
  }
  // Every size that a kernel computes is at most a few times one of these, so none overflows.
  void check_size() const {
    const double along = double(images) * period * width + 4. * halo + double(pool) * kLanes + 4096;
    const double planes = (4. * rows + 64) * phases * blocks() + (columns + 16.) * input_phases() * sums();
    const double bank = (bank_rows() + 64.) * taps[0].size() * (columns + 16.);
    const double input = double(images) * channels * groups * dim_h * dim_w;
    check(std::max({along * planes, bank, input}) < 1e18, "it or its input is too large");
  }
};

}  // namespace autosample
