// `mix` and `mix_plan`: the checks of their arguments, and the memory of their outputs.
#include "mix.h"

#include <cmath>
#include <limits>
#include <string>

#include "checks.h"
#include "cpu/output_cache.h"

namespace xmixup {
namespace {

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

CropBatch check_pool(const char* op, const PoolTensors& pool, const ExpectedDevice& expected) {
  const std::string name = std::string(pool.name) + "_";
  check_tensor(op, name + "pixels", pool.pixels, ScalarType::Byte, {kAny}, expected);
  check_tensor(op, name + "offsets", pool.offsets, ScalarType::Long, {kAny}, expected);
  const int64_t images = pool.offsets.size(0);
  check_tensor(op, name + "sizes", pool.sizes, ScalarType::Int, {images, 2}, expected);
  CropBatch crops{};
  crops.pixels = data<uint8_t>(pool.pixels);
  crops.pixel_bytes = pool.pixels.numel();
  crops.offsets = data<int64_t>(pool.offsets);
  crops.sizes = data<int32_t>(pool.sizes);
  crops.images = images;
  return crops;
}

void check_crops(CropBatch& crops, const std::string& name, const CropTensors& tensors, int64_t batch,
                 const ExpectedDevice& expected) {
  check_tensor("mix", name + "_index", tensors.index, ScalarType::Long, {batch}, expected);
  check_tensor("mix", name + "_window", tensors.window, ScalarType::Int, {batch, 4}, expected);
  check_tensor("mix", name + "_flip", tensors.flip, ScalarType::Bool, {batch}, expected);
  crops.index = {data<int64_t>(tensors.index), sizeof(int64_t)};
  crops.window = {data<Rectangle>(tensors.window), sizeof(Rectangle)};
  crops.flip = {data<uint8_t>(tensors.flip), sizeof(uint8_t)};
}

std::string rectangle_to_string(const Rectangle& r) {
  std::string text;
  for (const int32_t number : {r.top, r.left, r.height, r.width}) {
    text += (text.empty() ? "[" : ", ") + std::to_string(number);
  }
  return text + "] (top, left, height, width)";
}

std::vector<int64_t> out_sizes(const MixArgs& args) { return {args.batch, 3, args.height, args.width}; }

std::vector<int64_t> out_strides(const MixArgs& args) {
  const int64_t h = args.height, w = args.width;
  if (args.channels_last) return {3 * h * w, 1, 3 * w, 3};
  return {3 * h * w, h * w, w, 1};
}

// Bytes of an output on the CPU that has a block of its own; 0 for others, which torch allocates: small ones, and those
// of more bytes than 64 bits count, for which it has an error.
int64_t block_bytes(const MixArgs& args, const Device& device) {
  constexpr int64_t kMaxBytes = std::numeric_limits<int64_t>::max() / 2;
  const int64_t image_bytes = 3LL * args.height * args.width * (args.out_type == OutType::float32 ? 4 : 2);
  if (!device.is_cpu() || !output_cache_is_on() || args.batch > kMaxBytes / image_bytes) return 0;
  const int64_t bytes = args.batch * image_bytes;
  return bytes < kCacheOutputsFromBytes ? 0 : bytes;
}

// The operator that a call's messages name.
const char* op_of(const MixArgs& args) { return args.plan ? "mix_plan" : "mix"; }

// How messages of wrong values name a column of samples.
struct ValueNames {
  const char* op;
  bool is_plan;

  explicit ValueNames(const MixArgs& args) : op(op_of(args)), is_plan(args.plan) {}

