// `mix_features` and its gradients as torch calls them: their arguments, checked once for every device
// (mix_features.cpp).
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>

#include "core/mix_features.h"

namespace xmixup {

using torch::stable::Tensor;

// Checks features and lam; the result lacks all pointers. Throws std::runtime_error (RuntimeError in Python) naming the
// argument, what it is and what was expected.
FeatureArgs check_features(const char* op, const char* name, const Tensor& features, const Tensor& lam);

// Other features, of the same dtype, shape and device as those of `leader_name`.
void check_alike(const char* op, const char* name, const Tensor& features, const char* leader_name,
                 const Tensor& leader);

// Features whose samples lie one after the other, each without gaps: these themselves, or a contiguous copy.
Tensor dense(const Tensor& features);

// Features with the strides of others: these themselves, or a copy.
Tensor laid_out_as(const Tensor& layout, const Tensor& features);

// A contiguous lam, of the type that the features are computed in.
Tensor computed_lam(const FeatureArgs& args, const Tensor& lam);

// Of lam's type and device.
Tensor allocate_like(const Tensor& lam, int64_t numbers);

Tensor to_type_of(const Tensor& lam, const Tensor& numbers);

// The operators of the schema, on top of a device's `run`, which takes checked arguments.
using RunFeatures = void(const FeatureArgs& args, int32_t device_index);

template <RunFeatures* run>
Tensor mix_features(Tensor target, Tensor aux, Tensor lam) {
  constexpr const char* kOp = "mix_features";
  FeatureArgs args = check_features(kOp, "target", target, lam);
  check_alike(kOp, "aux", aux, "target", target);
  const Tensor target_laid = dense(target), aux_laid = laid_out_as(target_laid, aux), weight = computed_lam(args, lam);
  const Tensor mixed = torch::stable::empty_like(target_laid);
  args.target = target_laid.const_data_ptr();
  args.aux = aux_laid.const_data_ptr();
  args.lam = weight.const_data_ptr();
  args.mixed = mixed.mutable_data_ptr();
  run(args, target.get_device_index());
  return mixed;
}

template <RunFeatures* run>
std::tuple<Tensor, Tensor> mix_features_backward(Tensor mixed_grad, Tensor lam) {
  FeatureArgs args = check_features("mix_features_backward", "mixed_grad", mixed_grad, lam);
  const Tensor grad_laid = dense(mixed_grad), weight = computed_lam(args, lam);
  const Tensor target_grad = torch::stable::empty_like(grad_laid), aux_grad = torch::stable::empty_like(grad_laid);
  args.mixed_grad = grad_laid.const_data_ptr();
  args.lam = weight.const_data_ptr();
  args.target_grad = target_grad.mutable_data_ptr();
  args.aux_grad = aux_grad.mutable_data_ptr();
  run(args, mixed_grad.get_device_index());
  return {target_grad, aux_grad};
}

template <RunFeatures* run>
Tensor mix_features_lam_backward(Tensor mixed_grad, Tensor target, Tensor aux, Tensor lam) {
  constexpr const char* kOp = "mix_features_lam_backward";
  FeatureArgs args = check_features(kOp, "target", target, lam);
  check_alike(kOp, "aux", aux, "target", target);
  check_alike(kOp, "mixed_grad", mixed_grad, "target", target);
  const Tensor target_laid = dense(target), aux_laid = laid_out_as(target_laid, aux);
  const Tensor grad_laid = laid_out_as(target_laid, mixed_grad), weight = computed_lam(args, lam);
  const Tensor lam_sums = allocate_like(weight, args.batch * args.parts);
  const Tensor lam_grad = allocate_like(weight, args.batch);
  args.target = target_laid.const_data_ptr();
  args.aux = aux_laid.const_data_ptr();
  args.mixed_grad = grad_laid.const_data_ptr();
  args.lam = weight.const_data_ptr();
  args.lam_sums = lam_sums.mutable_data_ptr();
  args.lam_grad = lam_grad.mutable_data_ptr();
  run(args, target.get_device_index());
  return to_type_of(lam, lam_grad);
}

}  // namespace xmixup
