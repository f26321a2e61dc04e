// `draw`: the checks of its arguments.
#include "draw.h"

#include <string>

#include "checks.h"

namespace xmixup {
namespace {

constexpr const char* kOp = "draw";
constexpr int64_t kMaxMembers = int64_t{1} << 31;    // uniform_below() takes no more
constexpr int64_t kMaxIntervals = int64_t{1} << 24;  // uniform_float() has so many values

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

std::string size_to_string(int64_t height, int64_t width) {
  return std::to_string(height) + " x " + std::to_string(width);
}

[[noreturn]] void fail_too_small(const char* name, const int32_t* sizes, int64_t image, const DrawArgs& args) {
  fail(kOp, name, "[", image, "]: expected an image that holds a window of ", size_to_string(args.height, args.width),
       ", got ", size_to_string(sizes[2 * image], sizes[2 * image + 1]));
}

void check_lam_quantiles(const DrawArgs& args) {
  float least = 0;
  for (int64_t q = 0; q <= args.intervals; ++q) {
    const float value = args.lam_quantiles[q];
    if (!(value >= least && value <= 1)) {
      fail(kOp, "lam_quantiles[", q, "]: expected a number from ", least, " to 1, as quantiles rise, got ", value);
    }
    least = value;
  }
}

void check_offsets(const DrawArgs& args) {
  int64_t least = 0;
  for (int64_t k = 0; k <= args.classes; ++k) {
    const int64_t value = args.offsets[k];
    const bool starts_at_0 = k > 0 || value == 0, ends_at_count = k < args.classes || value == args.member_count;
    if (!starts_at_0 || !ends_at_count || value < least || value > args.member_count) {
      fail(kOp, "offsets[", k, "]: expected numbers that rise from 0 to ", args.member_count,
           ", the number of members, got ", value);
    }
    least = value;
  }
}

void check_sample_values(const DrawArgs& args, int64_t b) {
  const int64_t target = args.target_index[b], label = args.label[b];
  switch (check_sample(args, b)) {
    case DrawFault::none: break;
    case DrawFault::epoch: fail(kOp, "epoch[", b, "]: expected a number from 0 to 2**32 - 1, got ", args.epoch[b]);
    case DrawFault::target_index:
      fail(kOp, "target_index[", b, "]: expected an image from 0 to ", args.targets - 1, ", got ", target);
    case DrawFault::target_size: fail_too_small("target_sizes", args.target_sizes, target, args);
    case DrawFault::label: fail(kOp, "label[", b, "]: expected a class from 0 to ", args.classes - 1, ", got ", label);
    case DrawFault::no_members:
      fail(kOp, "label[", b, "]: expected a class with members, got class ", label, ", which has none");
    case DrawFault::member:
      fail(kOp, "members: expected images from 0 to ", args.auxes - 1, ", got ", choose_aux(args, b), " for class ",
           label);
    case DrawFault::aux_size: fail_too_small("aux_sizes", args.aux_sizes, choose_aux(args, b), args);
  }
}

}  // namespace

DrawArgs check_draw(int64_t seed, const DrawTensors& tensors, const std::vector<int64_t>& size, bool flip) {
  check_defined(kOp, "sample", tensors.sample);
  const ExpectedDevice expected{"sample", tensors.sample.device()};
  check_tensor(kOp, "sample", tensors.sample, ScalarType::Long, {kAny}, expected);
  const int64_t batch = tensors.sample.size(0);
  check_tensor(kOp, "epoch", tensors.epoch, ScalarType::Long, {batch}, expected);
  check_tensor(kOp, "label", tensors.label, ScalarType::Long, {batch}, expected);
  check_tensor(kOp, "target_index", tensors.target_index, ScalarType::Long, {batch}, expected);
  check_tensor(kOp, "target_sizes", tensors.target_sizes, ScalarType::Int, {kAny, 2}, expected);
  check_tensor(kOp, "offsets", tensors.offsets, ScalarType::Long, {kAny}, expected);
  check_tensor(kOp, "members", tensors.members, ScalarType::Long, {kAny}, expected);
  check_tensor(kOp, "aux_sizes", tensors.aux_sizes, ScalarType::Int, {kAny, 2}, expected);
  check_tensor(kOp, "lam_quantiles", tensors.lam_quantiles, ScalarType::Float, {kAny}, expected);

  DrawArgs args{};
  args.seed = static_cast<uint64_t>(seed);
  args.sample = data<int64_t>(tensors.sample);
  args.epoch = data<int64_t>(tensors.epoch);
  args.label = data<int64_t>(tensors.label);
  args.target_index = data<int64_t>(tensors.target_index);
  args.target_sizes = data<int32_t>(tensors.target_sizes);
  args.targets = tensors.target_sizes.size(0);
  args.offsets = data<int64_t>(tensors.offsets);
  args.classes = tensors.offsets.size(0) - 1;
  args.members = data<int64_t>(tensors.members);
  args.member_count = tensors.members.size(0);
  args.aux_sizes = data<int32_t>(tensors.aux_sizes);
  args.auxes = tensors.aux_sizes.size(0);
  args.lam_quantiles = data<float>(tensors.lam_quantiles);
  args.intervals = tensors.lam_quantiles.size(0) - 1;
  args.flip = flip;
  args.batch = batch;

  if (args.classes < 0) fail(kOp, "offsets: expected one number more than there are classes, got none");
  if (args.member_count > kMaxMembers) {
    fail(kOp, "members: expected at most ", kMaxMembers, " images, got ", args.member_count);
  }
  if (args.intervals < 1 || args.intervals > kMaxIntervals) {
    fail(kOp, "lam_quantiles: expected 2 to ", kMaxIntervals + 1, " numbers, got ", args.intervals + 1);
  }
  constexpr int64_t kMaxSide = 0x7FFFFFFF;
  if (size.size() != 2 || size[0] < 1 || size[1] < 1 || size[0] > kMaxSide || size[1] > kMaxSide) {
    fail(kOp, "size: expected height and width, 1 to ", kMaxSide, " pixels each, got ", to_string(size));
  }
  args.height = static_cast<int32_t>(size[0]);
  args.width = static_cast<int32_t>(size[1]);
  return args;
}

void check_draw_values(const DrawArgs& args) {
  check_lam_quantiles(args);
  if (args.member_count > 0) check_offsets(args);
  for (int64_t b = 0; b < args.batch; ++b) check_sample_values(args, b);
}

DrawOutputs allocate_draw_outputs(DrawArgs& args, const Tensor& sample) {
  const auto allocate = [&](std::vector<int64_t> sizes, ScalarType type) {
    return torch::stable::empty(sizes, type, std::nullopt, sample.device());
  };
  const int64_t batch = args.batch;
  DrawOutputs outputs{allocate({batch, 4}, ScalarType::Int),  allocate({batch}, ScalarType::Bool),
                      allocate({batch}, ScalarType::Long),    allocate({batch, 4}, ScalarType::Int),
                      allocate({batch}, ScalarType::Bool),    allocate({batch}, ScalarType::Float),
                      allocate({batch, 2}, ScalarType::Float)};
  const auto& [target_window, target_flip, aux_index, aux_window, aux_flip, lam, center] = outputs;
  args.target_window = static_cast<int32_t*>(target_window.mutable_data_ptr());
  args.target_flip = static_cast<bool*>(target_flip.mutable_data_ptr());
  args.aux_index = static_cast<int64_t*>(aux_index.mutable_data_ptr());
  args.aux_window = static_cast<int32_t*>(aux_window.mutable_data_ptr());
  args.aux_flip = static_cast<bool*>(aux_flip.mutable_data_ptr());
  args.lam = static_cast<float*>(lam.mutable_data_ptr());
  args.center = static_cast<float*>(center.mutable_data_ptr());
  return outputs;
}

}  // namespace xmixup
