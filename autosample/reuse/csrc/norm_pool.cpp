// Training's batch norm, max-pool and ReLU of a signal in one reading of it, and its gradient in one more.
//
// An affine map of a channel commutes with the maximum where its factor is positive, and turns it into the minimum
// where it is negative. So the extreme of each pool's window and the moments of the channel are taken together, and
// only the pooled signal is normalised: nothing of the size of the input is written on the way forward.
//
// The gradient of sample i of channel c is  a·g[i] − a·Σg/n − a·r²·S/n · (x[i] − μ),  where g is the gradient behind
// the pool, put back at the extremes, a = weight·r, r = 1/√(variance + eps) and S = Σ g·(x − μ).

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <cmath>
#include <tuple>
#include <vector>

#include "pages.h"
#include "simd.h"

namespace autosample {
namespace {

constexpr int64_t kBlock = 4096;  // samples that stay in the first-level cache

// Count, mean and sum of squared deviations, put together as by Chan, Golub and LeVeque (1979).
struct Moments {
  double count = 0, mean = 0, squares = 0;

  void add(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, apart = other.mean - mean;
    mean += apart * other.count / total;
    squares += other.squares + apart * apart * count * other.count / total;
    count = total;
  }
};

Moments moments(const float* x, int64_t count) {
  if (count == 0) return {};
  const float first = x[0];  // sums of differences from it stay small where the mean is large
  Vec sums[4] = {};
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) sums[k] += load(x + i + k * kLanes) - first;
  }
  double sum = total((sums[0] + sums[1]) + (sums[2] + sums[3]));
  for (; i < count; ++i) sum += x[i] - first;
  const float mean = static_cast<float>(first + sum / count);
  Vec squares[4] = {};
  for (i = 0; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int k = 0; k < 4; ++k) {
      const Vec apart = load(x + i + k * kLanes) - mean;
      squares[k] += apart * apart;
    }
  }
  double square = total((squares[0] + squares[1]) + (squares[2] + squares[3]));
  for (; i < count; ++i) square += static_cast<double>(x[i] - mean) * (x[i] - mean);
  const double apart = first + sum / count - mean;
  return {static_cast<double>(count), first + sum / count, square - count * apart * apart};
}

// The largest of each window (the smallest where `sign` is −1) and its place, the first one among equals.
template <int kPool>
void extremes(const float* x, int64_t windows, int64_t pool, float sign, float* extreme, uint8_t* place) {
  typedef int32_t Index __attribute__((vector_size(kLanes * 4)));
  const int64_t size = kPool > 0 ? kPool : pool;
  int64_t w = 0;
  for (; w + kLanes <= windows; w += kLanes) {
    const float* from = x + w * size;
    Vec best;
    Index at = {};
    for (int l = 0; l < kLanes; ++l) best[l] = from[l * size];
    best *= sign;
    for (int64_t j = 1; j < size; ++j) {
      Vec next;
      for (int l = 0; l < kLanes; ++l) next[l] = from[l * size + j];
      next *= sign;
      const Index better = next > best;
      best = better ? next : best;
      at = better ? Index{} + static_cast<int32_t>(j) : at;
    }
    store(extreme + w, best * sign);
    for (int l = 0; l < kLanes; ++l) place[w + l] = static_cast<uint8_t>(at[l]);
  }
  for (; w < windows; ++w) {
    int64_t at = 0;
    for (int64_t j = 1; j < size; ++j) at = sign * x[w * size + j] > sign * x[w * size + at] ? j : at;
    extreme[w] = x[w * size + at], place[w] = static_cast<uint8_t>(at);
  }
}

void any_extremes(const float* x, int64_t windows, int64_t pool, float sign, float* extreme, uint8_t* place) {
  if (pool == 8) return extremes<8>(x, windows, pool, sign, extreme, place);
  if (pool == 4) return extremes<4>(x, windows, pool, sign, extreme, place);
  if (pool == 2) return extremes<2>(x, windows, pool, sign, extreme, place);
  extremes<0>(x, windows, pool, sign, extreme, place);
}

