// A linear layer with folds: signed sums of the feature groups of a few rows, then one product per block of filters.
//
// Vectors run along the filters, so the bank has 16 of a block side by side for each feature. The sums of a tile of rows
// stay in the second-level cache while the blocks go by.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <optional>
#include <vector>

#include "pages.h"
#include "segments.h"
#include "tile.h"

namespace autosample {
namespace {

constexpr int kPerPanel = kPanel / kLanes;      // vectors of 16 filters
constexpr int kPanels = kLanes == 16 ? 4 : 1;   // taken along at once: 24 accumulators of 32 registers, or 12 of 16
constexpr int kRowsAtOnce = 6;
constexpr int64_t kSums = 48 * 1024;            // floats of sums that a tile of rows may have

struct Linear {
  int64_t features, windows, columns, blocks, filters, relu;
  int64_t order = 1, apart = 0, row = 0, panels = 0;

  explicit Linear(c10::ArrayRef<int64_t> code) {
    TORCH_CHECK(code.size() == 6, "folded_linear: the program must have 6 numbers, got ", code.size());
    int64_t* const fields[] = {&features, &windows, &columns, &blocks, &filters, &relu};
    for (int i = 0; i < 6; ++i) {
      TORCH_CHECK(code[i] >= (i < 5) && code[i] < int64_t{1} << 24, "folded_linear: a number is out of range");
      *fields[i] = code[i];
    }
    TORCH_CHECK(blocks <= filters && windows * columns >= features && (windows - 1) * columns < features && relu < 2,
                "folded_linear: the numbers do not fit together");
    while (order < windows) order *= 2;
    apart = round_up(columns, kLanes);
    row = order * apart + 16;
    panels = (filters + blocks - 1) / blocks;
    panels = (panels + kPanel - 1) / kPanel;
    TORCH_CHECK(double(row) * 2 < kFar && double(blocks) * panels * columns * kPanel < kFar,
                "folded_linear: it is too large");
  }
  // Filter n of N is in block floor(n * blocks / N).
  int64_t first(int64_t block) const { return (block * filters + blocks - 1) / blocks; }

