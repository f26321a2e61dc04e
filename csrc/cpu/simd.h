// Float vectors of the CPU level that a file is compiled for. XMIXUP_LEVEL is the level's namespace. Of an inline
// function the linker keeps one copy for the whole binary; without the namespace, that one could need instructions
// which the CPU lacks. For the same reason, no code that is compiled per level calls inline functions of the standard
// library.
#pragma once

#include <cstdint>

#include "../core/floats.h"

#if defined(__SSSE3__)
#include <immintrin.h>
#endif

namespace xmixup::XMIXUP_LEVEL {

inline void store_scalar(float value, float* p) { *p = value; }
inline void store_scalar(float value, BFloat16* p) { p->bits = to_bfloat16(value); }
inline void store_scalar(float value, Float16* p) { p->bits = to_float16(value); }

// a * b + c, rounded once. Where the CPU has no such instruction, it is computed in double precision: there the product
// of two floats is exact, so that the result differs from the fused one by one rounding at most.
inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}

// The levels have the same functions, but the baseline those alone that it uses:
// - gather(p, at): the floats p[at], one for each lane.
// - permute(p, at): the same for indices below kLanes. It may load all of p[0] to p[kLanes - 1].
// - permute_pair(p, at): the same for indices below 2 * kLanes. It may load all of p[0] to p[2 * kLanes - 1].
// - with_first(p): the vector with p[0] in its first lane. It may load all of p[0] to p[kLanes - 1].
// - load_every_third(p): the floats p[0], p[3], p[6] ... It may load two floats beyond p[3 * kLanes - 1].
// - minimum(a, b), maximum(a, b): b where a is NaN.
// - store_pair<stream>(a, b, p): stores a, then b. With `stream`, p is aligned to a vector, and the store goes past the
//   caches where the level has an instruction for that.
#if defined(__AVX512F__)

struct LaneIndices {
  __m512i value;

  static LaneIndices load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  LaneIndices plus(int32_t n) const { return {_mm512_add_epi32(value, _mm512_set1_epi32(n))}; }
};

struct Vec {
  static constexpr int kLanes = 16;
  __m512 value;

  static Vec fill(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const uint8_t* p) { return from_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec from_bytes(__m128i bytes) { return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))}; }
  static Vec gather(const float* p, LaneIndices at) { return {_mm512_i32gather_ps(at.value, p, sizeof(float))}; }
  static Vec permute(const float* p, LaneIndices at) { return {_mm512_permutexvar_ps(at.value, _mm512_loadu_ps(p))}; }
  static Vec permute_pair(const float* p, LaneIndices at) {
    return {_mm512_permutex2var_ps(_mm512_loadu_ps(p), at.value, _mm512_loadu_ps(p + kLanes))};
  }
  static Vec load_every_third(const float* p) {
    const __m512i low = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
    const __m512i all = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
    const __m512 first = _mm512_permutex2var_ps(_mm512_loadu_ps(p), low, _mm512_loadu_ps(p + kLanes));
    return {_mm512_permutex2var_ps(first, all, _mm512_loadu_ps(p + 2 * kLanes))};
  }
  Vec with_first(const float* p) const { return {_mm512_mask_loadu_ps(value, 1, p)}; }
  void store(float* p) const { _mm512_storeu_ps(p, value); }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
inline Vec subtract(Vec a, Vec b) { return {_mm512_sub_ps(a.value, b.value)}; }
inline Vec times(Vec a, Vec b) { return {_mm512_mul_ps(a.value, b.value)}; }
inline Vec minimum(Vec a, Vec b) { return {_mm512_min_ps(a.value, b.value)}; }
inline Vec maximum(Vec a, Vec b) { return {_mm512_max_ps(a.value, b.value)}; }

template <bool stream>
inline void store_bits(__m512i bits, void* p) {
  if constexpr (stream) {
    _mm512_stream_si512(static_cast<__m512i*>(p), bits);
  } else {
    _mm512_storeu_si512(p, bits);
  }
}

