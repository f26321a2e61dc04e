// `dual_head_cross_entropy`: the checks of its arguments.
#include "dual_head_cross_entropy.h"

#include <cmath>
#include <string>
#include <vector>

#include "checks.h"

namespace xmixup {
namespace {

constexpr const char* kOp = "dual_head_cross_entropy";

constexpr int64_t kMaxClasses = 1 << 24;  // float32 holds every integer up to this

LogitType check_logit_type(const Tensor& target_logits) {
  switch (target_logits.scalar_type()) {
    case ScalarType::Float: return LogitType::float32;
    case ScalarType::BFloat16: return LogitType::bfloat16;
    case ScalarType::Half: return LogitType::float16;
    default:
      fail(kOp, "target_logits: expected float32, bfloat16 or float16, got ", to_string(target_logits.scalar_type()));
  }
}

Head check_head(const std::string& name, const Tensor& logits, const Tensor& labels, ScalarType type, int64_t batch,
                const ExpectedDevice& expected) {
  check_tensor(kOp, name + "_logits", logits, type, {batch, kAny}, expected);
  const int64_t classes = logits.size(1);
  if (classes < 1 || classes > kMaxClasses) {
    fail(kOp, name, "_logits: expected 1 to ", kMaxClasses, " classes, got ", to_string(type),
         to_string(logits.sizes()));
  }
  check_tensor(kOp, name + "_labels", labels, ScalarType::Long, {batch}, expected);
  return {logits.const_data_ptr(), static_cast<const int64_t*>(labels.const_data_ptr()), nullptr,
          static_cast<int32_t>(classes)};
}

}  // namespace

DualHeadArgs check_dual_head(const Tensor& target_logits, const Tensor& source_logits, const Tensor& target_labels,
                             const Tensor& source_labels, const Tensor& lam, double source_weight,
                             double label_smoothing) {
  DualHeadArgs args{};
  check_defined(kOp, "target_logits", target_logits);
  args.logit_type = check_logit_type(target_logits);
  const ScalarType type = target_logits.scalar_type();
  if (target_logits.dim() != 2) {
    fail(kOp, "target_logits: expected ", to_string(type), "[batch, classes], got ", to_string(type),
         to_string(target_logits.sizes()));
  }
  args.batch = target_logits.size(0);
  const ExpectedDevice expected{"target_logits", target_logits.device()};
  args.target = check_head("target", target_logits, target_labels, type, args.batch, expected);
  args.source = check_head("source", source_logits, source_labels, type, args.batch, expected);
  check_tensor(kOp, "lam", lam, ScalarType::Float, {args.batch}, expected);
  args.lam = static_cast<const float*>(lam.const_data_ptr());

  args.source_weight = static_cast<float>(source_weight);
  if (!(args.source_weight >= 0 && std::isfinite(args.source_weight))) {
    fail(kOp, "source_weight: expected a finite number, 0 or greater, got ", source_weight);
  }
  if (!(label_smoothing >= 0 && label_smoothing <= 1)) {
    fail(kOp, "label_smoothing: expected a number from 0 to 1, got ", label_smoothing);
  }
  args.label_smoothing = static_cast<float>(label_smoothing);
  return args;
}

void check_dual_head_values(const DualHeadArgs& args) {
  for (int64_t b = 0; b < args.batch; ++b) {
    switch (check_sample(args, b)) {
      case SampleFault::none: break;
      case SampleFault::lam: fail(kOp, "lam[", b, "]: expected a number from 0 to 1, got ", args.lam[b]);
      case SampleFault::target_label:
        fail(kOp, "target_labels[", b, "]: expected a class from 0 to ", args.target.classes - 1, ", got ",
             args.target.labels[b], instead_of_ignoring(args.target.labels[b]));
      case SampleFault::source_label:
        fail(kOp, "source_labels[", b, "]: expected a class from 0 to ", args.source.classes - 1, ", as lam[", b,
             "] is less than 1, got ", args.source.labels[b], instead_of_ignoring(args.source.labels[b]));
    }
  }
}

DualHeadOutputs allocate_dual_head_outputs(const DualHeadArgs& args, const Tensor& target_logits) {
  const auto allocate = [&](const std::vector<int64_t>& sizes) {
    return torch::stable::empty(sizes, ScalarType::Float, std::nullopt, target_logits.device());
  };
  return {allocate({}), allocate({args.batch}), allocate({args.batch, args.target.classes}),
          allocate({args.batch, args.source.classes})};
}

void check_dual_head_outputs(const DualHeadArgs& args, const DualHeadOutputs& outputs, const Tensor& target_logits) {
  const ExpectedDevice expected{"target_logits", target_logits.device()};
  const auto check = [&](const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes) {
    check_tensor(kOp, name, tensor, ScalarType::Float, sizes, expected);
  };
  check("loss", outputs.loss, {});
  check("sample_loss", outputs.sample_loss, {args.batch});
  check("target_grad", outputs.target_grad, {args.batch, args.target.classes});
  check("source_grad", outputs.source_grad, {args.batch, args.source.classes});
}

void set_dual_head_outputs(DualHeadArgs& args, const DualHeadOutputs& outputs) {
  args.loss = static_cast<float*>(outputs.loss.mutable_data_ptr());
  args.sample_loss = static_cast<float*>(outputs.sample_loss.mutable_data_ptr());
  args.target.grad = static_cast<float*>(outputs.target_grad.mutable_data_ptr());
  args.source.grad = static_cast<float*>(outputs.source_grad.mutable_data_ptr());
}

}  // namespace xmixup
