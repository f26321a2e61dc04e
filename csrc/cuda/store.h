// Stores floats as elements of a tensor: 64 or 128 bits at a time, or one element.
#pragma once

#include "../core/floats.h"
#include "launch.h"

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#endif

namespace xmixup {

// Two elements as the bits of one word, by one instruction where the GPU has it.
__device__ inline uint32_t pack(float low, float high, const BFloat16*) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
#else
  return to_bfloat16(low) | static_cast<uint32_t>(to_bfloat16(high)) << 16;
#endif
}

__device__ inline uint32_t pack(float low, float high, const Float16*) {
#if defined(__CUDA_ARCH__)
  const __half2 pair = __floats2half2_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
#else
  return to_float16(low) | static_cast<uint32_t>(to_float16(high)) << 16;
#endif
}

// By an intrinsic, because the compiler splits an assignment of 128 bits into four stores.
__device__ inline void store(const float (&v)[4], float* out) {
  __stwb(reinterpret_cast<uint4*>(out),
         make_uint4(float_bits(v[0]), float_bits(v[1]), float_bits(v[2]), float_bits(v[3])));
}

template <typename Half>
__device__ inline void store(const float (&v)[4], Half* out) {
  __stwb(reinterpret_cast<uint2*>(out), make_uint2(pack(v[0], v[1], out), pack(v[2], v[3], out)));
}

template <typename Half>
__device__ inline void store(const float (&v)[8], Half* out) {
  __stwb(reinterpret_cast<uint4*>(out),
         make_uint4(pack(v[0], v[1], out), pack(v[2], v[3], out), pack(v[4], v[5], out), pack(v[6], v[7], out)));
}

__device__ inline void store(const float (&v)[1], float* out) { *out = v[0]; }

template <typename Half>
__device__ inline void store(const float (&v)[1], Half* out) {
  out->bits = static_cast<uint16_t>(pack(v[0], v[0], out));
}

}  // namespace xmixup
