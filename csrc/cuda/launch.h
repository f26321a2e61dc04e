// How kernels are launched and report errors: by CUDA under nvcc, otherwise by the tests' emulation on the CPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <new>

#include "../device_asserts.h"
#include "current_stream.h"
#include "launch_errors.h"

#define XMIXUP_DEVICE_KEY CUDA

namespace xmixup {

// Prints the message and stops the kernel; the next synchronisation reports a device-side assert, as torch's own
// indexing does.
__device__ inline void device_assert_failed(const char* message) {
  __assert_fail(message, __FILE__, __LINE__, __func__);
}

// Memory of the host that kernels of every device reach at the address that it has on the host. It may be allocated
// while a stream is captured: nothing that is captured depends on when this happens.
inline AssertRecord* allocate_assert_record() {
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cudaThreadExchangeStreamCaptureMode(&mode);
  void* memory = nullptr;
  const cudaError_t error = cudaHostAlloc(&memory, sizeof(AssertRecord), cudaHostAllocPortable | cudaHostAllocMapped);
  cudaThreadExchangeStreamCaptureMode(&mode);
  if (error != cudaSuccess) cudaGetLastError();  // clears it: no later launch is to find it
  check_call("allocation of page-locked memory", error);
  return new (memory) AssertRecord{};
}

// Where the kernels of a device, which is the current one, record what stops them.
inline AssertRecord* assert_record(int32_t device_index) {
  return kept_assert_record(device_index, allocate_assert_record);
}

// Starts kernels on the current stream of the tensors' device, whatever device is current.
class Launcher {
 public:
  explicit Launcher(int32_t device_index)
      : guard_(device_index), stream_(static_cast<cudaStream_t>(current_cuda_stream(device_index))) {}

  template <typename Kernel, typename... Args>
  void operator()(Kernel* kernel, dim3 grid, dim3 block, const Args&... args) const {
    check_before_launch(cudaGetLastError());
    kernel<<<grid, block, 0, stream_>>>(args...);
    check_call("CUDA kernel launch", cudaGetLastError());
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

namespace xmixup {

// Called by one thread for each wrong sample, after which all threads of the sample return. Of all these calls of a
// launch one records what was expected of which argument, and stops the kernel; so its message is printed once.
__device__ inline void report_wrong_value(AssertRecord* record, const char* message, int64_t sample) {
  if (atomicExch(&record->taken, 1u) != 0u) return;
  record->sample = sample;
#pragma unroll 1
  for (int i = 0; i < kAssertMessageBytes - 1 && message[i] != '\0'; ++i) record->message[i] = message[i];
  __threadfence_system();  // before the assert, which may keep later stores from the host
  device_assert_failed(message);
}

}  // namespace xmixup
