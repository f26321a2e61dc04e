// The operators' namespace in torch.ops. The tests' emulation of the CUDA code builds the same sources under a name of
// its own, on the CPU's dispatch key.
#pragma once

#include <torch/csrc/stable/library.h>

#ifndef XMIXUP_LIBRARY
#define XMIXUP_LIBRARY xmixup_fast
#endif

// One level more than torch's macro, so that the namespace's macro is expanded first.
#define XMIXUP_DEFINE_LIBRARY(ns, m) STABLE_TORCH_LIBRARY(ns, m)
