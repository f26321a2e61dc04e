// The CUDA source of `draw`, compiled by the host's compiler.
#include "../cuda/draw.cu"  // NOLINT
