// The function that tells the stream is in libtorch_cuda.so, which a torch without CUDA lacks. The extension loads
// there too, so it looks for the function when the first kernel is launched. torch's own header has one since 2.13.
#include "current_stream.h"

#include <dlfcn.h>

#include <stdexcept>
#include <string>

namespace xmixup {
namespace {

using GetCurrentStream = int32_t (*)(int32_t device_index, void** stream);  // returns 0, or an error code

GetCurrentStream find_function() {
  // Python loads torch's libraries for themselves, not for all to see, and the extension needs libtorch_cpu.so alone: a
  // search without the library's handle finds nothing of libtorch_cuda.so. RTLD_NOLOAD: the one that torch has loaded.
  void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (library == nullptr) return nullptr;
  return reinterpret_cast<GetCurrentStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

}  // namespace

void* current_cuda_stream(int32_t device_index) {
  static const GetCurrentStream get_current_stream = find_function();
  if (get_current_stream == nullptr) {
    throw std::runtime_error(
        "xmixup_fast: expected a torch with CUDA, got one without: libtorch_cuda.so is not loaded, or has no "
        "aoti_torch_get_current_cuda_stream");
  }
  void* stream = nullptr;
  if (get_current_stream(device_index, &stream) != 0) {
    throw std::runtime_error("xmixup_fast: torch cannot tell the current stream of cuda:" +
                             std::to_string(device_index) + "; what it prints on stderr says why");
  }
  return stream;
}

}  // namespace xmixup
