// Convolution with filters that are windows of a summary, each piece of work done once.
//
// The caller describes the layer as a program of integers (see schedule.py): which input samples the segments of the
// summary meet, which shifted sums turn segments into windows, and which windows make an output channel. Work goes
// tile by tile, so that all intermediate results stay in cache:
//
//   pack     input channels of the tile, channel groups added up where they share their offsets
//   segments B[row](u) = sum over taps and columns of bank[row] * x
//   sums     in place: D[row](u) = sum over r of B[row + r*step](u + r*shift)
//   select   y[n](u) = factor * sum over groups of D[offset[n, g]](u) + bias + more, then ReLU and max-pool
//
// Positions u run over the flattened output map; `width` is the length of a row of it with its padding.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <optional>
#include <tuple>
#include <vector>

#include "adjoint.h"
#include "narrow.h"
#include "pages.h"
#include "segments.h"
#include "select.h"
#include "tile.h"

namespace autosample {
namespace {

Program read(c10::ArrayRef<int64_t> program, const at::Tensor& x, int64_t batch = 1) {
  TORCH_CHECK(x.dim() == 3 || x.dim() == 4, "window_conv: a batch of signals or images is needed");
  const Program p(program, x.dim() == 4 ? x.size(2) : 1, x.size(-1), batch);
  TORCH_CHECK(x.dim() == 4 ? p.pool == 1 : p.out_h == 1, "window_conv: the program and the input differ in their axes");
  return p;
}

// The program has `p.images` of the batch in one map, all or one. `more` is added to `y`, if there is one.
template <typename T>
void run_wide(const Program& p, const Selection& s, const float* bank, const T* x, More<T> more, T* y, int64_t batch) {
  batch /= p.images;
  const int64_t tile = tile_length(p, batch * p.groups), tiles = (p.length() + tile - 1) / tile;
  // columns beyond a tile hold rubbish that strips and vectors may touch
  const Rows rows(p, tile + p.halo_sum + 2 * kTileVectors * kLanes);
  const int64_t row_x = padded_row(tile + p.halo + kTileVectors * kLanes);
  const int64_t block = rows.plane * p.phases, plane_x = p.columns * row_x, margin = rows.length;
  const int64_t apart = sum_plane(p, plane_x);
  const Select select(p, s, rows, block);
  const bool alike = are_segments(p, s);
  const int64_t image_in = p.channels * p.groups * p.dim_h * p.dim_w;
  const int64_t image_out = s.filters_out * (p.pool > 1 ? p.pooled() : p.out_h * p.out_w);
  at::parallel_for(0, batch * p.groups * tiles, grain((tile + p.halo) * column_work(p)), [&](int64_t begin, int64_t end) {
    const int64_t size = block * p.blocks() + apart * p.sums() + tile + p.pool + 4 * kLanes;
    std::vector<const float*> from_sums(p.sums());
    float* const sums = scratch(2 * margin + size) + margin;
    float* const input = sums + block * p.blocks() + margin;
    float* const line = input + apart * p.sums();
    for (int64_t item = begin; item < end; ++item) {
      const int64_t start = item % tiles * tile, image = item / tiles / p.groups, group = item / tiles % p.groups;
      const int64_t count = std::min(tile, p.length() - start);
      const T* from = x + image * image_in + group * p.channels * p.dim_h * p.dim_w;
      const auto pieces = input_pieces(p, start, count + p.halo);
      const auto runs = output_runs(p, start, count, image_out);
      if (p.folds) {
        for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
          for (int64_t q = 0; p.reads[phase] && q < p.columns; ++q) {
            pack_sums(from, p, q, pieces[phase], count + p.halo, input + phase * plane_x + q * row_x, apart,
                      from_sums.data());
          }
        }
        const bool at_once = alike && runs.size() == 1 && !runs[0].from && runs[0].count == count;
        for (int64_t b = 0; b < p.folds; ++b) {  // a block's bank and sums stay in the first-level cache
          if (at_once) {
            const InMap<T> out(p, s, filters_of(p, s, 0, b), runs[0], select.size, more + image * image_out,
                               y + image * image_out);
            segments(bank, b * p.rows, p, input + b % p.sums() * apart, row_x, plane_x, 0, count, out);
            continue;
          }
          segments(bank, b * p.rows, p, input + b % p.sums() * apart, row_x, plane_x, sums, rows, count + p.halo_sum);
          window_sums(p, sums, rows, count);
          select(p, s, filters_of(p, s, 0, b), sums, runs, line, more + image * image_out, y + image * image_out);
        }
        continue;
      }
      for (int64_t g = 0; g < p.blocks(); ++g) {
        for (int64_t phase = 0; phase < p.input_phases(); ++phase) {
          for (int64_t q = 0; p.reads[phase] && q < p.columns; ++q) {
            pack_column(from, p, g, q, pieces[phase], input + phase * plane_x + q * row_x, 1);
          }
        }
        segments(bank, 0, p, input, row_x, plane_x, sums + g * block, rows, count + p.halo_sum);
        window_sums(p, sums + g * block, rows, count);
      }
      select(p, s, filters_of(p, s, group, 0), sums, runs, line, more, y + image * image_out);
    }
  });
}

bool is_narrow(const Program& p) {
  for (const Pass& pass : p.passes) {
    if (pass.sums.size() > kMostSums) return false;
  }
  return p.length() + p.halo_sum <= 24;
}

// Columns of segments that are computed for a batch.
int64_t columns(const Program& p, int64_t batch) {
  const int64_t tile = tile_length(p, batch / p.images * p.groups), tiles = (p.length() + tile - 1) / tile;
  return batch / p.images * tiles * round_up(tile + p.halo_sum, kLanes);
}

// `alone` is the program for one image.
template <typename T>
void run(const Program& alone, c10::ArrayRef<int64_t> program, const Selection& s, const float* bank, const at::Tensor& x,
         const std::optional<at::Tensor>& more, at::Tensor& y) {
  const T* const from = x.const_data_ptr<T>();
  const T* const map = more ? more->const_data_ptr<T>() : nullptr;
  const More<T> added{map, map ? map + more->numel() : nullptr};
  T* to = y.mutable_data_ptr<T>();
  const int64_t batch = x.size(0);
  if (is_narrow(alone) && !alone.folds) return run_narrow(alone, s, bank, from, to, batch);
  if (batch == 1) return run_wide(alone, s, bank, from, added, to, batch);
  const Program together = read(program, x, batch);
  // small images waste much on their ends, but several of them make larger tiles, which go less well with the cache
  run_wide(columns(together, batch) < 0.95 * columns(alone, batch) ? together : alone, s, bank, from, added, to, batch);
}

// Checks everything that the kernels rely on.
Selection check(const Program& p, const at::Tensor& input, const at::Tensor& bank, const at::Tensor& rows,
                const std::optional<at::Tensor>& factors) {
  TORCH_CHECK(input.size(1) == p.groups * p.channels, "window_conv: expected ", p.groups * p.channels,
              " input channels, got ", input.size(1));
  TORCH_CHECK(bank.is_contiguous() && bank.scalar_type() == at::kFloat &&
                  bank.numel() == round_up(p.bank_rows(), kPanel) * p.depth(),
              "window_conv: the bank does not fit the program");
  TORCH_CHECK(rows.is_contiguous() && rows.scalar_type() == at::kInt && rows.dim() == 2 && rows.size(1) == p.blocks() &&
                  rows.size(0) % p.groups == 0,
              "window_conv: the table of offsets does not fit the program");
  Selection s{rows.const_data_ptr<int32_t>(), nullptr, nullptr, rows.size(0) / p.groups, 0, rows.size(0)};
  int64_t reach = 0;
  for (const Term& term : p.last) reach = std::max(reach, term.row);
  const int64_t limit = (p.passes.empty() ? p.rows : p.passes.back().rows) - reach;
  for (int64_t i = 0; i < rows.numel(); ++i) {
    TORCH_CHECK(s.rows[i] >= 0 && s.rows[i] < limit, "window_conv: an offset lies outside of the bank");
  }
  if (factors) {
    TORCH_CHECK(factors->is_contiguous() && factors->scalar_type() == at::kFloat && factors->dim() == 2 &&
                    factors->size(0) == s.filters_out && (factors->size(1) == 1 || factors->size(1) == p.blocks()),
                "window_conv: factors must be a table of floats for each filter, or filter and window");
    s.factors = factors->const_data_ptr<float>(), s.factor_count = factors->size(1);
  }
  return s;
}

at::Tensor window_conv(const at::Tensor& x, const at::Tensor& bank, const at::Tensor& rows,
                       const std::optional<at::Tensor>& factors, const std::optional<at::Tensor>& bias,
                       c10::ArrayRef<int64_t> program, const std::optional<at::Tensor>& more) {
  const Program p = read(program, x);
  const at::Tensor input = x.contiguous();
  Selection s = check(p, input, bank, rows, factors);
  if (bias) {
    TORCH_CHECK(bias->is_contiguous() && bias->scalar_type() == at::kFloat && bias->numel() == s.filters_out,
                "window_conv: the bias must be a float for each filter");
    s.bias = bias->const_data_ptr<float>();
  }
  std::vector<int64_t> shape{input.size(0), s.filters_out};
  if (input.dim() == 4) shape.push_back(p.out_h);
  shape.push_back(p.pool > 1 ? p.pooled() : p.out_w);
  at::Tensor y = at::empty(shape, input.options());
  std::optional<at::Tensor> added;
  if (more) {
    TORCH_CHECK(p.folds && p.pool == 1, "window_conv: only a layer with folds and without a pool adds a map");
    TORCH_CHECK(more->sizes() == y.sizes() && more->scalar_type() == y.scalar_type(),
                "window_conv: the map that is added must have the shape and type of the output");
    added = more->contiguous();
  }
  if (y.numel() == 0) return y;
  want_large_pages(y);
  if (input.scalar_type() == at::kFloat) {
    run<float>(p, program, s, bank.const_data_ptr<float>(), input, added, y);
  } else {
    TORCH_CHECK(input.scalar_type() == at::kBFloat16, "window_conv: float32 and bfloat16 only");
    run<c10::BFloat16>(p, program, s, bank.const_data_ptr<float>(), input, added, y);
  }
  return y;
}

// Gradients of input and bank, the latter as (segments * step, columns); those not wanted are empty.
std::tuple<at::Tensor, at::Tensor> window_conv_backward(const at::Tensor& grad, const at::Tensor& x,
                                                        const at::Tensor& bank, const at::Tensor& rows,
                                                        const std::optional<at::Tensor>& factors,
                                                        c10::ArrayRef<int64_t> program, bool want_x, bool want_bank) {
  const Program p = read(program, x);
  const at::Tensor input = x.contiguous(), from = grad.contiguous();
  const Selection s = check(p, input, bank, rows, factors);
  TORCH_CHECK(input.scalar_type() == at::kFloat && from.scalar_type() == at::kFloat && p.pool == 1 && !p.relu && !p.folds &&
                  from.numel() == input.size(0) * s.filters_out * p.out_h * p.out_w,
              "window_conv_backward: float32, and the program of a layer by itself, only");
  const int64_t threads = at::get_num_threads(), size = round_up(p.rows, kPanel) * p.depth();
  at::Tensor grad_x = want_x ? at::zeros(input.sizes(), input.options()) : at::empty({0}, input.options());
  at::Tensor parts = at::zeros({want_bank ? threads : 0, size}, input.options());
  if (from.numel() > 0) {
    const Gradients out{want_x ? grad_x.mutable_data_ptr<float>() : nullptr,
                        want_bank ? parts.mutable_data_ptr<float>() : nullptr, size};
    run_adjoint(p, s, bank.const_data_ptr<float>(), input.const_data_ptr<float>(), from.const_data_ptr<float>(),
                input.size(0), out);
  }
  if (!want_bank) return {grad_x, parts};
  return {grad_x, parts.sum(0).narrow(0, 0, p.rows * p.depth()).view({-1, p.columns})};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(autosample, m) {
  m.def(
      "window_conv(Tensor x, Tensor bank, Tensor rows, Tensor? factors, Tensor? bias, int[] program, "
      "Tensor? more=None) -> Tensor");
  m.def(
      "window_conv_backward(Tensor grad, Tensor x, Tensor bank, Tensor rows, Tensor? factors, int[] program, "
      "bool want_x, bool want_bank) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(autosample, CPU, m) {
  m.impl("window_conv", window_conv);
  m.impl("window_conv_backward", window_conv_backward);
}

}  // namespace autosample
