// The CPU kernel of `depthwise_conv2d_weight_grad`, compiled once per CPU level.
#pragma once

#include <cstdint>

namespace xmixup {

// A convolution along one axis: output position o and kernel tap t meet at input position o * stride + t * dilation -
// padding, if that is one.
struct ConvolutionAxis {
  int64_t input;   // positions
  int64_t output;  // positions
  int64_t taps;
  int64_t stride;
  int64_t padding;
  int64_t dilation;
};

struct DepthwiseArgs {
  const float* input;        // [batch, y.input, x.input, channels]
  const float* grad_output;  // [batch, y.output, x.output, channels]
  int64_t batch;
  int64_t channels;
  ConvolutionAxis y;
  ConvolutionAxis x;
};

constexpr int64_t kDepthwiseLanes = 16;  // channels of a block, which are computed together

// Writes the gradient of channel blocks [block, block_end), summed over images [image, image_end):
// float[blocks][y.taps] [x.taps][kDepthwiseLanes], with zeros where the last block has no channels. Every level gives
// the same bits.
using DepthwiseRows = void(const DepthwiseArgs& args, int64_t image, int64_t image_end, int64_t block,
                           int64_t block_end, float* sums);

namespace baseline {
DepthwiseRows depthwise_rows;
}
#if defined(__x86_64__)
namespace avx2 {
DepthwiseRows depthwise_rows;
}
namespace avx512 {
DepthwiseRows depthwise_rows;
}
#endif

}  // namespace xmixup
