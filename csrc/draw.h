// The operator `draw` with the arguments of its schema, which draw.cpp checks for all devices alike.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
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
  const std::optional<Tensor>& target_means;
  const Tensor& offsets;
  const Tensor& members;
  const Tensor& aux_sizes;
  const std::optional<Tensor>& aux_means;
  const std::optional<Tensor>& aux_labels;
  const std::optional<Tensor>& partner;
  const std::optional<Tensor>& mixed;
  const Tensor& lam_quantiles;
  const std::optional<Tensor>& ratios;
  const std::optional<Tensor>& turns;
  const std::optional<Tensor>& erase_ratios;
};

struct DrawSettings {
  const std::vector<int64_t>& size;
  bool flip;
  bool box;
  bool one_lam;
  const std::vector<double>& scale;   // none, or least and greatest area
  const std::vector<double>& jitter;  // none, or brightness, contrast, saturation, hue, probability
  const std::vector<double>& erase;   // none, or probability, least and greatest area
};

// plan, color
using DrawOutputs = std::tuple<Tensor, Tensor>;

// Checks everything but the values inside the tensors. The result is complete but for the outputs.
// Throws std::runtime_error (RuntimeError in Python) naming the argument, what it is and what was expected.
DrawArgs check_draw(int64_t seed, const DrawTensors& tensors, const DrawSettings& settings);

DrawOutputs allocate_draw_outputs(const DrawArgs& args, const Tensor& sample);

// Fails unless both are what allocate_draw_outputs would allocate.
void check_draw_outputs(const DrawArgs& args, const Tensor& plan, const Tensor& color, const Tensor& sample);

void set_draw_outputs(DrawArgs& args, const Tensor& plan, const Tensor& color);

// Throws for what draw_sample finds wrong with a sample, of tensors in host memory.
[[noreturn]] void fail_draw(const DrawArgs& args, int64_t b);

// The operator, which calls a device's `run` with checked arguments.
using RunDraw = void(const DrawArgs& args, int32_t device_index);

template <RunDraw* run>
DrawOutputs draw(int64_t seed, Tensor sample, Tensor epoch, Tensor label, Tensor target_index, Tensor target_sizes,
                 std::optional<Tensor> target_means, Tensor offsets, Tensor members, Tensor aux_sizes,
                 std::optional<Tensor> aux_means, std::optional<Tensor> aux_labels, std::optional<Tensor> partner,
                 std::optional<Tensor> mixed, Tensor lam_quantiles, std::optional<Tensor> ratios,
                 std::optional<Tensor> turns, std::optional<Tensor> erase_ratios, std::vector<int64_t> size, bool flip,
                 bool box, bool one_lam, std::vector<double> scale, std::vector<double> jitter,
                 std::vector<double> erase) {
  DrawArgs args =
      check_draw(seed,
                 {sample, epoch, label, target_index, target_sizes, target_means, offsets, members, aux_sizes,
                  aux_means, aux_labels, partner, mixed, lam_quantiles, ratios, turns, erase_ratios},
                 {size, flip, box, one_lam, scale, jitter, erase});
  const auto [plan, color] = allocate_draw_outputs(args, sample);
  set_draw_outputs(args, plan, color);
  run(args, sample.get_device_index());
  return {plan, color};
}

template <RunDraw* run>
void draw_out(int64_t seed, Tensor sample, Tensor epoch, Tensor label, Tensor target_index, Tensor target_sizes,
              std::optional<Tensor> target_means, Tensor offsets, Tensor members, Tensor aux_sizes,
              std::optional<Tensor> aux_means, std::optional<Tensor> aux_labels, std::optional<Tensor> partner,
              std::optional<Tensor> mixed, Tensor lam_quantiles, std::optional<Tensor> ratios,
              std::optional<Tensor> turns, std::optional<Tensor> erase_ratios, std::vector<int64_t> size, bool flip,
              bool box, bool one_lam, std::vector<double> scale, std::vector<double> jitter, std::vector<double> erase,
              Tensor plan, Tensor color) {
  DrawArgs args =
      check_draw(seed,
                 {sample, epoch, label, target_index, target_sizes, target_means, offsets, members, aux_sizes,
                  aux_means, aux_labels, partner, mixed, lam_quantiles, ratios, turns, erase_ratios},
                 {size, flip, box, one_lam, scale, jitter, erase});
  check_draw_outputs(args, plan, color, sample);
  set_draw_outputs(args, plan, color);
  run(args, sample.get_device_index());
}

}  // namespace xmixup