// One channel of one signal: its moments, and the extremes of its windows.
Moments row_forward(const float* x, int64_t length, int64_t pool, float sign, float* extreme, uint8_t* place) {
  const int64_t windows = length / pool, step = std::max<int64_t>(kBlock / pool, 1);
  Moments sum;
  for (int64_t w = 0; w < windows; w += step) {
    const int64_t count = std::min(step, windows - w);
    sum.add(moments(x + w * pool, count * pool));
    any_extremes(x + w * pool, count, pool, sign, extreme + w, place + w);
  }
  sum.add(moments(x + windows * pool, length - windows * pool));
  return sum;
}

void check(const at::Tensor& x, int64_t pool) {
  TORCH_CHECK(x.dim() == 3 && x.is_contiguous() && x.scalar_type() == at::kFloat && pool >= 1 && pool <= 256 &&
                  x.size(2) >= pool,
              "norm_pool: a contiguous float batch of signals, and a pool of 1 to 256 samples within it, are needed");
}

void check(const at::Tensor& values, int64_t channels, at::ScalarType type, const char* name) {
  TORCH_CHECK(values.is_contiguous() && values.scalar_type() == type && values.numel() == channels, "norm_pool: ", name,
              " must be a number of ", type, " for each channel");
}

// A number as the sum of two floats: x − mean loses nothing then.
struct Exact {
  float high, low;
  explicit Exact(double value) : high(static_cast<float>(value)), low(static_cast<float>(value - high)) {}
};

using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;

// Output, extremes and their places, and mean and (biased) variance of each channel, in double precision.
Forward norm_pool(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias, double eps, int64_t pool) {
  check(x, pool);
  const int64_t batch = x.size(0), channels = x.size(1), length = x.size(2), windows = length / pool;
  check(weight, channels, at::kFloat, "the weight"), check(bias, channels, at::kFloat, "the bias");
  at::Tensor y = at::empty({batch, channels, windows}, x.options()), extreme = at::empty_like(y);
  at::Tensor place = at::empty({batch, channels, windows}, x.options().dtype(at::kByte));
  at::Tensor mean = at::empty({channels}, x.options().dtype(at::kDouble)), variance = at::empty_like(mean);
  const float *from = x.const_data_ptr<float>(), *factor = weight.const_data_ptr<float>();
  const float* shift = bias.const_data_ptr<float>();
  float *to = y.mutable_data_ptr<float>(), *peak = extreme.mutable_data_ptr<float>();
  uint8_t* at = place.mutable_data_ptr<uint8_t>();
  std::vector<Moments> rows(batch * channels);
  at::parallel_for(0, batch * channels, 1 + kBlock / length, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float sign = factor[r % channels] < 0 ? -1.f : 1.f;
      rows[r] = row_forward(from + r * length, length, pool, sign, peak + r * windows, at + r * windows);
    }
  });
  double *middle = mean.mutable_data_ptr<double>(), *spread = variance.mutable_data_ptr<double>();
  for (int64_t c = 0; c < channels; ++c) {  // always in this order, so that results do not depend on threads
    Moments sum;
    for (int64_t b = 0; b < batch; ++b) sum.add(rows[b * channels + c]);
    middle[c] = sum.mean, spread[c] = sum.squares / sum.count;
  }
  at::parallel_for(0, batch * channels, 1 + kBlock / windows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t c = r % channels;
      const Exact m(middle[c]);
      const float slope = static_cast<float>(factor[c] / std::sqrt(spread[c] + eps)), level = shift[c] - m.low * slope;
      for (int64_t w = r * windows; w < (r + 1) * windows; ++w) {
        const float value = (peak[w] - m.high) * slope + level;
        to[w] = value < 0 ? 0 : value;  // a NaN stays
      }
    }
  });
  return {y, extreme, place, mean, variance};
}

// Σ g and Σ g·(x − μ) of a row; `g` is the gradient before the ReLU.
std::pair<double, double> row_sums(const float* grad, const float* y, const float* extreme, int64_t count, Exact mean) {
  double sum = 0, product = 0;
  for (int64_t start = 0; start < count; start += kBlock) {
    float s = 0, p = 0;
    const int64_t end = std::min(count, start + kBlock);
#pragma omp simd reduction(+ : s, p)
    for (int64_t w = start; w < end; ++w) {
      const float g = y[w] <= 0 ? 0 : grad[w];
      s += g, p += g * (extreme[w] - mean.high);
    }
    sum += s, product += p;
  }
  return {sum, product - sum * mean.low};
}

