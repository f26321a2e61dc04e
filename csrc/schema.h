// The operators' namespace in torch.ops. The tests' emulation of the CUDA kernels compiles the same sources with a
// namespace of its own, and registers the kernels for CPU tensors.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef XMIXUP_LIBRARY
#define XMIXUP_LIBRARY xmixup_fast
#endif

// Replaces XMIXUP_LIBRARY by the name before torch's macro makes identifiers of it.
#define XMIXUP_DEFINE_LIBRARY(ns, m) STABLE_TORCH_LIBRARY(ns, m)
