// `mix`: the checks of its arguments, and the memory of its outputs.
#include "mix.h"

#include <cmath>
#include <limits>
#include <string>

#include "checks.h"
#include "cpu/output_cache.h"

namespace xmixup {
namespace {

constexpr const char* kOp = "mix";

CropBatch check_crop_batch(const CropBatchTensors& crops, int64_t batch, const ExpectedDevice& expected) {
  const std::string name = std::string(crops.name) + "_";
  check_tensor(kOp, name + "pixels", crops.pixels, ScalarType::Byte, {kAny}, expected);
  check_tensor(kOp, name + "offsets", crops.offsets, ScalarType::Long, {kAny}, expected);
  const int64_t images = crops.offsets.size(0);
  check_tensor(kOp, name + "sizes", crops.sizes, ScalarType::Int, {images, 2}, expected);
  check_tensor(kOp, name + "index", crops.index, ScalarType::Long, {batch}, expected);
  check_tensor(kOp, name + "window", crops.window, ScalarType::Int, {batch, 4}, expected);
  check_tensor(kOp, name + "flip", crops.flip, ScalarType::Bool, {batch}, expected);
  return {
      static_cast<const uint8_t*>(crops.pixels.const_data_ptr()),
      crops.pixels.numel(),
      static_cast<const int64_t*>(crops.offsets.const_data_ptr()),
      static_cast<const int32_t*>(crops.sizes.const_data_ptr()),
      images,
      static_cast<const int64_t*>(crops.index.const_data_ptr()),
      static_cast<const int32_t*>(crops.window.const_data_ptr()),
      static_cast<const bool*>(crops.flip.const_data_ptr()),
  };
}

std::string rectangle_to_string(const int32_t* rectangle) {
  return to_string(std::vector<int64_t>(rectangle, rectangle + 4)) + " (top, left, height, width)";
}

void check_crop_batch_values(const char* crops_name, const CropBatch& crops, int64_t batch) {
  const std::string name = std::string(crops_name) + "_";
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t i = crops.index[b];
    switch (check_window(crops, b)) {
      case WindowFault::none: break;
      case WindowFault::index:
        fail(kOp, name, "index[", b, "]: expected an image from 0 to ", crops.images - 1, ", got ", i);
      case WindowFault::image:
        fail(kOp, name, "offsets[", i, "] and ", name, "sizes[", i, "]: expected an image inside the ",
             crops.pixel_bytes, " bytes of ", name, "pixels, got ", crops.sizes[2 * i], " x ", crops.sizes[2 * i + 1],
             " pixels at byte ", crops.offsets[i]);
      case WindowFault::window:
        fail(kOp, name, "window[", b, "]: expected a window inside image ", i, " of ", crops.sizes[2 * i], " x ",
             crops.sizes[2 * i + 1], ", of at most ", kMaxWindowSide, " pixels a side, got ",
             rectangle_to_string(crops.window + 4 * b));
    }
  }
}

std::vector<int64_t> out_sizes(const MixArgs& args) { return {args.batch, 3, args.height, args.width}; }

std::vector<int64_t> out_strides(const MixArgs& args) {
  const int64_t h = args.height, w = args.width;
  if (args.channels_last) return {3 * h * w, 1, 3 * w, 3};
  return {3 * h * w, h * w, w, 1};
}

// Bytes of an output on the CPU that has a block of its own; 0 for others, which torch allocates: small ones, and those
// of more bytes than 64 bits count, for which it has an error.
int64_t block_bytes(const MixArgs& args, const Tensor& lam) {
  constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max() / 2;
  const int64_t image_bytes = 3LL * args.height * args.width * (args.out_type == OutType::float32 ? 4 : 2);
  if (!lam.device().is_cpu() || !output_cache_is_on() || args.batch > kMaxBytes / image_bytes) return 0;
  const int64_t bytes = args.batch * image_bytes;
  return bytes < kCacheOutputsFromBytes ? 0 : bytes;
}

}  // namespace

