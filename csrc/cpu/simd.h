// Float vectors of the instruction set that a file is compiled for. XMIXUP_LEVEL is the level's namespace: without it
// the linker could take one level's copy of an inline function for all of them. For the same reason, no code that is
// compiled per level calls the standard library.
#pragma once

#include <cstdint>

#if defined(__SSSE3__)
#include <immintrin.h>
#endif

namespace xmixup::XMIXUP_LEVEL {

// a * b + c, rounded once. Where the CPU has no such instruction, in double precision: a's product with b is exact
// there, as a is a byte, so that the result differs from the fused one by a rounding at most.
inline float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return static_cast<float>(static_cast<double>(a) * b + c);
#endif
}

#if defined(__AVX512F__)

struct Vec {
  static constexpr int kLanes = 16;
  __m512 value;

  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec fill(float x) { return {_mm512_set1_ps(x)}; }
  static Vec load_bytes(const uint8_t* p) {
    return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
  }
  void store(float* p) const { _mm512_storeu_ps(p, value); }
  void stream(float* p) const { _mm512_stream_ps(p, value); }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.value, b.value, c.value)}; }

#elif defined(__AVX2__)

struct Vec {
  static constexpr int kLanes = 8;
  __m256 value;

  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec fill(float x) { return {_mm256_set1_ps(x)}; }
  static Vec load_bytes(const uint8_t* p) {
    return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
  }
  void store(float* p) const { _mm256_storeu_ps(p, value); }
  void stream(float* p) const { _mm256_stream_ps(p, value); }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.value, b.value, c.value)}; }

#else

struct Vec {
  static constexpr int kLanes = 1;
  float value;

  static Vec load(const float* p) { return {*p}; }
  static Vec fill(float x) { return {x}; }
  static Vec load_bytes(const uint8_t* p) { return {static_cast<float>(*p)}; }
  void store(float* p) const { *p = value; }
  void stream(float* p) const { *p = value; }
};

inline Vec multiply_add(Vec a, Vec b, Vec c) { return {multiply_add(a.value, b.value, c.value)}; }

#endif

// Makes streamed stores visible to other threads.
inline void finish_streaming() {
#if defined(__SSSE3__)
  _mm_sfence();
#endif
}

}  // namespace xmixup::XMIXUP_LEVEL
