// What one call of `mix_features`, or of one of its gradients, works on, and the arithmetic of one feature. No torch
// here: the CPU kernels, the CUDA kernels and their emulation on the CPU all include this file, so that they cannot
// disagree.
#pragma once

#include <cstdint>

#include "floats.h"
#include "inline.h"

namespace xmixup {

enum class FeatureType { float32, bfloat16, float16, float64 };

// What features are computed in, and the type of lam.
template <typename Feature>
struct Computed {
  using type = float;
};

template <>
struct Computed<double> {
  using type = double;
};

// Lam's gradient is summed up in parts of this many features of a sample, and the parts in double: so its bits depend
// on neither the number of threads nor the CPU level.
constexpr int64_t kPartFeatures = 8192;

// Each of the three operators uses some of this.
struct FeatureArgs {
  const void* target;  // [batch][size], as all features, of the call's FeatureType
  const void* aux;
  const void* lam;  // [batch], double for float64 features, float for all others, as what follows of lam
  void* mixed;
  const void* mixed_grad;
  void* target_grad;
  void* aux_grad;
  void* lam_sums;  // [batch][parts], scratch
  void* lam_grad;  // [batch]
  int64_t batch;
  int64_t size;   // features of a sample
  int64_t parts;  // of a sample
  FeatureType type;
};

XMIXUP_INLINE double to_computed(double x) { return x; }
template <typename Feature>
XMIXUP_INLINE float to_computed(Feature x) {
  return to_float(x);
}

// lam target + rest aux, with rest = 1 - lam, each operation rounded by itself: a fused one would give other bits.
XMIXUP_INLINE float blend(float target, float aux, float lam, float rest) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(__fmul_rn(lam, target), __fmul_rn(rest, aux));
#else
  return lam * target + rest * aux;
#endif
}

XMIXUP_INLINE double blend(double target, double aux, double lam, double rest) {
#if defined(__CUDA_ARCH__)
  return __dadd_rn(__dmul_rn(lam, target), __dmul_rn(rest, aux));
#else
  return lam * target + rest * aux;
#endif
}

}  // namespace xmixup
