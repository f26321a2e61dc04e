// `draw`: the checks of its arguments.
#include "draw.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "checks.h"

namespace xmixup {
namespace {

constexpr const char* kOp = "draw";
constexpr int64_t kMaxMembers = int64_t{1} << 31;    // uniform_below() takes no more
constexpr int64_t kMaxIntervals = int64_t{1} << 24;  // uniform_float() has so many values
constexpr int64_t kMaxSide = 0x7FFFFFFF;
constexpr const char* kStepNames[kColorSteps] = {"brightness", "contrast", "saturation", "hue"};

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
const T* data(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? data<T>(*tensor) : nullptr;
}

std::string to_text(const std::vector<double>& numbers) {
  std::ostringstream text;
  for (size_t i = 0; i < numbers.size(); ++i) text << (i > 0 ? ", " : "[") << numbers[i];
  return numbers.empty() ? "[]" : text.str() + "]";
}

void check_optional(const char* name, const std::optional<Tensor>& tensor, ScalarType type,
                    const std::vector<int64_t>& sizes, const ExpectedDevice& expected) {
  if (tensor.has_value()) check_tensor(kOp, name, *tensor, type, sizes, expected);
}

// A table that one of the settings needs, and that nothing else may be given.
void check_table(const char* name, const std::optional<Tensor>& table, const std::vector<int64_t>& sizes,
                 const char* setting, bool is_needed, const ExpectedDevice& expected) {
  if (is_needed && !table.has_value()) fail(kOp, name, ": expected a table, which ", setting, " needs, got None");
  if (!is_needed && table.has_value()) fail(kOp, name, ": expected None without ", setting, ", got a tensor");
  check_optional(name, table, ScalarType::Float, sizes, expected);
}

int64_t check_intervals(const char* name, const Tensor& table) {
  const int64_t intervals = table.size(0) - 1;
  if (intervals < 1 || intervals > kMaxIntervals) {
    fail(kOp, name, ": expected 2 to ", kMaxIntervals + 1, " numbers, got ", intervals + 1);
  }
  return intervals;
}

// The areas [first], [first + 1] of a setting, whose table has been checked.
ShapeSettings check_shape(const char* name, const std::vector<double>& numbers, size_t first, const char* table_name,
                          const Tensor& table) {
  const double least = numbers[first], most = numbers[first + 1];
  if (!(least > 0 && least <= most && most <= 1)) {
    fail(kOp, name, ": expected a positive area and one no less, up to 1, got ", least, " and ", most);
  }
  return {
      static_cast<float>(least), static_cast<float>(most), {data<float>(table), check_intervals(table_name, table)}};
}

float check_probability(const char* name, double probability) {
  if (!(probability >= 0 && probability <= 1)) {
    fail(kOp, name, ": expected a probability from 0 to 1, got ", probability);
  }
  return static_cast<float>(probability);
}

void check_size(DrawArgs& args, const DrawSettings& settings) {
  const std::vector<int64_t>& size = settings.size;
  const int64_t most = settings.erase.empty() ? kMaxSide : kMaxDrawnSide;
  if (size.size() != 2 || size[0] < 1 || size[1] < 1 || size[0] > most || size[1] > most) {
    fail(kOp, "size: expected height and width, 1 to ", most, " pixels each, got ", to_string(size));
  }
  args.crop.height = static_cast<int32_t>(size[0]);
  args.crop.width = static_cast<int32_t>(size[1]);
}

void check_crop_settings(DrawArgs& args, const DrawTensors& tensors, const DrawSettings& settings,
                         const ExpectedDevice& expected) {
  const std::vector<double>& scale = settings.scale;
  if (!scale.empty() && scale.size() != 2) {
    fail(kOp, "scale: expected no numbers, or the least and the greatest area, got ", to_text(scale));
  }
  args.crop.flip = settings.flip;
  args.crop.resized = !scale.empty();
  check_table("ratios", tensors.ratios, {kAny}, "scale", args.crop.resized, expected);
  if (args.crop.resized) args.crop.shape = check_shape("scale", scale, 0, "ratios", *tensors.ratios);
}

void check_erase_settings(DrawArgs& args, const DrawTensors& tensors, const DrawSettings& settings,
                          const ExpectedDevice& expected) {
  const std::vector<double>& erase = settings.erase;
  if (!erase.empty() && erase.size() != 3) {
    fail(kOp, "erase: expected no numbers, or a probability and the least and the greatest area, got ", to_text(erase));
  }
  args.erase.is_on = !erase.empty();
  check_table("erase_ratios", tensors.erase_ratios, {kAny}, "erase", args.erase.is_on, expected);
  if (!args.erase.is_on) return;
  args.erase.probability = check_probability("erase", erase[0]);
  args.erase.shape = check_shape("erase", erase, 1, "erase_ratios", *tensors.erase_ratios);
}

void check_means(const DrawArgs& args, const DrawTensors& tensors, const ExpectedDevice& expected) {
  const bool has_contrast = args.color.has_step[1];
  if (has_contrast && !tensors.target_means.has_value()) {
    fail(kOp, "target_means: expected uint8[images, 8, 8, 3], as contrast is about mean colours, got None");
  }
  if (has_contrast && args.member_count > 0 && !tensors.aux_means.has_value()) {
    fail(kOp, "aux_means: expected uint8[images, 8, 8, 3], as contrast is about mean colours, got None");
  }
  check_optional("target_means", tensors.target_means, ScalarType::Byte, {args.target.images, kGrid, kGrid, 3},
                 expected);
  check_optional("aux_means", tensors.aux_means, ScalarType::Byte, {args.aux.images, kGrid, kGrid, 3}, expected);
}

void check_color_settings(DrawArgs& args, const DrawTensors& tensors, const DrawSettings& settings,
                          const ExpectedDevice& expected) {
  const std::vector<double>& jitter = settings.jitter;
  ColorSettings& color = args.color;
  if (!jitter.empty() && jitter.size() != kColorSteps + 1) {
    fail(kOp, "jitter: expected no numbers, or brightness, contrast, saturation, hue and a probability, got ",
         to_text(jitter));
  }
  color.is_on = !jitter.empty();
  if (color.is_on) {
    for (int step = 0; step < kColorSteps; ++step) {
      const bool is_hue = step == kColorSteps - 1;
      const double range = jitter[step], middle = is_hue ? 0 : 1;
      color.has_step[step] = range > 0;
      color.least[step] = static_cast<float>(is_hue ? -range : std::max(0.0, 1 - range));
      color.most[step] = static_cast<float>(middle + range);
      if (!(range >= 0) || !std::isfinite(color.most[step]) || (is_hue && range > 0.5)) {
        fail(kOp, "jitter: expected ", is_hue ? "a number from 0 to 0.5" : "0 or a positive number", " for ",
             kStepNames[step], ", got ", range);
      }
    }
    color.probability = check_probability("jitter", jitter[kColorSteps]);
  }
  check_means(args, tensors, expected);
  const bool has_hue = color.has_step[kColorSteps - 1];
  check_table("turns", tensors.turns, {kAny, 2}, "hue", has_hue, expected);
  if (!has_hue) return;
  color.turns = data<float>(*tensors.turns);
  color.turn_intervals = check_intervals("turns", *tensors.turns);
}

void check_tensors(const DrawTensors& tensors, int64_t batch, const ExpectedDevice& expected) {
  check_tensor(kOp, "epoch", tensors.epoch, ScalarType::Long, {batch}, expected);
  check_tensor(kOp, "label", tensors.label, ScalarType::Long, {batch}, expected);
  check_tensor(kOp, "target_index", tensors.target_index, ScalarType::Long, {batch}, expected);
  check_tensor(kOp, "target_sizes", tensors.target_sizes, ScalarType::Int, {kAny, 2}, expected);
  check_tensor(kOp, "offsets", tensors.offsets, ScalarType::Long, {kAny}, expected);
  check_tensor(kOp, "members", tensors.members, ScalarType::Long, {kAny}, expected);
  check_tensor(kOp, "aux_sizes", tensors.aux_sizes, ScalarType::Int, {kAny, 2}, expected);
  check_optional("aux_labels", tensors.aux_labels, ScalarType::Long, {tensors.aux_sizes.size(0)}, expected);
  check_optional("partner", tensors.partner, ScalarType::Long, {batch}, expected);
  check_optional("mixed", tensors.mixed, ScalarType::Bool, {batch}, expected);
  check_tensor(kOp, "lam_quantiles", tensors.lam_quantiles, ScalarType::Float, {kAny}, expected);
  if (tensors.offsets.size(0) < 1) fail(kOp, "offsets: expected one number more than there are classes, got none");
  const int64_t members = tensors.members.size(0);
  if (members > kMaxMembers) fail(kOp, "members: expected at most ", kMaxMembers, " images, got ", members);
  if (tensors.partner.has_value() && members > 0) {
    fail(kOp, "partner: expected None where members are given, or no members, got a tensor and ", members, " members");
  }
}

std::string size_to_string(int64_t height, int64_t width) {
  return std::to_string(height) + " x " + std::to_string(width);
}

[[noreturn]] void fail_size(const char* name, const int32_t* sizes, int64_t image, const DrawArgs& args) {
  const int64_t height = sizes[2 * image], width = sizes[2 * image + 1];
  const std::string got = ", got " + size_to_string(height, width);
  if (args.crop.resized || height > args.most_side || width > args.most_side) {
    fail(kOp, name, "[", image, "]: expected an image of 1 to ", args.most_side, " pixels a side", got);
  }
  fail(kOp, name, "[", image, "]: expected an image that holds a window of ",
       size_to_string(args.crop.height, args.crop.width), got);
}

std::vector<int64_t> color_sizes(const DrawArgs& args) { return {args.color.is_on ? args.batch : 0, 2, 3, 4}; }

[[noreturn]] void fail_table(const char* name, const char* expected) {
  fail(kOp, name, ": expected ", expected, ", got another number");
}

[[noreturn]] void fail_label(const DrawArgs& args, DrawFault fault, int64_t b) {
  const int64_t label = args.label[b];
  switch (fault) {
    case DrawFault::label:
      fail(kOp, "label[", b, "]: expected a class from 0 to ", args.classes - 1, ", got ", label,
           instead_of_ignoring(label));
    case DrawFault::offsets:
      fail(kOp, "offsets[", label, "] and offsets[", label + 1, "]: expected numbers from 0 to ", args.member_count,
           ", the number of members, got ", args.offsets[label], " and ", args.offsets[label + 1]);
    case DrawFault::no_members:
      fail(kOp, "label[", b, "]: expected a class with members, got class ", label, ", which has none");
    default:
      fail(kOp, "members: expected images from 0 to ", args.aux.images - 1, ", got ", choose_aux(args, b),
           " for class ", label);
  }
}

}  // namespace

DrawArgs check_draw(int64_t seed, const DrawTensors& tensors, const DrawSettings& settings) {
  check_defined(kOp, "sample", tensors.sample);
  const ExpectedDevice expected{"sample", tensors.sample.device()};
  check_tensor(kOp, "sample", tensors.sample, ScalarType::Long, {kAny}, expected);
  const int64_t batch = tensors.sample.size(0);
  check_tensors(tensors, batch, expected);

  DrawArgs args{};
  args.seed = static_cast<uint64_t>(seed);
  args.sample = data<int64_t>(tensors.sample);
  args.epoch = data<int64_t>(tensors.epoch);
  args.label = data<int64_t>(tensors.label);
  args.target_index = data<int64_t>(tensors.target_index);
  args.target = {data<int32_t>(tensors.target_sizes), data<uint8_t>(tensors.target_means),
                 tensors.target_sizes.size(0)};
  args.offsets = data<int64_t>(tensors.offsets);
  args.classes = tensors.offsets.size(0) - 1;
  args.members = data<int64_t>(tensors.members);
  args.member_count = tensors.members.size(0);
  args.aux = {data<int32_t>(tensors.aux_sizes), data<uint8_t>(tensors.aux_means), tensors.aux_sizes.size(0)};
  args.aux_labels = data<int64_t>(tensors.aux_labels);
  args.partner = data<int64_t>(tensors.partner);
  args.mixed = data<bool>(tensors.mixed);
  args.lam_quantiles = {data<float>(tensors.lam_quantiles), check_intervals("lam_quantiles", tensors.lam_quantiles)};
  args.box = settings.box;
  args.one_lam = settings.one_lam;
  args.batch = batch;

  check_size(args, settings);
  check_crop_settings(args, tensors, settings, expected);
  check_color_settings(args, tensors, settings, expected);
  check_erase_settings(args, tensors, settings, expected);
  args.least_height = args.crop.resized ? 1 : args.crop.height;
  args.least_width = args.crop.resized ? 1 : args.crop.width;
  args.most_side = args.crop.resized || args.color.has_step[1] ? kMaxDrawnSide : kMaxSide;
  return args;
}

void fail_draw(const DrawArgs& args, int64_t sample) {
  const auto [fault, b] = draw_sample(args, sample);
  switch (fault) {
    case DrawFault::none: break;
    case DrawFault::epoch: fail(kOp, "epoch[", b, "]: expected a number from 0 to 2**32 - 1, got ", args.epoch[b]);
    case DrawFault::target_index:
      fail(kOp, "target_index[", b, "]: expected an image from 0 to ", args.target.images - 1, ", got ",
           args.target_index[b]);
    case DrawFault::target_size: fail_size("target_sizes", args.target.sizes, args.target_index[b], args);
    case DrawFault::partner:
      fail(kOp, "partner[", b, "]: expected a sample from 0 to ", args.batch - 1, ", got ", args.partner[b]);
    case DrawFault::label:
    case DrawFault::offsets:
    case DrawFault::no_members:
    case DrawFault::member: fail_label(args, fault, b);
    case DrawFault::aux_size: fail_size("aux_sizes", args.aux.sizes, choose_aux(args, b), args);
    case DrawFault::ratios: fail_table("ratios", "positive numbers");
    case DrawFault::erase_ratios: fail_table("erase_ratios", "positive numbers");
    case DrawFault::turns: fail_table("turns", "cosines and sines, from -1 to 1");
    case DrawFault::lam:
      fail(kOp, "lam_quantiles: expected numbers from 0 to 1, got some that make a lam of ", drawn_lam(args, b),
           " for sample ", b);
  }
  fail(kOp, "sample[", sample, "]: changed while it was drawn");
}

DrawOutputs allocate_draw_outputs(const DrawArgs& args, const Tensor& sample) {
  const auto allocate = [&](const std::vector<int64_t>& sizes, ScalarType type) {
    return torch::stable::empty(sizes, type, std::nullopt, sample.device());
  };
  return {allocate({args.batch, kPlanWords}, ScalarType::Int), allocate(color_sizes(args), ScalarType::Float)};
}

void check_draw_outputs(const DrawArgs& args, const Tensor& plan, const Tensor& color, const Tensor& sample) {
  const ExpectedDevice expected{"sample", sample.device()};
  check_tensor(kOp, "plan", plan, ScalarType::Int, {args.batch, kPlanWords}, expected);
  check_tensor(kOp, "color", color, ScalarType::Float, color_sizes(args), expected);
  check_plan_address(kOp, plan.mutable_data_ptr());
}

void set_draw_outputs(DrawArgs& args, const Tensor& plan, const Tensor& color) {
  args.plan = static_cast<PlanRow*>(plan.mutable_data_ptr());
  args.color_matrix = args.color.is_on ? static_cast<float*>(color.mutable_data_ptr()) : nullptr;
}

}  // namespace xmixup
