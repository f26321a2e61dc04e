// The operator `dual_head_cross_entropy` with the arguments of its schema, which dual_head_cross_entropy.cpp checks for
// all devices alike.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>

#include "core/dual_head_cross_entropy.h"

namespace xmixup {

using torch::stable::Tensor;

// Checks everything but the values inside the tensors. The result is complete but for the outputs and sample_loss.
// Throws std::runtime_error (RuntimeError in Python) naming the argument, what it is and what was expected.
DualHeadArgs check_dual_head(const Tensor& target_logits, const Tensor& source_logits, const Tensor& target_labels,
                             const Tensor& source_labels, const Tensor& lam, double source_weight,
                             double label_smoothing);

// Checks values, of tensors in host memory: lam and labels.
void check_dual_head_values(const DualHeadArgs& args);

// A float32 tensor on the device of `like`.
Tensor allocate_float(const std::vector<int64_t>& sizes, const Tensor& like);

// The operator, which calls a device's `run` with checked arguments.
using RunDualHead = void(const DualHeadArgs& args, int32_t device_index);

template <RunDualHead* run>
std::tuple<Tensor, Tensor, Tensor> dual_head_cross_entropy(Tensor target_logits, Tensor source_logits,
                                                           Tensor target_labels, Tensor source_labels, Tensor lam,
                                                           double source_weight, double label_smoothing) {
  DualHeadArgs args =
      check_dual_head(target_logits, source_logits, target_labels, source_labels, lam, source_weight, label_smoothing);
  Tensor loss = allocate_float({}, lam);
  Tensor sample_loss = allocate_float({args.batch}, lam);
  Tensor target_grad = allocate_float({args.batch, args.target.classes}, lam);
  Tensor source_grad = allocate_float({args.batch, args.source.classes}, lam);
  args.loss = static_cast<float*>(loss.mutable_data_ptr());
  args.sample_loss = static_cast<float*>(sample_loss.mutable_data_ptr());
  args.target.grad = static_cast<float*>(target_grad.mutable_data_ptr());
  args.source.grad = static_cast<float*>(source_grad.mutable_data_ptr());
  run(args, lam.get_device_index());
  return {loss, target_grad, source_grad};
}

}  // namespace xmixup
