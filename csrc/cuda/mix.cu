// `mix` on CUDA. A thread writes groups of four consecutive floats, 128 bits at a time where the output allows it.
#include "../mix.h"
#include "../schema.h"
#include "launch.h"

namespace xmixup {
namespace {

constexpr int kThreads = 256;
constexpr int kQuadsPerThread = 4;  // spreads the cost of finding a sample's windows over 64 bytes of output
constexpr int kQuadsPerBlock = kThreads * kQuadsPerThread;
constexpr int64_t kMaxGridY = 65535;

// The window of one sample in one pool.
struct Window {
  const uint8_t* first;  // byte of its first pixel
  int64_t row_bytes;     // from one row to the next
  bool flip;
};

__device__ inline Window open_window(const Side& side, int64_t b, int32_t out_height, int32_t out_width) {
  const WindowFault fault = find_fault(side, b, out_height, out_width);
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::index, "mix: an index is outside its image pool");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::image, "mix: an image is outside its pool's pixels");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::size, "mix: a window has another size than the output");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::place, "mix: a window is outside its image");
  return {window_row(side, b, 0), 3 * static_cast<int64_t>(side.sizes[2 * side.index[b] + 1]), side.flip[b]};
}

__device__ inline float load_byte(const Window& window, int32_t y, int32_t x, int32_t c, int32_t out_width) {
  const int32_t column = window.flip ? out_width - 1 - x : x;
  return static_cast<float>(window.first[y * window.row_bytes + 3 * column + c]);
}

__device__ inline float pick(int32_t c, float red, float green, float blue) {
  return c == 0 ? red : c == 1 ? green : blue;
}

// Everything about one sample that its pixels share.
struct Sample {
  Window target;
  Window aux;
  ChannelWeights red, green, blue;
  bool has_aux;
  int32_t width;

  __device__ float value(int32_t y, int32_t x, int32_t c) const {
    float sum = pick(c, red.bias, green.bias, blue.bias);
    if (has_aux) {
      sum = fmaf(load_byte(aux, y, x, c, width), pick(c, red.aux, green.aux, blue.aux), sum);
    }
    return fmaf(load_byte(target, y, x, c, width), pick(c, red.target, green.target, blue.target), sum);
  }
};

__device__ inline Sample open_sample(const MixArgs& args, int64_t b) {
  const float lam = args.lam[b];
  XMIXUP_DEVICE_ASSERT(lam >= 0.0f && lam <= 1.0f, "mix: a lam is outside 0 to 1");
  Sample sample;
  sample.target = open_window(args.target, b, args.height, args.width);
  sample.aux = open_window(args.aux, b, args.height, args.width);
  sample.red = channel_weights(lam, args.scale[0], args.bias[0]);
  sample.green = channel_weights(lam, args.scale[1], args.bias[1]);
  sample.blue = channel_weights(lam, args.scale[2], args.bias[2]);
  sample.has_aux = lam != 1.0f;
  sample.width = args.width;
  return sample;
}

// Four floats to consecutive places, of which the first `room` exist.
template <bool whole_quads>
__device__ inline void store_quad(float* out, int32_t room, float a, float b, float c, float d) {
  if constexpr (whole_quads) {
    *reinterpret_cast<float4*>(out) = make_float4(a, b, c, d);
  } else {
    out[0] = a;
    if (room > 1) out[1] = b;
    if (room > 2) out[2] = c;
    if (room > 3) out[3] = d;
  }
}

// Steps through a window in the order of the output; beyond its end it stays on the last pixel, whose value is then
// computed once more and not stored.
struct Cursor {
  int32_t y, x, height, width;

  __device__ void next_pixel() {
    if (++x == width) {
      x = 0;
      if (++y == height) y = height - 1;
    }
  }
};

template <bool whole_quads>
__device__ inline void mix_quad_interleaved(const Sample& sample, int32_t height, int32_t first, int32_t count,
                                            float* image) {
  const int32_t row = 3 * sample.width, y = first / row, x = (first - y * row) / 3;
  Cursor at{y, x, height, sample.width};
  int32_t c = first % 3;
  const auto next = [&] {
    const float value = sample.value(at.y, at.x, c);
    if (++c == 3) {
      c = 0;
      at.next_pixel();
    }
    return value;
  };
  const float v0 = next(), v1 = next(), v2 = next(), v3 = next();
  store_quad<whole_quads>(image + first, count - first, v0, v1, v2, v3);
}

template <bool whole_quads>
__device__ inline void mix_quad_planar(const Sample& sample, int32_t height, int32_t first, int32_t count,
                                       float* image) {
  const int32_t y = first / sample.width;
  for (int32_t c = 0; c < 3; ++c) {
    Cursor at{y, first - y * sample.width, height, sample.width};
    const auto next = [&] {
      const float value = sample.value(at.y, at.x, c);
      at.next_pixel();
      return value;
    };
    const float v0 = next(), v1 = next(), v2 = next(), v3 = next();
    store_quad<whole_quads>(image + static_cast<int64_t>(c) * count + first, count - first, v0, v1, v2, v3);
  }
}

// A quad is four consecutive floats of a channels_last image, or of each plane of a contiguous one.
template <bool channels_last, bool whole_quads>
__global__ void __launch_bounds__(kThreads) mix_kernel(const MixArgs args) {
  const int32_t plane = args.height * args.width;
  const int32_t count = channels_last ? 3 * plane : plane;
  for (int64_t b = blockIdx.y; b < args.batch; b += gridDim.y) {
    const Sample sample = open_sample(args, b);
    float* image = args.out + b * 3 * plane;
    for (int k = 0; k < kQuadsPerThread; ++k) {
      const int32_t first = 4 * static_cast<int32_t>(blockIdx.x * kQuadsPerBlock + k * kThreads + threadIdx.x);
      if (first >= count) break;
      if constexpr (channels_last) {
        mix_quad_interleaved<whole_quads>(sample, args.height, first, count, image);
      } else {
        mix_quad_planar<whole_quads>(sample, args.height, first, count, image);
      }
    }
  }
}

void run_mix(const MixArgs& args, int32_t device_index) {
  if (args.batch == 0) return;
  const int32_t plane = args.height * args.width;
  const int32_t count = args.channels_last ? 3 * plane : plane;
  const int32_t quads = (count + 3) / 4;
  const dim3 grid((quads + kQuadsPerBlock - 1) / kQuadsPerBlock,
                  static_cast<unsigned>(args.batch < kMaxGridY ? args.batch : kMaxGridY));
  const bool whole_quads = count % 4 == 0 && reinterpret_cast<uintptr_t>(args.out) % sizeof(float4) == 0;
  const auto kernel = args.channels_last ? (whole_quads ? mix_kernel<true, true> : mix_kernel<true, false>)
                                         : (whole_quads ? mix_kernel<false, true> : mix_kernel<false, false>);
  Launcher launch(device_index);
  launch(kernel, grid, dim3(kThreads), args);
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, XMIXUP_DEVICE_KEY, m) {
  m.impl("mix", TORCH_BOX(&xmixup::mix<xmixup::run_mix>));
  m.impl("mix_out", TORCH_BOX(&xmixup::mix_out<xmixup::run_mix>));
}
