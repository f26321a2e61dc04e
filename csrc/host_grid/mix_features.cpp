// The CUDA source of `mix_features`, through the host's compiler.
#include "../cuda/mix_features.cu"  // NOLINT
