// What a layer asks for, as the integers that program.py writes down.
#pragma once

#include <c10/util/ArrayRef.h>
#include <c10/util/Exception.h>

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
  int64_t groups, windows, columns, channels, fold, rows, relu, pool, phases;
  // as the input has it
  int64_t dim_h, dim_w, out_h, out_w, width;
  int64_t images, period;  // that lie below one another as one map, and how many rows apart
  std::vector<std::vector<Term>> taps;  // of each phase of B; `row` is unused, `phase` is that of the input
  std::vector<Pass> passes;
  std::vector<Term> last;
  int64_t halo_sum = 0, halo = 0;  // columns that B, and the input, need beyond a tile

  Program(c10::ArrayRef<int64_t> code, int64_t height, int64_t breadth, int64_t batch = 1)
      : dim_h(height), dim_w(breadth) {
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
    // a pool goes by places that are counted from the beginning of a signal
    images = pool > 1 ? 1 : batch;
    // zeros that pad a row on the right can be those that pad the next one on the left; with images likewise
    if (stride_w == 1 && dim_h * images > 1) width -= std::min({pad_w, after_w, reach_w});
    period = std::max(out_h, (dim_h + std::max(pad_h, after_h) + stride_h - 1) / stride_h);
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
  int64_t length() const { return out_h > 0 && out_w > 0 ? ((images - 1) * period + out_h - 1) * width + out_w : 0; }
  int64_t pooled() const { return pool > 1 ? out_w / pool : out_w; }
};

}  // namespace autosample
