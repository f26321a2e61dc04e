// The CUDA source of `dual_head_cross_entropy`, compiled by the host's compiler.
#include "../cuda/dual_head_cross_entropy.cu"  // NOLINT
