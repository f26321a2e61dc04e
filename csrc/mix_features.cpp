// `mix_features` and its gradients: the checks of their arguments, and the order of features in memory.
#include "mix_features.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "checks.h"

namespace xmixup {
namespace {

FeatureType check_feature_type(const char* op, const char* name, const Tensor& features) {
  switch (features.scalar_type()) {
    case ScalarType::Float: return FeatureType::float32;
    case ScalarType::BFloat16: return FeatureType::bfloat16;
    case ScalarType::Half: return FeatureType::float16;
    case ScalarType::Double: return FeatureType::float64;
    default: fail(op, name, ": expected float32, bfloat16, float16 or float64, got ", spell(features.scalar_type()));
  }
}

bool is_floating_point(ScalarType type) {
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half ||
         type == ScalarType::BFloat16;
}

// Whether the samples lie one after the other, each without gaps. Strides of single elements do not matter.
bool is_dense(const Tensor& features) {
  if (features.numel() == 0) return true;
  std::vector<std::pair<int64_t, int64_t>> dimensions;  // stride and size, of all but the samples
  for (int64_t d = 1; d < features.dim(); ++d) {
    if (features.size(d) > 1) dimensions.emplace_back(features.stride(d), features.size(d));
  }
  std::sort(dimensions.begin(), dimensions.end());
  int64_t expected = 1;
  for (const auto& [stride, size] : dimensions) {
    if (stride != expected) return false;
    expected *= size;
  }
  return features.size(0) == 1 || features.stride(0) == expected;
}

}  // namespace

FeatureArgs check_features(const char* op, const char* name, const Tensor& features, const Tensor& lam) {
  FeatureArgs args{};
  check_defined(op, name, features);
  check_defined(op, "lam", lam);
  args.type = check_feature_type(op, name, features);
  if (features.dim() == 0) fail(op, name, ": expected [batch, ...], got ", spell(features.scalar_type()), "[]");
  args.batch = features.size(0);
  args.size = 1;
  for (int64_t d = 1; d < features.dim(); ++d) args.size *= features.size(d);
  args.parts = (args.size + kPartFeatures - 1) / kPartFeatures;
  if (!is_floating_point(lam.scalar_type()) || lam.dim() != 1 || lam.size(0) != args.batch) {
    fail(op, "lam: expected floating-point [", args.batch, "], got ", spell(lam.scalar_type()), spell(lam.sizes()));
  }
  check_device(op, "lam", lam, {name, features.device()});
  return args;
}

void check_alike(const char* op, const char* name, const Tensor& features, const char* leader_name,
                 const Tensor& leader) {
  check_defined(op, name, features);
  const auto expected = leader.sizes(), actual = features.sizes();
  if (features.scalar_type() != leader.scalar_type() || spell(actual) != spell(expected)) {
    fail(op, name, ": expected ", spell(leader.scalar_type()), spell(expected), ", as ", leader_name, ", got ",
         spell(features.scalar_type()), spell(actual));
  }
  check_device(op, name, features, {leader_name, leader.device()});
}

Tensor dense(const Tensor& features) { return is_dense(features) ? features : torch::stable::contiguous(features); }

Tensor laid_out_as(const Tensor& layout, const Tensor& features) {
  bool is_alike = true;
  for (int64_t d = 0; d < layout.dim(); ++d) {
    is_alike = is_alike && (layout.size(d) == 1 || layout.stride(d) == features.stride(d));
  }
  if (is_alike || layout.numel() == 0) return features;
  Tensor copy = torch::stable::empty_like(layout);
  return torch::stable::copy_(copy, features);
}

Tensor computed_lam(const FeatureArgs& args, const Tensor& lam) {
  const ScalarType type = args.type == FeatureType::float64 ? ScalarType::Double : ScalarType::Float;
  return torch::stable::contiguous(torch::stable::to(lam, type));
}

Tensor allocate_like(const Tensor& lam, int64_t numbers) {
  return torch::stable::empty({numbers}, lam.scalar_type(), std::nullopt, lam.device());
}

Tensor to_type_of(const Tensor& lam, const Tensor& numbers) { return torch::stable::to(numbers, lam.scalar_type()); }

}  // namespace xmixup
