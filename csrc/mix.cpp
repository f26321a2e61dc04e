// `mix`: the checks of its arguments.
#include "mix.h"

#include <cmath>
#include <string>

#include "checks.h"

namespace xmixup {
namespace {

constexpr const char* kOp = "mix";

Side check_side(const SideTensors& side, int64_t batch, const Leader& leader) {
  const std::string name = std::string(side.name) + "_";
  check_tensor(kOp, name + "pixels", side.pixels, ScalarType::Byte, {kAny}, leader);
  check_tensor(kOp, name + "offsets", side.offsets, ScalarType::Long, {kAny}, leader);
  const int64_t images = side.offsets.size(0);
  check_tensor(kOp, name + "sizes", side.sizes, ScalarType::Int, {images, 2}, leader);
  check_tensor(kOp, name + "index", side.index, ScalarType::Long, {batch}, leader);
  check_tensor(kOp, name + "window", side.window, ScalarType::Int, {batch, 4}, leader);
  check_tensor(kOp, name + "flip", side.flip, ScalarType::Bool, {batch}, leader);
  return {
      static_cast<const uint8_t*>(side.pixels.const_data_ptr()),
      side.pixels.numel(),
      static_cast<const int64_t*>(side.offsets.const_data_ptr()),
      static_cast<const int32_t*>(side.sizes.const_data_ptr()),
      images,
      static_cast<const int64_t*>(side.index.const_data_ptr()),
      static_cast<const int32_t*>(side.window.const_data_ptr()),
      static_cast<const bool*>(side.flip.const_data_ptr()),
  };
}

std::string spell_rectangle(const int32_t* rectangle) {
  return spell(std::vector<int64_t>(rectangle, rectangle + 4)) + " (top, left, height, width)";
}

void check_side_values(const char* side_name, const Side& side, int64_t batch) {
  const std::string name = std::string(side_name) + "_";
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t i = side.index[b];
    switch (find_fault(side, b)) {
      case WindowFault::none: break;
      case WindowFault::index:
        fail(kOp, name, "index[", b, "]: expected an image from 0 to ", side.images - 1, ", got ", i);
      case WindowFault::image:
        fail(kOp, name, "offsets[", i, "] and ", name, "sizes[", i, "]: expected an image inside the ",
             side.pixel_bytes, " bytes of ", name, "pixels, got ", side.sizes[2 * i], " x ", side.sizes[2 * i + 1],
             " pixels at byte ", side.offsets[i]);
      case WindowFault::place:
        fail(kOp, name, "window[", b, "]: expected a window inside image ", i, " of ", side.sizes[2 * i], " x ",
             side.sizes[2 * i + 1], ", of at most ", kMaxWindowSide, " pixels a side, got ",
             spell_rectangle(side.window + 4 * b));
    }
  }
}

std::vector<int64_t> out_sizes(const MixArgs& args) { return {args.batch, 3, args.height, args.width}; }

}  // namespace

MixArgs check_mix(const SideTensors& target, const SideTensors& aux, const Tensor& lam, const MixSettings& settings) {
  MixArgs args{};
  check_defined(kOp, "target_index", target.index);
  check_defined(kOp, "target_pixels", target.pixels);
  if (target.index.dim() != 1) {
    fail(kOp, "target_index: expected int64[batch], got ", spell(target.index.scalar_type()),
         spell(target.index.sizes()));
  }
  args.batch = target.index.size(0);
  const Leader leader{"target_pixels", target.pixels.device()};
  args.target = check_side(target, args.batch, leader);
  args.aux = check_side(aux, args.batch, leader);
  check_tensor(kOp, "lam", lam, ScalarType::Float, {args.batch}, leader);
  args.lam = static_cast<const float*>(lam.const_data_ptr());
  if (settings.box.has_value()) {
    check_tensor(kOp, "box", *settings.box, ScalarType::Int, {args.batch, 4}, leader);
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
    fail(kOp, "size: expected height and width, 1 to ", kMaxSide, " pixels each, got ", spell(size));
  }
  args.height = static_cast<int32_t>(size[0]);
  args.width = static_cast<int32_t>(size[1]);
  args.channels_last = settings.channels_last;
  switch (settings.dtype) {
    case ScalarType::Float: args.out_type = OutType::float32; break;
    case ScalarType::BFloat16: args.out_type = OutType::bfloat16; break;
    case ScalarType::Half: args.out_type = OutType::float16; break;
    default: fail(kOp, settings.dtype_of, ": expected float32, bfloat16 or float16, got ", spell(settings.dtype));
  }
  return args;
}

void check_mix_out(const MixArgs& args, const Tensor& lam, const Tensor& out) {
  const int64_t h = args.height, w = args.width;
  const std::vector<int64_t> sizes = out_sizes(args);
  const std::vector<int64_t> strides =
      args.channels_last ? std::vector<int64_t>{3 * h * w, 1, 3 * w, 3} : std::vector<int64_t>{3 * h * w, h * w, w, 1};
  const auto actual = out.sizes();
  if (spell(actual) != spell(sizes)) fail(kOp, "out: expected shape ", spell(sizes), ", got ", spell(actual));
  check_device(kOp, "out", out, {"lam", lam.device()});
  for (int d = 0; d < 4; ++d) {
    if (sizes[d] > 1 && out.numel() > 0 && out.stride(d) != strides[d]) {
      fail(kOp, "out: expected ", args.channels_last ? "a channels_last" : "a contiguous", " tensor with strides ",
           spell(strides), ", got strides ", spell(out.strides()));
    }
  }
}

void check_mix_values(const MixArgs& args) {
  check_side_values("target", args.target, args.batch);
  check_side_values("aux", args.aux, args.batch);
  for (int64_t b = 0; b < args.batch; ++b) {
    if (!(args.lam[b] >= 0 && args.lam[b] <= 1)) {
      fail(kOp, "lam[", b, "]: expected a number from 0 to 1, got ", args.lam[b]);
    }
    if (args.box != nullptr && !box_fits(args, b)) {
      fail(kOp, "box[", b, "]: expected a rectangle inside the output of ", args.height, " x ", args.width, ", got ",
           spell_rectangle(args.box + 4 * b));
    }
  }
}

Tensor allocate_mix_out(const MixArgs& args, const Tensor& lam) {
  using torch::headeronly::MemoryFormat;
  constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};  // as OutType
  const std::vector<int64_t> sizes = out_sizes(args);
  return torch::stable::empty(sizes, kTypes[static_cast<int>(args.out_type)], std::nullopt, lam.device(), std::nullopt,
                              args.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace xmixup
