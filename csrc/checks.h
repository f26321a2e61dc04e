// The argument checks that all operators share, and the errors that they raise.
#pragma once

#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/plan.h"

namespace xmixup {

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;

constexpr int64_t kAny = -1;  // among expected sizes: a dimension of any size

constexpr int64_t kPlanWords = sizeof(PlanRow) / sizeof(int32_t);

const char* to_string(ScalarType type);
std::string to_string(const Device& device);

template <typename Sizes>
std::string to_string(const Sizes& sizes) {
  std::ostringstream text;
  text << '[';
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (d > 0) text << ", ";
    sizes[d] == kAny ? text << "any" : text << sizes[d];
  }
  text << ']';
  return text.str();
}

// Throws std::runtime_error, RuntimeError in Python, whose message begins with the operator's name.
template <typename... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << "xmixup_fast." << op << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// The end of a message on a wrong label: what to do where the label asks for its sample to be ignored, as -100 does in
// torch's cross entropy.
constexpr const char* instead_of_ignoring(int64_t label) {
  return label < 0 ? "; no label can have its sample ignored, as -100 does in torch: leave the sample out of the batch"
                   : "";
}

// Fails where the caller gave None, which torch passes on as an undefined tensor.
void check_defined(const char* op, const std::string& name, const Tensor& tensor);

// The device that all tensors of a call must be on: that of the argument `name`.
struct ExpectedDevice {
  const char* name;
  Device device;
};

void check_device(const char* op, const std::string& name, const Tensor& tensor, const ExpectedDevice& expected);

// Fails unless `tensor` is contiguous, of this dtype and these sizes, and on the expected device.
void check_tensor(const char* op, const std::string& name, const Tensor& tensor, ScalarType type,
                  const std::vector<int64_t>& sizes, const ExpectedDevice& expected);

// Fails unless the rows of a plan begin where a PlanRow may.
void check_plan_address(const char* op, const void* rows);

}  // namespace xmixup
