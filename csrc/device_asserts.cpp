// `device_assert`: what stopped a CUDA kernel, as its record says.
#include "device_asserts.h"

#include <torch/csrc/stable/library.h>

#include <map>
#include <mutex>
#include <string>

#include "schema.h"

namespace xmixup {
namespace {

struct Records {
  std::mutex mutex;
  std::map<int32_t, AssertRecord*> of_device;
};

Records& records() {
  static Records& kept = *new Records;  // never destroyed: kernels may still run when the process ends
  return kept;
}

// The message of the first device that has one, with the sample; empty where no kernel has stopped.
std::string device_assert() {
  const std::lock_guard<std::mutex> lock(records().mutex);
  for (const auto& [device, record] : records().of_device) {
    if (record == nullptr || record->message[0] == '\0') continue;
    return std::string(record->message) + " (sample " + std::to_string(record->sample) + " of the batch)";
  }
  return "";
}

}  // namespace

AssertRecord* kept_assert_record(int32_t device_index, AssertRecord* (*allocate)()) {
  const std::lock_guard<std::mutex> lock(records().mutex);
  AssertRecord*& record = records().of_device[device_index];
  if (record == nullptr) record = allocate();
  return record;
}

}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CompositeExplicitAutograd, m) {
  m.impl("device_assert", TORCH_BOX(&xmixup::device_assert));
}
