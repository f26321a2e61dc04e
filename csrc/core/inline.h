// XMIXUP_INLINE marks the functions that CPU and GPU code share.
#pragma once

#if defined(__CUDACC__)
#define XMIXUP_INLINE __host__ __device__ __forceinline__
#else
// static, so that each file has its own copy: of inline functions the linker keeps one copy for all files, and that one
// could have been compiled for instructions which the CPU lacks.
#define XMIXUP_INLINE static inline
#endif
