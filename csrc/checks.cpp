#include "checks.h"

namespace xmixup {

const char* to_string(ScalarType type) {
  switch (type) {
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    case ScalarType::Short: return "int16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Bool: return "bool";
    default: return "another dtype";
  }
}

std::string to_string(const Device& device) {
  if (device.is_cpu()) return "cpu";
  return device.is_cuda() ? "cuda:" + std::to_string(device.index()) : "another device";
}

void check_defined(const char* op, const std::string& name, const Tensor& tensor) {
  if (!tensor.defined()) fail(op, name, ": expected a tensor, got None");
}

void check_device(const char* op, const std::string& name, const Tensor& tensor, const ExpectedDevice& expected) {
  if (tensor.device() != expected.device) {
    fail(op, name, ": expected a tensor on ", to_string(expected.device), ", as ", expected.name, ", got one on ",
         to_string(tensor.device()));
  }
}

void check_tensor(const char* op, const std::string& name, const Tensor& tensor, ScalarType type,
                  const std::vector<int64_t>& sizes, const ExpectedDevice& expected) {
  check_defined(op, name, tensor);
  const auto actual = tensor.sizes();
  bool fits = tensor.scalar_type() == type && actual.size() == sizes.size();
  for (size_t d = 0; fits && d < sizes.size(); ++d) fits = sizes[d] == kAny || sizes[d] == actual[d];
  if (!fits) {
    fail(op, name, ": expected ", to_string(type), to_string(sizes), ", got ", to_string(tensor.scalar_type()),
         to_string(actual));
  }
  check_device(op, name, tensor, expected);
  if (!tensor.is_contiguous())
    fail(op, name, ": expected a contiguous tensor, got strides ", to_string(tensor.strides()));
}

void check_plan_address(const char* op, const void* rows) {
  if (reinterpret_cast<uintptr_t>(rows) % alignof(PlanRow) != 0) {
    fail(op, "plan: expected rows that begin at a multiple of ", alignof(PlanRow), " bytes, as torch allocates them");
  }
}

}  // namespace xmixup
