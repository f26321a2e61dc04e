// The operators `mix` and `mix_out` with the arguments of their schemas, which mix.cpp checks for all devices alike.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <vector>

#include "core/mix.h"

namespace xmixup {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// The tensors of a CropBatch: those of an ImagePool and its Crops.
struct CropBatchTensors {
  const char* name;  // "target" or "aux", for messages
  const Tensor& pixels;
  const Tensor& offsets;
  const Tensor& sizes;
  const Tensor& index;
  const Tensor& window;
  const Tensor& flip;
};

// How the two images of a sample become the output.
struct MixSettings {
  const std::optional<Tensor>& box;
  const std::vector<double>& mean;
  const std::vector<double>& std;
  const std::vector<int64_t>& size;
  const char* dtype_argument;  // the argument that tells the dtype, for messages: "dtype" or "out"
  ScalarType dtype;
  bool channels_last;
};

// Checks everything but the values inside the tensors. The result is complete but for `out`.
// Throws std::runtime_error (RuntimeError in Python) naming the argument, what it is and what was expected.
MixArgs check_mix(const CropBatchTensors& target, const CropBatchTensors& aux, const Tensor& lam,
                  const MixSettings& settings);

void check_mix_out(const MixArgs& args, const Tensor& lam, const Tensor& out);

// Checks values, of tensors in host memory: indices, images, windows, lam, boxes.
void check_mix_values(const MixArgs& args);

Tensor allocate_mix_out(const MixArgs& args, const Tensor& lam);

// The operators, which call a device's `run` with checked arguments.
using RunMix = void(const MixArgs& args, int32_t device_index);

template <RunMix* run>
Tensor mix(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index, Tensor target_window,
           Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, Tensor aux_index,
           Tensor aux_window, Tensor aux_flip, Tensor lam, std::optional<Tensor> box, std::vector<double> mean,
           std::vector<double> std, std::vector<int64_t> size, ScalarType dtype, bool channels_last) {
  MixArgs args =
      check_mix({"target", target_pixels, target_offsets, target_sizes, target_index, target_window, target_flip},
                {"aux", aux_pixels, aux_offsets, aux_sizes, aux_index, aux_window, aux_flip}, lam,
                {box, mean, std, size, "dtype", dtype, channels_last});
  Tensor out = allocate_mix_out(args, lam);
  args.out = out.mutable_data_ptr();
  run(args, lam.get_device_index());
  return out;
}

template <RunMix* run>
void mix_out(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index,
             Tensor target_window, Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes,
             Tensor aux_index, Tensor aux_window, Tensor aux_flip, Tensor lam, std::optional<Tensor> box,
             std::vector<double> mean, std::vector<double> std, std::vector<int64_t> size, bool channels_last,
             Tensor out) {
  MixArgs args =
      check_mix({"target", target_pixels, target_offsets, target_sizes, target_index, target_window, target_flip},
                {"aux", aux_pixels, aux_offsets, aux_sizes, aux_index, aux_window, aux_flip}, lam,
                {box, mean, std, size, "out", out.scalar_type(), channels_last});
  check_mix_out(args, lam, out);
  args.out = out.mutable_data_ptr();
  run(args, lam.get_device_index());
}

}  // namespace xmixup
