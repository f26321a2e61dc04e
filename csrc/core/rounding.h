// float32 arithmetic of which each operation is rounded by itself: no compiler may fuse two of them, so that all
// devices give the same bits. On the CPU, CMakeLists.txt's -ffp-contract=off sees to it.
#pragma once

#include <cmath>

#include "inline.h"

namespace xmixup {

#if defined(__CUDA_ARCH__)
XMIXUP_INLINE float sum(float a, float b) { return __fadd_rn(a, b); }
XMIXUP_INLINE float difference(float a, float b) { return __fsub_rn(a, b); }
XMIXUP_INLINE float product(float a, float b) { return __fmul_rn(a, b); }
XMIXUP_INLINE float quotient(float a, float b) { return __fdiv_rn(a, b); }
XMIXUP_INLINE float square_root(float x) { return __fsqrt_rn(x); }
#else
XMIXUP_INLINE float sum(float a, float b) { return a + b; }
XMIXUP_INLINE float difference(float a, float b) { return a - b; }
XMIXUP_INLINE float product(float a, float b) { return a * b; }
XMIXUP_INLINE float quotient(float a, float b) { return a / b; }
XMIXUP_INLINE float square_root(float x) { return std::sqrt(x); }
#endif

// The nearest whole number; of two as near, the even one.
XMIXUP_INLINE float nearest_whole(float x) { return rintf(x); }

// left + fraction * (right - left)
XMIXUP_INLINE float interpolate(float left, float right, float fraction) {
  return sum(left, product(fraction, difference(right, left)));
}

}  // namespace xmixup
