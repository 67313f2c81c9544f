// Large outputs are mostly fresh memory: with large pages the system is asked for it 512 times less often.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <ATen/core/Tensor.h>

namespace autosample {

inline void want_large_pages(const at::Tensor& y) {
#ifdef __linux__
  constexpr uintptr_t kPage = 1 << 21;
  const auto begin = reinterpret_cast<uintptr_t>(y.data_ptr());
  const uintptr_t first = (begin + kPage - 1) / kPage * kPage, last = (begin + y.nbytes()) / kPage * kPage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace autosample