// to_bfloat16 of each lane, in the lane's upper 16 bits. The lanes must not be NaN.
inline __m512i round_to_bfloat16(Vec a) {
  const __m512i bits = _mm512_castps_si512(a.value);
  const __mmask16 odd = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x10000));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff));
  return _mm512_mask_sub_epi32(rounded, odd, rounded, _mm512_set1_epi32(-1));
}

template <bool stream>
inline void store_pair(Vec a, Vec b, float* p) {
  store_bits<stream>(_mm512_castps_si512(a.value), p);
  store_bits<stream>(_mm512_castps_si512(b.value), p + Vec::kLanes);
}

template <bool stream>
inline void store_pair(Vec a, Vec b, BFloat16* p) {
  alignas(64) static constexpr uint16_t kUpper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  store_bits<stream>(_mm512_permutex2var_epi16(round_to_bfloat16(a), _mm512_load_si512(kUpper), round_to_bfloat16(b)),
                     p);
}

template <bool stream>
inline void store_pair(Vec a, Vec b, Float16* p) {
  constexpr int kRound = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512i low = _mm512_castsi256_si512(_mm512_cvtps_ph(a.value, kRound));
  store_bits<stream>(_mm512_inserti64x4(low, _mm512_cvtps_ph(b.value, kRound), 1), p);
}

#elif defined(__AVX2__)

struct LaneIndices {
  __m256i value;

  static LaneIndices load(const int32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  LaneIndices plus(int32_t n) const { return {_mm256_add_epi32(value, _mm256_set1_epi32(n))}; }
};

struct Vec {
  static constexpr int kLanes = 8;
  __m256 value;

  static Vec fill(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const uint8_t* p) { return from_bytes(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
  static Vec from_bytes(__m128i bytes) { return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))}; }
  static Vec gather(const float* p, LaneIndices at) { return {_mm256_i32gather_ps(p, at.value, sizeof(float))}; }
  static Vec permute(const float* p, LaneIndices at) {
    return {_mm256_permutevar8x32_ps(_mm256_loadu_ps(p), at.value)};
  }
  static Vec permute_pair(const float* p, LaneIndices at) {
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), at.value);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + kLanes), at.value);
    return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at.value, 28)))};  // high if bit 3 is set
  }
  static Vec load_every_third(const float* p) {
    return {_mm256_i32gather_ps(p, _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21), sizeof(float))};
  }
  Vec with_first(const float* p) const { return {_mm256_blend_ps(value, _mm256_loadu_ps(p), 1)}; }
  void store(float* p) const { _mm256_storeu_ps(p, value); }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
inline Vec subtract(Vec a, Vec b) { return {_mm256_sub_ps(a.value, b.value)}; }
inline Vec times(Vec a, Vec b) { return {_mm256_mul_ps(a.value, b.value)}; }
inline Vec minimum(Vec a, Vec b) { return {_mm256_min_ps(a.value, b.value)}; }
inline Vec maximum(Vec a, Vec b) { return {_mm256_max_ps(a.value, b.value)}; }

template <bool stream>
inline void store_bits(__m256i bits, void* p) {
  if constexpr (stream) {
    _mm256_stream_si256(static_cast<__m256i*>(p), bits);
  } else {
    _mm256_storeu_si256(static_cast<__m256i*>(p), bits);
  }
}

template <bool stream>
inline void store_pair(Vec a, Vec b, float* p) {
  store_bits<stream>(_mm256_castps_si256(a.value), p);
  store_bits<stream>(_mm256_castps_si256(b.value), p + Vec::kLanes);
}

