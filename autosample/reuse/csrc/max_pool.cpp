// Max-pool of maps in torch's usual layout, for inference. Vectors run along the rows of a map: first the maxima of the
// rows of a window, then those along the row. torch's own goes number by number in this layout.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <limits>

#include "pages.h"
#include "tile.h"

namespace autosample {
namespace {

struct Window {
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w;
};

// The maxima of the rows `from` to `to` of a map.
template <typename T>
void over_rows(const T* x, int64_t from, int64_t to, int64_t width, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    Vec most = load_as(x + from * width + i);
    for (int64_t row = from + 1; row < to; ++row) most = larger(most, load_as(x + row * width + i));
    store(out + i, most);
  }
  for (; i < width; ++i) {
    float most = float(x[from * width + i]);
    for (int64_t row = from + 1; row < to; ++row) {
      const float value = float(x[row * width + i]);
      most = most < value || value != value ? value : most;
    }
    out[i] = most;
  }
}

// In place: each number becomes the maximum of itself and the `kernel - 1` numbers after it. Pairs, fours, and so on.
void along_row(float* line, int64_t count, int64_t kernel) {
  for (int64_t width = 1, next; width < kernel; width = next) {
    next = std::min(2 * width, kernel);
    for (int64_t i = 0; i < count; i += kLanes) store(line + i, larger(load(line + i), load(line + i + next - width)));
  }
}

template <typename T>
void every(const float* line, int64_t stride, int64_t count, T* out) {
  int64_t i = 0;
  if (stride <= 2) {
    for (; i < count; i += kLanes) {
      const Vec value = stride == 1 ? load(line + i) : every_second(line + 2 * i);
      store_as(out + i, value, static_cast<int>(std::min<int64_t>(count - i, kLanes)));
    }
  }
  for (; i < count; ++i) out[i] = T(line[i * stride]);
}

template <typename T>
void pool(const T* x, T* y, const Window& w, int64_t height, int64_t width, int64_t out_h, int64_t out_w, int64_t maps) {
  const int64_t needed = std::max((out_w - 1) * w.stride_w + 1, width + w.pad_w) + w.kernel_w;
  const int64_t size = needed + 4 * kLanes;  // vectors reach beyond the end
  at::parallel_for(0, maps, grain(double(height) * width * w.kernel_h), [&](int64_t begin, int64_t end) {
    float* const line = scratch<Window>(size);
    for (int64_t map = begin; map < end; ++map) {
      const T* const from = x + map * height * width;
      for (int64_t row = 0; row < out_h; ++row) {
        const int64_t top = row * w.stride_h - w.pad_h;
        std::fill(line, line + w.pad_w, -std::numeric_limits<float>::infinity());
        std::fill(line + w.pad_w + width, line + size, -std::numeric_limits<float>::infinity());
        over_rows(from, std::max<int64_t>(top, 0), std::min(top + w.kernel_h, height), width, line + w.pad_w);
        along_row(line, needed, w.kernel_w);
        every(line, w.stride_w, out_w, y + (map * out_h + row) * out_w);
      }
    }
  });
}

// `frame` has kernel, stride and padding, each for rows and columns.
at::Tensor max_pool2d(const at::Tensor& x, c10::ArrayRef<int64_t> frame) {
  TORCH_CHECK(x.dim() == 4 && frame.size() == 6, "max_pool2d: a batch of images and six numbers are needed");
  const Window w{frame[0], frame[1], frame[2], frame[3], frame[4], frame[5]};
  const int64_t height = x.size(2), width = x.size(3);
  const int64_t out_h = (height + 2 * w.pad_h - w.kernel_h) / w.stride_h + 1;
  const int64_t out_w = (width + 2 * w.pad_w - w.kernel_w) / w.stride_w + 1;
  TORCH_CHECK(w.kernel_h > 0 && w.kernel_w > 0 && w.stride_h > 0 && w.stride_w > 0 && w.pad_h >= 0 && w.pad_w >= 0 &&
                  2 * w.pad_h <= w.kernel_h && 2 * w.pad_w <= w.kernel_w && height + 2 * w.pad_h >= w.kernel_h &&
                  width + 2 * w.pad_w >= w.kernel_w && w.kernel_w < 1 << 20,
              "max_pool2d: the numbers do not fit together, or not to the image");
  const at::Tensor input = x.contiguous();
  at::Tensor y = at::empty({x.size(0), x.size(1), out_h, out_w}, input.options());
  if (y.numel() == 0) return y;
  want_large_pages(y);
  const int64_t maps = x.size(0) * x.size(1);
  if (input.scalar_type() == at::kFloat) {
    pool(input.const_data_ptr<float>(), y.mutable_data_ptr<float>(), w, height, width, out_h, out_w, maps);
  } else {
    TORCH_CHECK(input.scalar_type() == at::kBFloat16, "max_pool2d: float32 and bfloat16 only");
    pool(input.const_data_ptr<c10::BFloat16>(), y.mutable_data_ptr<c10::BFloat16>(), w, height, width, out_h, out_w, maps);
  }
  return y;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(autosample, m) { m.def("max_pool2d(Tensor x, int[] frame) -> Tensor"); }
TORCH_LIBRARY_IMPL(autosample, CPU, m) { m.impl("max_pool2d", max_pool2d); }

}  // namespace autosample
