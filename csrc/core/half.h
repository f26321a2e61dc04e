// float32 to bfloat16 and float16, to the nearest, ties to even, as bits. No torch here.
#pragma once

#include <cstdint>

#include "inline.h"

namespace xmixup {

XMIXUP_INLINE uint32_t float_bits(float value) {
  union {
    float f;
    uint32_t bits;
  } u = {value};
  return u.bits;
}

XMIXUP_INLINE uint16_t to_bfloat16(float value) {
  const uint32_t bits = float_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // stays a NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

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

}  // namespace xmixup
