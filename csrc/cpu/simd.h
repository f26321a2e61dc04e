// Float vectors of the instruction set that a file is compiled for. XMIXUP_LEVEL is the level's namespace: without it
// the linker could take one level's copy of an inline function for all of them. For the same reason, no code that is
// compiled per level calls the standard library.
#pragma once

#include <cstdint>

#include "../core/floats.h"

#if defined(__SSSE3__)
#include <immintrin.h>
#endif

namespace xmixup::XMIXUP_LEVEL {

inline void put(float value, float* p) { *p = value; }
inline void put(float value, BFloat16* p) { p->bits = to_bfloat16(value); }
inline void put(float value, Float16* p) { p->bits = to_float16(value); }

// a * b + c, rounded once. Where the CPU has no such instruction, in double precision: a product of two floats is exact
// there, so that the result differs from the fused one by one rounding at most.
inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}

// All levels have the same functions. gather: the floats p[at]. pick: the same, of places below 2 * kLanes,
// but it may load all 2 * kLanes floats. load_every_third: floats 0, 3, 6 ...; it may load two beyond 3 * kLanes.
#if defined(__AVX512F__)

struct Places {
  __m512i value;

  static Places load(const int32_t* p) { return {_mm512_loadu_si512(p)}; }
  Places plus(int32_t n) const { return {_mm512_add_epi32(value, _mm512_set1_epi32(n))}; }
};

struct Vec {
  static constexpr int kLanes = 16;
  __m512 value;

  static Vec fill(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load(const uint8_t* p) { return of_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static Vec of_bytes(__m128i bytes) { return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))}; }
  static Vec gather(const float* p, Places at) { return {_mm512_i32gather_ps(at.value, p, sizeof(float))}; }
  static Vec pick(const float* p, Places at) {
    return {_mm512_permutex2var_ps(_mm512_loadu_ps(p), at.value, _mm512_loadu_ps(p + kLanes))};
  }
  static Vec load_every_third(const float* p) {
    const __m512i low = _mm512_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21, 24, 27, 30, 0, 0, 0, 0, 0);
    const __m512i all = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 17, 20, 23, 26, 29);
    const __m512 first = _mm512_permutex2var_ps(_mm512_loadu_ps(p), low, _mm512_loadu_ps(p + kLanes));
    return {_mm512_permutex2var_ps(first, all, _mm512_loadu_ps(p + 2 * kLanes))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, value); }
  void store(BFloat16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), bfloat16()); }
  void store(Float16* p) const { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), float16()); }
  void stream(float* p) const { _mm512_stream_ps(p, value); }
  void stream(BFloat16* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), bfloat16()); }
  void stream(Float16* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), float16()); }

 private:
  __m256i float16() const { return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  __m256i bfloat16() const {  // no NaN comes here; otherwise as to_bfloat16
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16));
  }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }
inline Vec subtract(Vec a, Vec b) { return {_mm512_sub_ps(a.value, b.value)}; }

#elif defined(__AVX2__)

struct Places {
  __m256i value;

  static Places load(const int32_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  Places plus(int32_t n) const { return {_mm256_add_epi32(value, _mm256_set1_epi32(n))}; }
};

struct Vec {
  static constexpr int kLanes = 8;
  __m256 value;

  static Vec fill(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load(const uint8_t* p) { return of_bytes(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))); }
  static Vec of_bytes(__m128i bytes) { return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes))}; }
  static Vec gather(const float* p, Places at) { return {_mm256_i32gather_ps(p, at.value, sizeof(float))}; }
  static Vec pick(const float* p, Places at) {
    const __m256 low = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p), at.value);
    const __m256 high = _mm256_permutevar8x32_ps(_mm256_loadu_ps(p + kLanes), at.value);
    return {_mm256_blendv_ps(low, high, _mm256_castsi256_ps(_mm256_slli_epi32(at.value, 28)))};  // by the bit of 8
  }
  static Vec load_every_third(const float* p) {
    return {_mm256_i32gather_ps(p, _mm256_setr_epi32(0, 3, 6, 9, 12, 15, 18, 21), sizeof(float))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, value); }
  void store(BFloat16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bfloat16()); }
  void store(Float16* p) const { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), float16()); }
  void stream(float* p) const { _mm256_stream_ps(p, value); }
  void stream(BFloat16* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), bfloat16()); }
  void stream(Float16* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), float16()); }

 private:
  __m128i float16() const { return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  __m128i bfloat16() const {  // no NaN comes here; otherwise as to_bfloat16
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256i high = _mm256_srli_epi32(rounded, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1));
  }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }
inline Vec subtract(Vec a, Vec b) { return {_mm256_sub_ps(a.value, b.value)}; }

#else

struct Places {
  int32_t value;

  static Places load(const int32_t* p) { return {*p}; }
  Places plus(int32_t n) const { return {value + n}; }
};

struct Vec {
  static constexpr int kLanes = 1;
  float value;

  static Vec fill(float x) { return {x}; }
  static Vec load(const float* p) { return {*p}; }
  static Vec load(const uint8_t* p) { return {static_cast<float>(*p)}; }
  static Vec gather(const float* p, Places at) { return {p[at.value]}; }
  static Vec pick(const float* p, Places at) { return gather(p, at); }
  template <typename Out>
  void store(Out* p) const {
    put(value, p);
  }
  template <typename Out>
  void stream(Out* p) const {
    put(value, p);
  }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {multiply_add(a.value, b.value, c.value)}; }
inline Vec subtract(Vec a, Vec b) { return {a.value - b.value}; }

#endif

// Makes streamed stores visible to other threads.
inline void finish_streaming() {
#if defined(__SSSE3__)
  _mm_sfence();
#endif
}

}  // namespace xmixup::XMIXUP_LEVEL