// to_bfloat16 of each lane. The lanes must not be NaN. All lanes' upper halves are gathered in one vector and their
// lower halves in another, so that one operation of 16 bits serves the lanes of both: the upper half, plus one where
// the lower half is above 0x8000, or equal to it and the upper half odd.
template <bool stream>
inline void store_pair(Vec a, Vec b, BFloat16* p) {
  const __m256i halves = _mm256_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13,  //
                                          2, 3, 6, 7, 10, 11, 14, 15, 0, 1, 4, 5, 8, 9, 12, 13);
  const __m256i a_halves = _mm256_shuffle_epi8(_mm256_castps_si256(a.value), halves);
  const __m256i b_halves = _mm256_shuffle_epi8(_mm256_castps_si256(b.value), halves);
  const __m256i upper = _mm256_unpacklo_epi64(a_halves, b_halves), lower = _mm256_unpackhi_epi64(a_halves, b_halves);
  const __m256i even = _mm256_andnot_si256(upper, _mm256_set1_epi16(1));
  const __m256i carry = _mm256_srli_epi16(_mm256_subs_epu16(lower, even), 15);  // of lower + 0x7fff + 1 - even
  const __m256i rounded = _mm256_add_epi16(upper, carry);                       // quarters: a b a b
  store_bits<stream>(_mm256_permute4x64_epi64(rounded, 0b11011000), p);
}

template <bool stream>
inline void store_pair(Vec a, Vec b, Float16* p) {
  constexpr int kRound = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  store_bits<stream>(_mm256_set_m128i(_mm256_cvtps_ph(b.value, kRound), _mm256_cvtps_ph(a.value, kRound)), p);
}

#else

struct LaneIndices {
  int32_t value;

  static LaneIndices load(const int32_t* p) { return {*p}; }
  LaneIndices plus(int32_t n) const { return {value + n}; }
};

struct Vec {
  static constexpr int kLanes = 1;
  float value;

  static Vec fill(float x) { return {x}; }
  static Vec load(const float* p) { return {*p}; }
  static Vec load(const uint8_t* p) { return {static_cast<float>(*p)}; }
  static Vec gather(const float* p, LaneIndices at) { return {p[at.value]}; }
  static Vec permute_pair(const float* p, LaneIndices at) { return gather(p, at); }
  void store(float* p) const { *p = value; }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {multiply_add(a.value, b.value, c.value)}; }
inline Vec subtract(Vec a, Vec b) { return {a.value - b.value}; }
inline Vec times(Vec a, Vec b) { return {a.value * b.value}; }

template <bool stream, typename T>
inline void store_pair(Vec a, Vec b, T* p) {
  store_scalar(a.value, p);
  store_scalar(b.value, p + 1);
}

#endif

// Four floats: the channels of a pixel, and one that does not matter.
#if defined(__AVX2__)

struct Pixel {
  __m128 value;

  static Pixel fill(float x) { return {_mm_set1_ps(x)}; }
  static Pixel load(const float* p) { return {_mm_loadu_ps(p)}; }
  void store(float* p) const { _mm_storeu_ps(p, value); }
};

inline Pixel multiply_add(Pixel a, Pixel b, Pixel c) { return {_mm_fmadd_ps(a.value, b.value, c.value)}; }
inline Pixel times(Pixel a, Pixel b) { return {_mm_mul_ps(a.value, b.value)}; }

#else

struct Pixel {
  float value[4];

  static Pixel fill(float x) { return {{x, x, x, x}}; }
  static Pixel load(const float* p) { return {{p[0], p[1], p[2], p[3]}}; }
  void store(float* p) const {
    for (int i = 0; i < 4; ++i) p[i] = value[i];
  }
};

inline Pixel multiply_add(Pixel a, Pixel b, Pixel c) {
  for (int i = 0; i < 4; ++i) c.value[i] = multiply_add(a.value[i], b.value[i], c.value[i]);
  return c;
}
inline Pixel times(Pixel a, Pixel b) {
  for (int i = 0; i < 4; ++i) a.value[i] = a.value[i] * b.value[i];
  return a;
}

#endif

// Call it after streamed stores, to make them visible to other threads.
inline void finish_streaming() {
#if defined(__SSSE3__)
  _mm_sfence();
#endif
}

}  // namespace xmixup::XMIXUP_LEVEL