MixArgs check_mix(const CropBatchTensors& target, const CropBatchTensors& aux, const Tensor& lam,
                  const MixSettings& settings) {
  MixArgs args{};
  check_defined(kOp, "target_index", target.index);
  check_defined(kOp, "target_pixels", target.pixels);
  if (target.index.dim() != 1) {
    fail(kOp, "target_index: expected int64[batch], got ", to_string(target.index.scalar_type()),
         to_string(target.index.sizes()));
  }
  args.batch = target.index.size(0);
  const ExpectedDevice expected{"target_pixels", target.pixels.device()};
  args.target = check_crop_batch(target, args.batch, expected);
  args.aux = check_crop_batch(aux, args.batch, expected);
  check_tensor(kOp, "lam", lam, ScalarType::Float, {args.batch}, expected);
  args.lam = static_cast<const float*>(lam.const_data_ptr());
  if (settings.box.has_value()) {
    check_tensor(kOp, "box", *settings.box, ScalarType::Int, {args.batch, 4}, expected);
    args.box = static_cast<const int32_t*>(settings.box->const_data_ptr());
  }

  const std::vector<double>&mean = settings.mean, &deviation = settings.std;
  if (mean.size() != 3) fail(kOp, "mean: expected 3 numbers, one a channel, got ", mean.size());
  if (deviation.size() != 3) fail(kOp, "std: expected 3 numbers, one a channel, got ", deviation.size());
  for (int c = 0; c < 3; ++c) {
    args.scale[c] = static_cast<float>(1 / (255 * deviation[c]));
    args.bias[c] = static_cast<float>(-mean[c] / deviation[c]);
    if (!(deviation[c] > 0) || !std::isfinite(args.scale[c])) {
      fail(kOp, "std[", c, "]: expected a positive number, got ", deviation[c]);
    }
    if (!std::isfinite(args.bias[c])) fail(kOp, "mean[", c, "]: expected a finite number, got ", mean[c]);
  }

  constexpr int64_t kMaxSide = 16384;  // so that the kernels can count one image's elements in 32 bits
  const std::vector<int64_t>& size = settings.size;
  if (size.size() != 2 || size[0] < 1 || size[1] < 1 || size[0] > kMaxSide || size[1] > kMaxSide) {
    fail(kOp, "size: expected height and width, 1 to ", kMaxSide, " pixels each, got ", to_string(size));
  }
  args.height = static_cast<int32_t>(size[0]);
  args.width = static_cast<int32_t>(size[1]);
  args.channels_last = settings.channels_last;
  switch (settings.dtype) {
    case ScalarType::Float: args.out_type = OutType::float32; break;
    case ScalarType::BFloat16: args.out_type = OutType::bfloat16; break;
    case ScalarType::Half: args.out_type = OutType::float16; break;
    default:
      fail(kOp, settings.dtype_argument, ": expected float32, bfloat16 or float16, got ", to_string(settings.dtype));
  }
  return args;
}

void check_mix_out(const MixArgs& args, const Tensor& lam, const Tensor& out) {
  const std::vector<int64_t> sizes = out_sizes(args), strides = out_strides(args);
  const auto actual = out.sizes();
  if (to_string(actual) != to_string(sizes))
    fail(kOp, "out: expected shape ", to_string(sizes), ", got ", to_string(actual));
  check_device(kOp, "out", out, {"lam", lam.device()});
  for (int d = 0; d < 4; ++d) {
    if (sizes[d] > 1 && out.numel() > 0 && out.stride(d) != strides[d]) {
      fail(kOp, "out: expected ", args.channels_last ? "a channels_last" : "a contiguous", " tensor with strides ",
           to_string(strides), ", got strides ", to_string(out.strides()));
    }
  }
}

void check_mix_values(const MixArgs& args) {
  check_crop_batch_values("target", args.target, args.batch);
  check_crop_batch_values("aux", args.aux, args.batch);
  for (int64_t b = 0; b < args.batch; ++b) {
    if (!(args.lam[b] >= 0 && args.lam[b] <= 1)) {
      fail(kOp, "lam[", b, "]: expected a number from 0 to 1, got ", args.lam[b]);
    }
    if (args.box != nullptr && !box_fits(args, b)) {
      fail(kOp, "box[", b, "]: expected a rectangle inside the output of ", args.height, " x ", args.width, ", got ",
           rectangle_to_string(args.box + 4 * b));
    }
  }
}

Tensor allocate_mix_out(const MixArgs& args, const Tensor& lam) {
  using torch::headeronly::MemoryFormat;
  constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};  // as OutType
  const std::vector<int64_t> sizes = out_sizes(args);
  const ScalarType type = kTypes[static_cast<int>(args.out_type)];
  if (const int64_t bytes = block_bytes(args, lam); bytes > 0) {
    void* const block = take_output_block(bytes);
    // The storage gives its block back when the last tensor, view or array that refers to it is gone. Where from_blob
    // fails, it does not say whether it has called the deleter; the block is then lost rather than given to two.
    return torch::stable::from_blob(block, sizes, out_strides(args), lam.device(), type,
                                    [bytes](void* data) noexcept { give_back_output_block(data, bytes); });
  }
  return torch::stable::empty(sizes, type, std::nullopt, lam.device(), std::nullopt,
                              args.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace xmixup
