// The CUDA source of `mix`, through the host's compiler.
#include "../cuda/mix.cu"  // NOLINT
