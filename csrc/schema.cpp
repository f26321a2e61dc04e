// The schemas of all operators, for all devices. The checks of an operator's arguments are in the file of its name.
#include "schema.h"

XMIXUP_DEFINE_LIBRARY(XMIXUP_LIBRARY, m) {
  m.def(
      "mix(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index, "
      "Tensor target_window, Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, "
      "Tensor aux_index, Tensor aux_window, Tensor aux_flip, Tensor lam, Tensor? box, float[] mean, float[] std, "
      "int[] size, ScalarType dtype, bool channels_last, bool antialias) -> Tensor");
  m.def(
      "mix_out(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index, "
      "Tensor target_window, Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, "
      "Tensor aux_index, Tensor aux_window, Tensor aux_flip, Tensor lam, Tensor? box, float[] mean, float[] std, "
      "int[] size, bool channels_last, bool antialias, Tensor(a!) out) -> ()");
  m.def(
      "mix_plan(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor aux_pixels, "
      "Tensor aux_offsets, Tensor aux_sizes, Tensor plan, Tensor color, float[] mean, float[] std, int[] size, "
      "ScalarType dtype, bool channels_last, bool antialias, float[] fill, Tensor? noise_quantiles) -> Tensor");
  m.def(
      "mix_plan_out(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor aux_pixels, "
      "Tensor aux_offsets, Tensor aux_sizes, Tensor plan, Tensor color, float[] mean, float[] std, int[] size, "
      "bool channels_last, bool antialias, float[] fill, Tensor? noise_quantiles, Tensor(a!) out) -> ()");
  m.def(
      "draw(SymInt seed, Tensor sample, Tensor epoch, Tensor label, Tensor target_index, Tensor target_sizes, "
      "Tensor? target_means, Tensor offsets, Tensor members, Tensor aux_sizes, Tensor? aux_means, Tensor? aux_labels, "
      "Tensor? partner, Tensor? mixed, Tensor lam_quantiles, Tensor? ratios, Tensor? turns, Tensor? erase_ratios, "
      "int[] size, bool flip, bool box, bool one_lam, float[] scale, float[] jitter, float[] erase) -> "
      "(Tensor plan, Tensor color)");
  m.def(
      "draw_out(SymInt seed, Tensor sample, Tensor epoch, Tensor label, Tensor target_index, Tensor target_sizes, "
      "Tensor? target_means, Tensor offsets, Tensor members, Tensor aux_sizes, Tensor? aux_means, Tensor? aux_labels, "
      "Tensor? partner, Tensor? mixed, Tensor lam_quantiles, Tensor? ratios, Tensor? turns, Tensor? erase_ratios, "
      "int[] size, bool flip, bool box, bool one_lam, float[] scale, float[] jitter, float[] erase, "
      "Tensor(a!) plan, Tensor(b!) color) -> ()");
  m.def(
      "dual_head_cross_entropy(Tensor target_logits, Tensor source_logits, Tensor target_labels, Tensor source_labels, "
      "Tensor lam, float source_weight, float label_smoothing) -> "
      "(Tensor loss, Tensor target_grad, Tensor source_grad)");
  m.def(
      "dual_head_cross_entropy_out(Tensor target_logits, Tensor source_logits, Tensor target_labels, "
      "Tensor source_labels, Tensor lam, float source_weight, float label_smoothing, Tensor(a!) loss, "
      "Tensor(b!) sample_loss, Tensor(c!) target_grad, Tensor(d!) source_grad) -> ()");
  m.def(
      "depthwise_conv2d_weight_grad(Tensor input, Tensor grad_output, int[2] kernel_size, int[2] stride, "
      "int[2] padding, int[2] dilation) -> Tensor");
  m.def("device_assert() -> str");
}
