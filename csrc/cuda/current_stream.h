// The stream on which torch lets the kernels of a device run.
#pragma once

#include <cstdint>

namespace xmixup {

// The current stream of a CUDA device, a cudaStream_t. Throws std::runtime_error where the torch that is loaded has no
// CUDA, or cannot tell the stream, as without a driver.
void* current_cuda_stream(int32_t device_index);

}  // namespace xmixup
