// The operators `mix` and `mix_plan` with the arguments of their schemas, which mix.cpp checks for all devices alike.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "core/mix.h"

namespace xmixup {

using torch::headeronly::ScalarType;
using torch::stable::Device;
using torch::stable::Tensor;

// The tensors of an ImagePool.
struct PoolTensors {
  const char* name;  // "target" or "aux", for messages
  const Tensor& pixels;
  const Tensor& offsets;
  const Tensor& sizes;
};

// The tensors of a pool's Crops.
struct CropTensors {
  const Tensor& index;
  const Tensor& window;
  const Tensor& flip;
};

// What all samples of a call share.
struct MixSettings {
  const std::vector<double>& mean;
  const std::vector<double>& std;
  const std::vector<int64_t>& size;
  const char* dtype_argument;  // the argument that tells the dtype, for messages: "dtype" or "out"
  ScalarType dtype;
  bool channels_last;
  bool antialias;
};

// The pools and the settings, checked. Of the result, the columns of samples and `out` are missing.
// All these checks throw std::runtime_error (RuntimeError in Python) naming the argument, what it is and what was
// expected.
MixArgs check_pools(const char* op, const PoolTensors& target, const PoolTensors& aux, const MixSettings& settings);

// The samples of `mix`, a tensor for each column.
void check_samples(MixArgs& args, const CropTensors& target, const CropTensors& aux, const Tensor& lam,
                   const std::optional<Tensor>& box, const Device& device);

// The samples of `mix_plan`.
void check_plan(MixArgs& args, const Tensor& plan, const Tensor& color, const std::vector<double>& fill,
                const std::optional<Tensor>& noise_quantiles, const std::vector<double>& std, const Device& device);

// The dtype of the output that the caller gives.
ScalarType out_dtype(const char* op, const Tensor& out);

void check_mix_out(const MixArgs& args, const Tensor& pixels, const Tensor& out);

// Checks values, of tensors in host memory: indices, images, windows, lam, boxes, erased rectangles.
void check_mix_values(const MixArgs& args);

Tensor allocate_mix_out(const MixArgs& args, const Tensor& pixels);

// The operators, which call a device's `run` with checked arguments.
using RunMix = void(const MixArgs& args, int32_t device_index);

template <RunMix* run>
Tensor mix(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index, Tensor target_window,
           Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, Tensor aux_index,
           Tensor aux_window, Tensor aux_flip, Tensor lam, std::optional<Tensor> box, std::vector<double> mean,
           std::vector<double> std, std::vector<int64_t> size, ScalarType dtype, bool channels_last, bool antialias) {
  MixArgs args = check_pools("mix", {"target", target_pixels, target_offsets, target_sizes},
                             {"aux", aux_pixels, aux_offsets, aux_sizes},
                             {mean, std, size, "dtype", dtype, channels_last, antialias});
  check_samples(args, {target_index, target_window, target_flip}, {aux_index, aux_window, aux_flip}, lam, box,
                target_pixels.device());
  Tensor out = allocate_mix_out(args, target_pixels);
  args.out = out.mutable_data_ptr();
  run(args, target_pixels.get_device_index());
  return out;
}

template <RunMix* run>
void mix_out(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index,
             Tensor target_window, Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes,
             Tensor aux_index, Tensor aux_window, Tensor aux_flip, Tensor lam, std::optional<Tensor> box,
             std::vector<double> mean, std::vector<double> std, std::vector<int64_t> size, bool channels_last,
             bool antialias, Tensor out) {
  MixArgs args = check_pools("mix", {"target", target_pixels, target_offsets, target_sizes},
                             {"aux", aux_pixels, aux_offsets, aux_sizes},
                             {mean, std, size, "out", out_dtype("mix", out), channels_last, antialias});
  check_samples(args, {target_index, target_window, target_flip}, {aux_index, aux_window, aux_flip}, lam, box,
                target_pixels.device());
  check_mix_out(args, target_pixels, out);
  args.out = out.mutable_data_ptr();
  run(args, target_pixels.get_device_index());
}

template <RunMix* run>
Tensor mix_plan(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor aux_pixels, Tensor aux_offsets,
                Tensor aux_sizes, Tensor plan, Tensor color, std::vector<double> mean, std::vector<double> std,
                std::vector<int64_t> size, ScalarType dtype, bool channels_last, bool antialias,
                std::vector<double> fill, std::optional<Tensor> noise_quantiles) {
  MixArgs args = check_pools("mix_plan", {"target", target_pixels, target_offsets, target_sizes},
                             {"aux", aux_pixels, aux_offsets, aux_sizes},
                             {mean, std, size, "dtype", dtype, channels_last, antialias});
  check_plan(args, plan, color, fill, noise_quantiles, std, target_pixels.device());
  Tensor out = allocate_mix_out(args, target_pixels);
  args.out = out.mutable_data_ptr();
  run(args, target_pixels.get_device_index());
  return out;
}

template <RunMix* run>
void mix_plan_out(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor aux_pixels,
                  Tensor aux_offsets, Tensor aux_sizes, Tensor plan, Tensor color, std::vector<double> mean,
                  std::vector<double> std, std::vector<int64_t> size, bool channels_last, bool antialias,
                  std::vector<double> fill, std::optional<Tensor> noise_quantiles, Tensor out) {
  MixArgs args = check_pools("mix_plan", {"target", target_pixels, target_offsets, target_sizes},
                             {"aux", aux_pixels, aux_offsets, aux_sizes},
                             {mean, std, size, "out", out_dtype("mix_plan", out), channels_last, antialias});
  check_plan(args, plan, color, fill, noise_quantiles, std, target_pixels.device());
  check_mix_out(args, target_pixels, out);
  args.out = out.mutable_data_ptr();
  run(args, target_pixels.get_device_index());
}

}  // namespace xmixup