// The gradient of a channel's samples: tilt·(x − mean) + level, and slope·g at the extremes.
struct Line {
  float slope, tilt, mean, level;
  Line(double slope, double level, double tilt, double mean)
      : slope(slope), tilt(tilt), mean(mean), level(level - tilt * (mean - this->mean)) {}
};

void row_backward(const Line& line, const float* x, int64_t length, int64_t pool, const float* grad, const float* y,
                  const uint8_t* place, float* out) {
  const int64_t windows = length / pool, step = kBlock / pool * pool;
  for (int64_t start = 0; start < length; start += step) {
    const int64_t stop = std::min(length, start + step);
    for (int64_t i = start; i < stop; ++i) out[i] = line.tilt * (x[i] - line.mean) + line.level;
    for (int64_t w = start / pool; w < std::min(stop / pool, windows); ++w) {
      if (!(y[w] <= 0)) out[w * pool + place[w]] += line.slope * grad[w];
    }
  }
}

// Gradients of the input, the weight and the bias.
std::tuple<at::Tensor, at::Tensor, at::Tensor> norm_pool_backward(
    const at::Tensor& grad, const at::Tensor& x, const at::Tensor& y, const at::Tensor& extreme, const at::Tensor& place,
    const at::Tensor& mean, const at::Tensor& variance, const at::Tensor& weight, double eps, int64_t pool) {
  check(x, pool);
  const int64_t batch = x.size(0), channels = x.size(1), length = x.size(2), windows = length / pool;
  check(weight, channels, at::kFloat, "the weight"), check(mean, channels, at::kDouble, "the mean");
  check(variance, channels, at::kDouble, "the variance");
  for (const at::Tensor* t : {&grad, &y, &extreme, &place}) {
    TORCH_CHECK(t->is_contiguous() && t->numel() == batch * channels * windows &&
                    t->scalar_type() == (t == &place ? at::kByte : at::kFloat),
                "norm_pool_backward: what the pool left does not fit the input");
  }
  TORCH_CHECK(place.numel() == 0 || place.max().item<uint8_t>() < pool,
              "norm_pool_backward: places must lie within their windows");
  const float *from = x.const_data_ptr<float>(), *out = y.const_data_ptr<float>(), *up = grad.const_data_ptr<float>();
  const float* peak = extreme.const_data_ptr<float>();
  const double *middle = mean.const_data_ptr<double>(), *spread = variance.const_data_ptr<double>();
  const uint8_t* at = place.const_data_ptr<uint8_t>();
  std::vector<std::pair<double, double>> rows(batch * channels);
  at::parallel_for(0, batch * channels, 1 + kBlock / windows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t w = r * windows;
      rows[r] = row_sums(up + w, out + w, peak + w, windows, Exact(middle[r % channels]));
    }
  });
  at::Tensor d_x = at::empty_like(x), d_weight = at::empty_like(weight), d_bias = at::empty_like(weight);
  want_large_pages(d_x);
  std::vector<Line> lines;
  for (int64_t c = 0; c < channels; ++c) {
    double sum = 0, product = 0;
    for (int64_t b = 0; b < batch; ++b) sum += rows[b * channels + c].first, product += rows[b * channels + c].second;
    const double scale = 1 / std::sqrt(spread[c] + eps), n = double(batch) * length;
    const double a = weight.const_data_ptr<float>()[c] * scale;
    d_weight.mutable_data_ptr<float>()[c] = static_cast<float>(product * scale);
    d_bias.mutable_data_ptr<float>()[c] = static_cast<float>(sum);
    lines.emplace_back(a, -a * sum / n, -a * scale * scale * product / n, middle[c]);
  }
  float* to = d_x.mutable_data_ptr<float>();
  at::parallel_for(0, batch * channels, 1 + kBlock / length, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t w = r * windows;
      row_backward(lines[r % channels], from + r * length, length, pool, up + w, out + w, at + w, to + r * length);
    }
  });
  return {d_x, d_weight, d_bias};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(autosample, m) {
  m.def(
      "norm_pool(Tensor x, Tensor weight, Tensor bias, float eps, int pool) -> "
      "(Tensor, Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "norm_pool_backward(Tensor grad, Tensor x, Tensor y, Tensor extreme, Tensor place, Tensor mean, "
      "Tensor variance, Tensor weight, float eps, int pool) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(autosample, CPU, m) {
  m.impl("norm_pool", norm_pool);
  m.impl("norm_pool_backward", norm_pool_backward);
}

}  // namespace autosample
