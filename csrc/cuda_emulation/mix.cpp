// The CUDA source of `mix`, compiled by the host's compiler.
#include "../cuda/mix.cu"  // NOLINT
