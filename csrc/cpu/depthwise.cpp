// `depthwise_conv2d_weight_grad`, for the CPU alone: the checks of its arguments; torch's threads share blocks of
// channels and of images, and run the kernel of this CPU's level.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <string>
#include <vector>

#include "../checks.h"
#include "../schema.h"
#include "depthwise_rows.h"
#include "level.h"

namespace xmixup {
namespace {

constexpr const char* kOp = "depthwise_conv2d_weight_grad";

constexpr int64_t kMaxTaps = 1024;       // along an axis
constexpr int64_t kMaxExtent = 1 << 24;  // of stride, padding and dilation: no product of theirs leaves 64 bits

// Tasks are chunks of images times groups of channel blocks: the same ones with any number of threads, so that sums are
// added in the same order.
constexpr int64_t kTasks = 64;                 // as many, or more, where the batch has images for them
constexpr int64_t kBlocksPerTask = 16;         // side by side in memory, which is read fastest in its order
constexpr int64_t kProductsPerTask = 1 << 18;  // the fewest that a thread is given: about 20 microseconds of work

// Checks what all arguments of two integers have in common.
void check_pair(const char* name, const std::vector<int64_t>& pair, int64_t least, int64_t most) {
  if (pair.size() == 2 && std::all_of(pair.begin(), pair.end(), [&](int64_t n) { return n >= least && n <= most; })) {
    return;
  }
  std::string got;
  for (const int64_t n : pair) got += (got.empty() ? "" : ", ") + std::to_string(n);
  fail(kOp, name, ": expected 2 integers from ", least, " to ", most, ", got [", got, "]");
}

// Checks a tensor that is read as float32[batch, height, width, channels].
void check_images(const char* name, const Tensor& tensor, const std::vector<int64_t>& sizes) {
  check_defined(kOp, name, tensor);
  const auto actual = tensor.sizes();
  bool fits = tensor.scalar_type() == ScalarType::Float && actual.size() == sizes.size();
  for (size_t d = 0; fits && d < sizes.size(); ++d) fits = sizes[d] == kAny || sizes[d] == actual[d];
  if (!fits) {
    fail(kOp, name, ": expected ", to_string(ScalarType::Float), to_string(sizes), ", got ",
         to_string(tensor.scalar_type()), to_string(actual));
  }
  if (tensor.numel() == 0) return;
  int64_t stride = 1;
  for (const size_t d : {1, 3, 2, 0}) {
    if (actual[d] != 1 && tensor.strides()[d] != stride) {
      fail(kOp, name, ": expected a tensor in torch.channels_last, got ", to_string(actual), " with strides ",
           to_string(tensor.strides()));
    }
    stride *= actual[d];
  }
}

ConvolutionAxis check_axis(const char* side, int64_t input, int64_t taps, int64_t stride, int64_t padding,
                           int64_t dilation) {
  const int64_t room = input + 2 * padding - dilation * (taps - 1) - 1;
  if (room < 0) {
    fail(kOp, "input: expected a ", side, " of at least ", input - room, " for the kernel, got ", input);
  }
  return {input, room / stride + 1, taps, stride, padding, dilation};
}

DepthwiseArgs check_depthwise(const Tensor& input, const Tensor& grad_output, const std::vector<int64_t>& kernel_size,
                              const std::vector<int64_t>& stride, const std::vector<int64_t>& padding,
                              const std::vector<int64_t>& dilation) {
  check_images("input", input, {kAny, kAny, kAny, kAny});
  check_pair("kernel_size", kernel_size, 1, kMaxTaps);
  check_pair("stride", stride, 1, kMaxExtent);
  check_pair("padding", padding, 0, kMaxExtent);
  check_pair("dilation", dilation, 1, kMaxExtent);
  DepthwiseArgs args{};
  args.batch = input.size(0);
  args.channels = input.size(1);
  args.y = check_axis("height", input.size(2), kernel_size[0], stride[0], padding[0], dilation[0]);
  args.x = check_axis("width", input.size(3), kernel_size[1], stride[1], padding[1], dilation[1]);
  check_images("grad_output", grad_output, {args.batch, args.channels, args.y.output, args.x.output});
  args.input = static_cast<const float*>(input.const_data_ptr());
  args.grad_output = static_cast<const float*>(grad_output.const_data_ptr());
  return args;
}

// Adds up what depthwise_rows has written for each chunk of images: the gradient [channels, taps] of a block.
void add_chunks(const float* sums, int64_t chunks, int64_t chunk_sums, int64_t channels, int64_t taps, float* grad) {
  for (int64_t tap = 0; tap < taps; ++tap) {
    double total[kDepthwiseLanes] = {};
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const float* lanes = sums + chunk * chunk_sums + tap * kDepthwiseLanes;
      for (int64_t c = 0; c < kDepthwiseLanes; ++c) total[c] += lanes[c];
    }
    for (int64_t c = 0; c < channels; ++c) grad[c * taps + tap] = static_cast<float>(total[c]);
  }
}

void compute(const DepthwiseArgs& args, float* grad) {
  static DepthwiseRows* const depthwise_rows = XMIXUP_FOR_CPU_LEVEL(depthwise_rows);
  const int64_t taps = args.y.taps * args.x.taps;
  const int64_t blocks = (args.channels + kDepthwiseLanes - 1) / kDepthwiseLanes, block_sums = taps * kDepthwiseLanes;
  const int64_t groups = (blocks + kBlocksPerTask - 1) / kBlocksPerTask;
  const int64_t chunks = std::min((kTasks + groups - 1) / groups, args.batch);
  Tensor partial = torch::stable::empty({chunks, blocks, block_sums}, ScalarType::Float);
  auto* const sums = static_cast<float*>(partial.mutable_data_ptr());
  const int64_t products = args.y.output * args.x.output * (args.batch / chunks) * block_sums * kBlocksPerTask;
  torch::stable::parallel_for(0, chunks * groups, 1 + kProductsPerTask / products, [&](int64_t task, int64_t end) {
    for (; task < end; ++task) {
      const int64_t chunk = task / groups, block = task % groups * kBlocksPerTask;
      depthwise_rows(args, chunk * args.batch / chunks, (chunk + 1) * args.batch / chunks, block,
                     std::min(block + kBlocksPerTask, blocks), sums + (chunk * blocks + block) * block_sums);
    }
  });
  const int64_t additions = chunks * block_sums;
  torch::stable::parallel_for(0, blocks, 1 + kProductsPerTask / additions, [&](int64_t block, int64_t end) {
    for (; block < end; ++block) {
      const int64_t channel = block * kDepthwiseLanes, channels = std::min(kDepthwiseLanes, args.channels - channel);
      add_chunks(sums + block * block_sums, chunks, blocks * block_sums, channels, taps, grad + channel * taps);
    }
  });
}

Tensor depthwise_conv2d_weight_grad(Tensor input, Tensor grad_output, std::vector<int64_t> kernel_size,
                                    std::vector<int64_t> stride, std::vector<int64_t> padding,
                                    std::vector<int64_t> dilation) {
  const DepthwiseArgs args = check_depthwise(input, grad_output, kernel_size, stride, padding, dilation);
  Tensor grad = torch::stable::empty({args.channels, 1, args.y.taps, args.x.taps}, ScalarType::Float);
  auto* const grad_data = static_cast<float*>(grad.mutable_data_ptr());
  if (grad_output.numel() > 0) {
    compute(args, grad_data);
  } else {
    std::fill_n(grad_data, grad.numel(), 0.0f);
  }
  return grad;
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CPU, m) {
  m.impl("depthwise_conv2d_weight_grad", TORCH_BOX(&xmixup::depthwise_conv2d_weight_grad));
}
