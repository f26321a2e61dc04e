// Reductions over the threads of a block.
#pragma once

#include "launch.h"

namespace xmixup {

struct Max {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a > b ? a : b;
  }
};

struct Sum {
  template <typename T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};

// Combines one value of every thread of the block, in the order of the threads, and returns the result to all of them.
// Each thread reads all values: these reads are broadcasts, whereas a tree would need a barrier on every level. Not all
// of them are unrolled, as registers would be spilled.
template <int threads, typename Combine, typename T>
__device__ inline T block_reduce(Combine combine, T value) {
  __shared__ T values[threads];
  __syncthreads();  // every thread has read the values of the previous reduction
  values[threadIdx.x] = value;
  __syncthreads();
  T result = values[0];
#pragma unroll 16
  for (int t = 1; t < threads; ++t) result = combine(result, values[t]);
  return result;
}

}  // namespace xmixup
