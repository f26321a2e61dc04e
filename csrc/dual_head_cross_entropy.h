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

// What the operator computes, float32.
struct DualHeadOutputs {
  Tensor loss;         // []
  Tensor sample_loss;  // [batch], scratch
  Tensor target_grad;  // [batch, target classes]
  Tensor source_grad;  // [batch, source classes]
};

DualHeadOutputs allocate_dual_head_outputs(const DualHeadArgs& args, const Tensor& target_logits);

// Fails unless they are what allocate_dual_head_outputs would allocate.
void check_dual_head_outputs(const DualHeadArgs& args, const DualHeadOutputs& outputs, const Tensor& target_logits);

void set_dual_head_outputs(DualHeadArgs& args, const DualHeadOutputs& outputs);

// The operator, which calls a device's `run` with checked arguments.
using RunDualHead = void(const DualHeadArgs& args, int32_t device_index);

template <RunDualHead* run>
std::tuple<Tensor, Tensor, Tensor> dual_head_cross_entropy(Tensor target_logits, Tensor source_logits,
                                                           Tensor target_labels, Tensor source_labels, Tensor lam,
                                                           double source_weight, double label_smoothing) {
  DualHeadArgs args =
      check_dual_head(target_logits, source_logits, target_labels, source_labels, lam, source_weight, label_smoothing);
  const DualHeadOutputs outputs = allocate_dual_head_outputs(args, target_logits);
  set_dual_head_outputs(args, outputs);
  run(args, lam.get_device_index());
  return {outputs.loss, outputs.target_grad, outputs.source_grad};
}

template <RunDualHead* run>
void dual_head_cross_entropy_out(Tensor target_logits, Tensor source_logits, Tensor target_labels, Tensor source_labels,
                                 Tensor lam, double source_weight, double label_smoothing, Tensor loss,
                                 Tensor sample_loss, Tensor target_grad, Tensor source_grad) {
  DualHeadArgs args =
      check_dual_head(target_logits, source_logits, target_labels, source_labels, lam, source_weight, label_smoothing);
  const DualHeadOutputs outputs{loss, sample_loss, target_grad, source_grad};
  check_dual_head_outputs(args, outputs, target_logits);
  set_dual_head_outputs(args, outputs);
  run(args, lam.get_device_index());
}

}  // namespace xmixup
