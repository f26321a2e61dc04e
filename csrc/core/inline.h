// Functions that CPU and GPU code share.
#pragma once

#if defined(__CUDACC__)
#define XMIXUP_INLINE __host__ __device__ __forceinline__
#else
// A copy for each file: the linker must not take one that was compiled for another CPU level.
#define XMIXUP_INLINE static inline
#endif
