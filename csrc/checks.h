// What the operators' argument checks have in common.
#pragma once

#include <torch/csrc/stable/device.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace xmixup {

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;

constexpr int64_t kAny = -1;  // a dimension of any size

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

// Torch hands over None as a tensor that is not defined.
void check_defined(const char* op, const std::string& name, const Tensor& tensor);

// The argument that tells where all of an operator's tensors must be.
struct ExpectedDevice {
  const char* name;
  Device device;
};

void check_device(const char* op, const std::string& name, const Tensor& tensor, const ExpectedDevice& expected);

// A contiguous tensor of this dtype and shape, where the leader is.
void check_tensor(const char* op, const std::string& name, const Tensor& tensor, ScalarType type,
                  const std::vector<int64_t>& sizes, const ExpectedDevice& expected);

}  // namespace xmixup
