// How kernels are launched and report errors: by CUDA under nvcc, otherwise by the tests' emulation on the CPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <stdexcept>
#include <string>

#include "current_stream.h"

#define XMIXUP_DEVICE_KEY CUDA

// Stops the kernel; the next synchronisation reports a device-side assert, as torch's own indexing does.
#define XMIXUP_DEVICE_ASSERT(condition, message)            \
  if (!(condition)) {                                       \
    __assert_fail(message, __FILE__, __LINE__, __func__);   \
    __builtin_unreachable(); /* which nvcc does not know */ \
  }

namespace xmixup {

// Starts kernels on the current stream of the tensors' device, whatever device is current.
class Launcher {
 public:
  explicit Launcher(int32_t device_index)
      : guard_(device_index), stream_(static_cast<cudaStream_t>(current_cuda_stream(device_index))) {}

  template <typename Kernel, typename... Args>
  void operator()(Kernel* kernel, dim3 grid, dim3 block, const Args&... args) const {
    kernel<<<grid, block, 0, stream_>>>(args...);
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess) {
      throw std::runtime_error(std::string("xmixup_fast: CUDA kernel launch failed: ") + cudaGetErrorString(error));
    }
  }

  // For kernels that call __syncthreads. It makes no difference here, but the emulation has to know of them.
  template <typename Kernel, typename... Args>
  void with_barriers(Kernel* kernel, dim3 grid, dim3 block, const Args&... args) const {
    (*this)(kernel, grid, block, args...);
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace xmixup

#else

#include "../cuda_emulation/shim.h"

#endif
