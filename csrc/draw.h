// The operator `draw` with the arguments of its schema, which draw.cpp checks for all devices alike.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <tuple>
#include <vector>

#include "core/draw.h"

namespace xmixup {

using torch::stable::Tensor;

struct DrawTensors {
  const Tensor& sample;
  const Tensor& epoch;
  const Tensor& label;
  const Tensor& target_index;
  const Tensor& target_sizes;
  const Tensor& offsets;
  const Tensor& members;
  const Tensor& aux_sizes;
  const Tensor& lam_quantiles;
};

// target_window, target_flip, aux_index, aux_window, aux_flip, lam, center
using DrawOutputs = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

// Checks everything but the values inside the tensors. The result is complete but for the outputs.
// Throws std::runtime_error (RuntimeError in Python) naming the argument, what it is and what was expected.
DrawArgs check_draw(int64_t seed, const DrawTensors& tensors, const std::vector<int64_t>& size, bool flip);

// Checks values, of tensors in host memory: all of lam_quantiles and offsets, and of the others what the samples use.
void check_draw_values(const DrawArgs& args);

DrawOutputs allocate_draw_outputs(DrawArgs& args, const Tensor& sample);

// The operator, which calls a device's `run` with checked arguments.
using RunDraw = void(const DrawArgs& args, int32_t device_index);

template <RunDraw* run>
DrawOutputs draw(int64_t seed, Tensor sample, Tensor epoch, Tensor label, Tensor target_index, Tensor target_sizes,
                 Tensor offsets, Tensor members, Tensor aux_sizes, Tensor lam_quantiles, std::vector<int64_t> size,
                 bool flip) {
  DrawArgs args = check_draw(
      seed, {sample, epoch, label, target_index, target_sizes, offsets, members, aux_sizes, lam_quantiles}, size, flip);
  DrawOutputs outputs = allocate_draw_outputs(args, sample);
  run(args, sample.get_device_index());
  return outputs;
}

}  // namespace xmixup