  static constexpr double kFar = 1u << 27;
};

template <typename T>
void pack_row(const T* x, const Linear& p, float* out, const float** from) {
  for (int64_t g = 0; g < p.order; ++g) {
    float* const to = out + g * p.apart;
    const int64_t have = std::clamp<int64_t>(p.features - g * p.columns, 0, p.columns);
    from[g] = to;
    if constexpr (std::is_same_v<T, float>) {
      if (have == p.apart) {
        from[g] = x + g * p.columns;
        continue;
      }
    }
    for (int64_t i = 0; i < have; ++i) to[i] = float(x[g * p.columns + i]);
    std::fill(to + have, to + p.apart, 0.f);
  }
  hadamard(from, out, p.apart, p.order, p.apart);
}

struct Out {
  int64_t stride, count;  // how far apart rows are, and how many filters of the panels there are
  const float* bias;
  Vec floor;
};

// So many rows by the filters of so many panels, which are `apart` floats from each other.
template <int kRows, int kTogether, typename T>
void multiply(const float* panel, int64_t apart, const float* x, int64_t row, int64_t columns, const Out& o, T* y) {
  constexpr int kVectors = kTogether * kPerPanel;
  Vec sum[kRows][kVectors];
  clear(sum);
  for (int64_t q = 0; q < columns; ++q, panel += kPanel) {
    Vec value[kVectors];
    times<kVectors>([&](int v) AUTOSAMPLE_INLINE {
      value[v] = kept(load(panel + v / kPerPanel * apart + v % kPerPanel * kLanes));
    });
    times<kRows>([&](int r) AUTOSAMPLE_INLINE { add_product(sum[r], x[r * row + q], value); });
  }
  times<kVectors>([&](int v) AUTOSAMPLE_INLINE {
    const int64_t left = std::min<int64_t>(o.count - v * kLanes, kLanes);
    if (left <= 0) return;
    Vec bias = {};
    if (o.bias && left == kLanes) bias = load(o.bias + v * kLanes);
    else if (o.bias) std::memcpy(&bias, o.bias + v * kLanes, left * sizeof(float));
    times<kRows>([&](int r) AUTOSAMPLE_INLINE {
      T* const to = y + r * o.stride + v * kLanes;
      const Vec value = maximum(sum[r][v] + bias, o.floor);
      if (left == kLanes) store_as(to, value, kLanes);
      else store_as(to, value, static_cast<int>(left));
    });
  });
}

// Rows `r` to `r + kRows` for the panels of a block: neighbouring filters are written one after the other, because rows
// of the output may all lie on the same sets of the cache.
template <int kRows, typename T>
void multiply_panels(const float* bank, const float* x, const Linear& p, const float* bias, int64_t count, T* y) {
  const int64_t apart = p.columns * kPanel;
  for (int64_t n = 0; n < count;) {
    const int64_t left = (count - n + kPanel - 1) / kPanel, panels = left >= kPanels ? kPanels : std::min<int64_t>(left, 2);
    const Out o{p.filters, std::min(count - n, panels * kPanel), bias ? bias + n : nullptr,
                (p.relu ? 0.f : -__builtin_inff()) - Vec{}};
    const auto part = panels == kPanels ? multiply<kRows, kPanels, T>
                      : panels == 2     ? multiply<kRows, 2, T>
                                        : multiply<kRows, 1, T>;
    part(bank + n * p.columns, apart, x, p.row, p.columns, o, y + n);
    n += panels * kPanel;
  }
}

template <typename T>
void multiply_block(const float* bank, const float* x, const Linear& p, const float* bias, int64_t count, T* y,
                    int64_t rows) {
  int64_t r = 0;
  for (; r + kRowsAtOnce <= rows; r += kRowsAtOnce) {
    multiply_panels<kRowsAtOnce>(bank, x + r * p.row, p, bias, count, y + r * p.filters);
  }
  for (; r + 4 <= rows; r += 4) multiply_panels<4>(bank, x + r * p.row, p, bias, count, y + r * p.filters);
  for (; r + 2 <= rows; r += 2) multiply_panels<2>(bank, x + r * p.row, p, bias, count, y + r * p.filters);
  for (; r < rows; ++r) multiply_panels<1>(bank, x + r * p.row, p, bias, count, y + r * p.filters);
}

template <typename T>
void run(const Linear& p, const float* bank, const float* bias, const T* x, T* y, int64_t rows) {
  const int64_t most = std::max<int64_t>(kSums / p.row / kRowsAtOnce, 1) * kRowsAtOnce;
  const int64_t threads = std::max(at::get_num_threads(), 1);
  // every thread should have a tile, of the same size
  const int64_t tiles = std::max((rows + most - 1) / most, std::min(threads, (rows + kRowsAtOnce - 1) / kRowsAtOnce));
  const int64_t tile = round_up((rows + tiles - 1) / tiles, kRowsAtOnce), count = (rows + tile - 1) / tile;
  const int64_t together = std::max<int64_t>(kBank / (p.columns * kPanel), 1) * kPanel;  // filters
  const double work = double(tile) * p.filters * p.columns;
  at::parallel_for(0, count, grain(work), [&](int64_t begin, int64_t end) {
    float* const sums = scratch<Linear>(tile * p.row);
    std::vector<const float*> from(p.order);
    for (int64_t item = begin; item < end; ++item) {
      const int64_t start = item * tile, here = std::min(tile, rows - start);
      for (int64_t r = 0; r < here; ++r) pack_row(x + (start + r) * p.features, p, sums + r * p.row, from.data());
      for (int64_t b = 0; b < p.blocks; ++b) {
        const int64_t end_n = p.first(b + 1);
        for (int64_t n = p.first(b); n < end_n; n += together) {
          const float* const part = bank + (b * p.panels * kPanel + n - p.first(b)) * p.columns;
          multiply_block(part, sums + b % p.order * p.apart, p, bias ? bias + n : nullptr, std::min(together, end_n - n),
                         y + start * p.filters + n, here);
        }
      }
    }
  });
}

// x is (rows, features), bank (blocks * panels, columns, 16).
at::Tensor folded_linear(const at::Tensor& x, const at::Tensor& bank, const std::optional<at::Tensor>& bias,
                         c10::ArrayRef<int64_t> program) {
  const Linear p(program);
  TORCH_CHECK(x.dim() == 2 && x.size(1) == p.features, "folded_linear: expected rows of ", p.features, " features");
  TORCH_CHECK(bank.is_contiguous() && bank.scalar_type() == at::kFloat &&
                  bank.numel() == p.blocks * p.panels * p.columns * kPanel,
              "folded_linear: the bank does not fit the program");
  TORCH_CHECK(!bias || (bias->is_contiguous() && bias->scalar_type() == at::kFloat && bias->numel() == p.filters),
              "folded_linear: the bias must be a float for each filter");
  const at::Tensor input = x.contiguous();
  at::Tensor y = at::empty({input.size(0), p.filters}, input.options());
  if (y.numel() == 0) return y;
  want_large_pages(y);
  const float* const more = bias ? bias->const_data_ptr<float>() : nullptr;
  const float* const numbers = bank.const_data_ptr<float>();
  if (input.scalar_type() == at::kFloat) {
    run(p, numbers, more, input.const_data_ptr<float>(), y.mutable_data_ptr<float>(), input.size(0));
  } else {
    TORCH_CHECK(input.scalar_type() == at::kBFloat16, "folded_linear: float32 and bfloat16 only");
    run(p, numbers, more, input.const_data_ptr<c10::BFloat16>(), y.mutable_data_ptr<c10::BFloat16>(), input.size(0));
  }
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(autosample, m) {
  m.def("folded_linear(Tensor x, Tensor bank, Tensor? bias, int[] program) -> Tensor");
}
TORCH_LIBRARY_IMPL(autosample, CPU, m) { m.impl("folded_linear", folded_linear); }

}  // namespace autosample
