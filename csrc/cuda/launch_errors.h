// What is said where CUDA refuses to start a kernel. It needs no torch. The CUDA runtime that is linked into this
// library keeps an error of its own, which torch's copy of the runtime neither sees nor clears.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace xmixup {

// Whether an error is of a kernel that had been started before, torch's or ours. After it, every call for its device
// returns it.
inline bool is_of_earlier_kernel(cudaError_t error) {
  switch (error) {
#if CUDART_VERSION >= 13000
    case cudaErrorContained:
    case cudaErrorTensorMemoryLeak:
#endif
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorLaunchTimeout:
    case cudaErrorMisalignedAddress:
    case cudaErrorNvlinkUncorrectable: return true;
    default: return false;
  }
}

inline std::string to_string(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + cudaGetErrorString(error) + ")";
}

// Throws for an error that an earlier call has left, or an earlier kernel: nothing is started then.
inline void check_before_launch(cudaError_t error) {
  if (error == cudaSuccess) return;
  throw std::runtime_error("xmixup_fast: no CUDA kernel is started after an earlier error: " + to_string(error));
}

// Throws for an error of a call, which `what` names.
inline void check_call(const std::string& what, cudaError_t error) {
  if (is_of_earlier_kernel(error)) check_before_launch(error);
  if (error != cudaSuccess) throw std::runtime_error("xmixup_fast: " + what + " failed: " + to_string(error));
}

}  // namespace xmixup