  std::string of(const std::string& column, int64_t b) const {
    const std::string sample = "[" + std::to_string(b) + "]";
    return is_plan ? "plan" + sample + ": " + column : column + sample;
  }
};

void check_crop_values(const MixArgs& args, const CropBatch& crops, const std::string& side, int64_t b) {
  const ValueNames name(args);
  const int64_t i = at(crops.index, b);
  switch (check_window(crops, b)) {
    case WindowFault::none: break;
    case WindowFault::index:
      fail(name.op, name.of(side + "_index", b), ": expected an image from 0 to ", crops.images - 1, ", got ", i);
    case WindowFault::image:
      fail(name.op, side, "_offsets[", i, "] and ", side, "_sizes[", i, "]: expected an image inside the ",
           crops.pixel_bytes, " bytes of ", side, "_pixels, got ", crops.sizes[2 * i], " x ", crops.sizes[2 * i + 1],
           " pixels at byte ", crops.offsets[i]);
    case WindowFault::window:
      fail(name.op, name.of(side + "_window", b), ": expected a window inside image ", i, " of ", crops.sizes[2 * i],
           " x ", crops.sizes[2 * i + 1], ", of at most ", kMaxWindowSide, " pixels a side, got ",
           rectangle_to_string(at(crops.window, b)));
  }
  if (crops.erased.first != nullptr && !fits_output(args, at(crops.erased, b))) {
    fail(name.op, name.of(side + "_erased", b), ": expected a rectangle inside the output of ", args.height, " x ",
         args.width, ", got ", rectangle_to_string(at(crops.erased, b)));
  }
}

void check_channels(MixArgs& args, const char* op, const MixSettings& settings) {
  const std::vector<double>&mean = settings.mean, &deviation = settings.std;
  if (mean.size() != 3) fail(op, "mean: expected 3 numbers, one a channel, got ", mean.size());
  if (deviation.size() != 3) fail(op, "std: expected 3 numbers, one a channel, got ", deviation.size());
  for (int c = 0; c < 3; ++c) {
    args.scale[c] = static_cast<float>(1 / (255 * deviation[c]));
    args.bias[c] = static_cast<float>(-mean[c] / deviation[c]);
    if (!(deviation[c] > 0) || !std::isfinite(args.scale[c])) {
      fail(op, "std[", c, "]: expected a positive number, got ", deviation[c]);
    }
    if (!std::isfinite(args.bias[c])) fail(op, "mean[", c, "]: expected a finite number, got ", mean[c]);
  }
}

}  // namespace

MixArgs check_pools(const char* op, const PoolTensors& target, const PoolTensors& aux, const MixSettings& settings) {
  check_defined(op, "target_pixels", target.pixels);
  MixArgs args{};
  const ExpectedDevice expected{"target_pixels", target.pixels.device()};
  args.target = check_pool(op, target, expected);
  args.aux = check_pool(op, aux, expected);
  check_channels(args, op, settings);

  constexpr int64_t kMaxSide = 16384;  // so that the kernels can count one image's elements in 32 bits
  const std::vector<int64_t>& size = settings.size;
  if (size.size() != 2 || size[0] < 1 || size[1] < 1 || size[0] > kMaxSide || size[1] > kMaxSide) {
    fail(op, "size: expected height and width, 1 to ", kMaxSide, " pixels each, got ", to_string(size));
  }
  args.height = static_cast<int32_t>(size[0]);
  args.width = static_cast<int32_t>(size[1]);
  args.channels_last = settings.channels_last;
  args.antialias = settings.antialias;
  switch (settings.dtype) {
    case ScalarType::Float: args.out_type = OutType::float32; break;
    case ScalarType::BFloat16: args.out_type = OutType::bfloat16; break;
    case ScalarType::Half: args.out_type = OutType::float16; break;
    default:
      fail(op, settings.dtype_argument, ": expected float32, bfloat16 or float16, got ", to_string(settings.dtype));
  }
  return args;
}

void check_samples(MixArgs& args, const CropTensors& target, const CropTensors& aux, const Tensor& lam,
                   const std::optional<Tensor>& box, const Device& device) {
  check_defined("mix", "target_index", target.index);
  if (target.index.dim() != 1) {
    fail("mix", "target_index: expected int64[batch], got ", to_string(target.index.scalar_type()),
         to_string(target.index.sizes()));
  }
  args.batch = target.index.size(0);
  const ExpectedDevice expected{"target_pixels", device};
  check_crops(args.target, "target", target, args.batch, expected);
  check_crops(args.aux, "aux", aux, args.batch, expected);
  check_tensor("mix", "lam", lam, ScalarType::Float, {args.batch}, expected);
  args.lam = {data<float>(lam), sizeof(float)};
  if (box.has_value()) {
    check_tensor("mix", "box", *box, ScalarType::Int, {args.batch, 4}, expected);
    args.box = {data<Rectangle>(*box), sizeof(Rectangle)};
  }
}

void check_plan(MixArgs& args, const Tensor& plan, const Tensor& color, const std::vector<double>& fill,
                const std::optional<Tensor>& noise_quantiles, const std::vector<double>& std, const Device& device) {
  const char* op = "mix_plan";
  const ExpectedDevice expected{"target_pixels", device};
  check_tensor(op, "plan", plan, ScalarType::Int, {kAny, kPlanWords}, expected);
  args.batch = plan.size(0);
  static const PlanRow kNoRow{};
  const auto* row = args.batch == 0 ? &kNoRow : data<PlanRow>(plan);  // an empty tensor has no memory
  check_plan_address(op, row);
  constexpr int64_t kStride = sizeof(PlanRow);
  args.plan = true;
  args.target.index = {&row->target_index, kStride};
  args.target.window = {&row->target_window, kStride};
  args.target.flip = {&row->target_flip, kStride};
  args.target.erased = {&row->target_erased, kStride};
  args.aux.index = {&row->aux_index, kStride};
  args.aux.window = {&row->aux_window, kStride};
  args.aux.flip = {&row->aux_flip, kStride};
  args.aux.erased = {&row->aux_erased, kStride};
  args.lam = {&row->lam, kStride};
  args.box = {&row->box, kStride};
  args.boxed = {&row->boxed, kStride};
  args.noise = {&row->noise, kStride};

  check_defined(op, "color", color);
  const bool has_color = color.dim() > 0 && color.size(0) > 0;
  check_tensor(op, "color", color, ScalarType::Float, {has_color ? args.batch : 0, 2, 3, 4}, expected);
  args.color = has_color ? data<float>(color) : nullptr;
  if (fill.size() != 3) fail(op, "fill: expected 3 numbers, one a channel, got ", fill.size());
  for (int c = 0; c < 3; ++c) {
    args.fill[c] = static_cast<float>(255 * fill[c]);
    args.noise_scale[c] = static_cast<float>(255 * std[c]);
    if (!std::isfinite(args.fill[c])) fail(op, "fill[", c, "]: expected a finite number, got ", fill[c]);
    if (noise_quantiles.has_value() && !std::isfinite(args.noise_scale[c])) {
      fail(op, "std[", c, "]: expected a finite number for noise, got ", std[c]);
    }
  }
  if (noise_quantiles.has_value()) {
    check_tensor(op, "noise_quantiles", *noise_quantiles, ScalarType::Float, {256}, expected);
    args.noise_quantiles = data<float>(*noise_quantiles);
  }
}

ScalarType out_dtype(const char* op, const Tensor& out) {
  check_defined(op, "out", out);
  return out.scalar_type();
}

void check_mix_out(const MixArgs& args, const Tensor& pixels, const Tensor& out) {
  const char* op = op_of(args);
  const std::vector<int64_t> sizes = out_sizes(args), strides = out_strides(args);
  const auto actual = out.sizes();
  if (to_string(actual) != to_string(sizes)) {
    fail(op, "out: expected shape ", to_string(sizes), ", got ", to_string(actual));
  }
  check_device(op, "out", out, {"target_pixels", pixels.device()});
  for (int d = 0; d < 4; ++d) {
    if (sizes[d] > 1 && out.numel() > 0 && out.stride(d) != strides[d]) {
      fail(op, "out: expected ", args.channels_last ? "a channels_last" : "a contiguous", " tensor with strides ",
           to_string(strides), ", got strides ", to_string(out.strides()));
    }
  }
}

void check_mix_values(const MixArgs& args) {
  const ValueNames name(args);
  for (int64_t b = 0; b < args.batch; ++b) {
    check_crop_values(args, args.target, "target", b);
    check_crop_values(args, args.aux, "aux", b);
    const float lam = at(args.lam, b);
    if (!(lam >= 0 && lam <= 1)) fail(name.op, name.of("lam", b), ": expected a number from 0 to 1, got ", lam);
    if (const Rectangle* box = box_of(args, b); box != nullptr && !fits_output(args, *box)) {
      fail(name.op, name.of("box", b), ": expected a rectangle inside the output of ", args.height, " x ", args.width,
           ", got ", rectangle_to_string(*box));
    }
  }
}

Tensor allocate_mix_out(const MixArgs& args, const Tensor& pixels) {
  using torch::headeronly::MemoryFormat;
  constexpr ScalarType kTypes[] = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half};  // as OutType
  const std::vector<int64_t> sizes = out_sizes(args);
  const ScalarType type = kTypes[static_cast<int>(args.out_type)];
  if (const int64_t bytes = block_bytes(args, pixels.device()); bytes > 0) {
    void* const block = take_output_block(op_of(args), bytes);
    // The storage gives its block back when the last tensor, view or array that refers to it is gone. Where from_blob
    // fails, it does not say whether it has called the deleter; the block is then lost rather than given to two.
    return torch::stable::from_blob(block, sizes, out_strides(args), pixels.device(), type,
                                    [bytes](void* data) noexcept { give_back_output_block(data, bytes); });
  }
  return torch::stable::empty(sizes, type, std::nullopt, pixels.device(), std::nullopt,
                              args.channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace xmixup
