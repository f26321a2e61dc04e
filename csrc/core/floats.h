// Float arithmetic that the kernels share: 16-bit floats, and an exponential that compilers turn into vector code.
#pragma once

#include <cstdint>
#include <cstring>

#include "inline.h"

namespace xmixup {

struct BFloat16 {
  uint16_t bits;
};

struct Float16 {
  uint16_t bits;
};

XMIXUP_INLINE uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// The bits of the nearest bfloat16; of two as near, the even one.
XMIXUP_INLINE uint16_t to_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // stays a NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The bits of the nearest float16; of two as near, the even one.
XMIXUP_INLINE uint16_t to_float16(float value) {
  const uint32_t bits = float_bits(value), magnitude = bits & 0x7fffffffu;
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  if (magnitude > 0x7f800000u) return sign | 0x7e00u;   // NaN
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // rounds to 2^16 or more: infinity
  uint32_t exponent = magnitude >> 23, mantissa = magnitude & 0x7fffffu, shift = 13;
  if (exponent < 113) {  // below 2^-14: a subnormal, in units of 2^-24
    if (exponent < 102) return sign;
    shift = 126 - exponent;
    mantissa |= 0x800000u;
    exponent = 112;
  }
  const uint32_t half = 1u << (shift - 1), kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1);
  const uint32_t up = rest > half || (rest == half && (kept & 1u)) ? 1u : 0u;
  return sign | static_cast<uint16_t>(((exponent - 112) << 10) + kept + up);  // a carry goes into the exponent
}

XMIXUP_INLINE float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

XMIXUP_INLINE float to_float(float x) { return x; }

XMIXUP_INLINE float to_float(BFloat16 x) { return float_of_bits(static_cast<uint32_t>(x.bits) << 16); }

XMIXUP_INLINE float to_float(Float16 x) {
  constexpr uint32_t kInfinity16 = 0x7c00u << 13, kInfinity32 = 0x7f800000u;
  const uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = (x.bits & 0x7fffu) << 13;
  // The product corrects the exponent's bias, of subnormal numbers too. Infinity and NaN get the highest exponent.
  const uint32_t finite = float_bits(float_of_bits(magnitude) * 0x1p112f);
  return float_of_bits(sign | (magnitude < kInfinity16 ? finite : magnitude | kInfinity32));
}

// exp(x) for x <= 0, off by at most 2 units in the last place. It is 0 for x below -87.6, where the result's exponent
// would be too small for float32. NaN stays NaN.
XMIXUP_INLINE float exp_nonpositive(float x) {
  constexpr float kLowest = -88.0f;
  constexpr float kLog2E = 1.44269504f;
  // ln 2 in two parts, of which the first has so few digits that its product with n below is exact.
  constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  // 1.5 * 2^23, at which floats are a unit apart, and the exponent's bias: adding it rounds a number to an integer n,
  // and leaves n + 127 in the lowest bits of the sum.
  constexpr float kRound = 12582912.0f + 127.0f;
  const float clamped = x < kLowest ? kLowest : x;
  const float rounded = clamped * kLog2E + kRound;
  const float n = rounded - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;  // x = n ln 2 + r
  float exp_r = 1.0f / 5040;  // the Taylor series; |r| <= ln 2 / 2, so the terms left out sum to less than 6e-9
  exp_r = exp_r * r + 1.0f / 720;
  exp_r = exp_r * r + 1.0f / 120;
  exp_r = exp_r * r + 1.0f / 24;
  exp_r = exp_r * r + 1.0f / 6;
  exp_r = exp_r * r + 0.5f;
  exp_r = exp_r * r + 1.0f;
  exp_r = exp_r * r + 1.0f;
  return exp_r * float_of_bits(float_bits(rounded) << 23);  // times 2 to the n, which is 0 for n = -127
}

}  // namespace xmixup
