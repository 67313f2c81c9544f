// Vectors of floats by the compiler's own vector types: AVX-512, AVX2 and NEON from one source.
#pragma once

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace autosample {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kTileRows = 8;  // with kTileVectors: 24 accumulators of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kTileRows = 4;  // 12 accumulators of 16 registers
#else
constexpr int kLanes = 4;
constexpr int kTileRows = 8;
#endif
constexpr int kTileVectors = 3;
constexpr int kBlock = 8;   // rows of a block with folds are a multiple of this, and of kTileRows
constexpr int kPanel = 16;  // rows of the bank that are packed side by side, on every machine

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef float VecUnaligned __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));

inline Vec load(const float* p) { return *reinterpret_cast<const VecUnaligned*>(p); }
inline void store(float* p, Vec v) { *reinterpret_cast<VecUnaligned*>(p) = v; }
// A vector that stays in a register. GCC would read it from memory for each of its products, and loads are the limit.
inline Vec kept(Vec v) {
#if defined(__x86_64__) && defined(__GNUC__)
  asm("" : "+v"(v));
#elif defined(__aarch64__) && defined(__GNUC__)
  asm("" : "+w"(v));
#endif
  return v;
}
#define AUTOSAMPLE_INLINE __attribute__((always_inline))

template <typename F, int... kAt>
inline AUTOSAMPLE_INLINE void at_each(const F& f, std::integer_sequence<int, kAt...>) {
  (f(std::integral_constant<int, kAt>{}), ...);
}
// Calls f(0), f(1) … with constants. GCC unrolls a loop too late: an array of vectors that one indexes lies in memory.
template <int kCount, typename F>
inline AUTOSAMPLE_INLINE void times(const F& f) {
  at_each(f, std::make_integer_sequence<int, kCount>{});
}

template <int kRows, int kVectors>
inline AUTOSAMPLE_INLINE void clear(Vec (&sum)[kRows][kVectors]) {
  times<kRows>([&](int r) AUTOSAMPLE_INLINE { times<kVectors>([&](int v) AUTOSAMPLE_INLINE { sum[r][v] = Vec{}; }); });
}
template <int kVectors, typename Factor>
inline AUTOSAMPLE_INLINE void add_product(Vec (&sum)[kVectors], Factor factor, const Vec (&value)[kVectors]) {
  times<kVectors>([&](int v) AUTOSAMPLE_INLINE { sum[v] += factor * value[v]; });
}

// As torch: a NaN in `a` stays.
inline Vec maximum(Vec a, Vec b) { return a < b ? b : a; }

inline Vec larger(Vec a, Vec b) { return (a < b) | (b != b) ? b : a; }

// Elements 0, 2, 4 … of two vectors' worth of memory.
inline Vec every_second(const float* p) {
  typedef int32_t Index __attribute__((vector_size(kLanes * 4)));
  Index even;
  for (int i = 0; i < kLanes; ++i) even[i] = 2 * i;
  return __builtin_shuffle(load(p), load(p + kLanes), even);
}

// Elements kBy, kBy + 1 … of two vectors, one after the other.
template <int kBy>
inline Vec shifted(Vec a, Vec b) {
  if constexpr (kBy == 0) return a;
  typedef int32_t Index __attribute__((vector_size(kLanes * 4)));
  Index at;
  for (int i = 0; i < kLanes; ++i) at[i] = i + kBy;
  return __builtin_shuffle(a, b, at);
}

// The sum of a vector's elements, by halves: one after the other, each addition would wait for the one before.
template <int kBy = kLanes / 2>
inline AUTOSAMPLE_INLINE float total(Vec v) {
  if constexpr (kBy == 0) {
    return v[0];
  } else {
    typedef int32_t Index __attribute__((vector_size(kLanes * 4)));
    Index at;
    for (int i = 0; i < kLanes; ++i) at[i] = i ^ kBy;
    return total<kBy / 2>(v + __builtin_shuffle(v, at));
  }
}

inline int64_t round_up(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// A row length whose rows do not fall on the same cache sets.
inline int64_t padded_row(int64_t length) {
  const int64_t row = round_up(length, 16);
  return row % 256 == 0 ? row + 16 : row;
}

inline Vec load_as(const float* p) { return load(p); }

inline Vec load_as(const c10::BFloat16* p) {
  typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
  typedef uint16_t Half __attribute__((vector_size(kLanes * 2)));
  Half half;
  std::memcpy(&half, p, sizeof(half));
  const Bits bits = __builtin_convertvector(half, Bits) << 16;
  Vec v;
  std::memcpy(&v, &bits, sizeof(v));
  return v;
}

inline void store_as(float* p, Vec v, int count) {
  if (count == kLanes) {
    store(p, v);
  } else {
    std::memcpy(p, &v, count * sizeof(float));
  }
}

inline void store_as(c10::BFloat16* p, Vec v, int count) {
  typedef uint32_t Bits __attribute__((vector_size(kLanes * 4)));
  typedef uint16_t Half __attribute__((vector_size(kLanes * 2)));
  Bits bits;
  std::memcpy(&bits, &v, sizeof(v));
  // round to nearest even, as torch does; a NaN stays one
  const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const Half half = __builtin_convertvector(v == v ? rounded : (bits >> 16) | 0x40, Half);
  std::memcpy(p, &half, count * sizeof(uint16_t));
}

}  // namespace autosample
