// The CUDA source of `draw`, through the host's compiler.
#include "../cuda/draw.cu"  // NOLINT
