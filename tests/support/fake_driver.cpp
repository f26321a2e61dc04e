// An NVIDIA driver that shows no GPU, as libcuda.so.1, made for the CUDA release in DRIVER_VERSION, such as 12040.
#include <dlfcn.h>

#include <cstdint>

namespace {

constexpr int kNoDevice = 100;  // CUDA_ERROR_NO_DEVICE

int no_device() { return kNoDevice; }

}  // namespace

extern "C" {

int cuDriverGetVersion(int* version) {
  *version = DRIVER_VERSION;
  return 0;
}

int cuInit(unsigned int /*flags*/) { return kNoDevice; }

// CUDA's runtime asks for all other functions by their names.
int cuGetProcAddress_v2(const char* name, void** function, int /*version*/, uint64_t /*flags*/, int* status) {
  *function = dlsym(RTLD_DEFAULT, name);
  if (*function == nullptr) *function = reinterpret_cast<void*>(&no_device);
  if (status != nullptr) *status = 0;
  return 0;
}
}
