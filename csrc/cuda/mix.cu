// `mix` on CUDA. A thread writes groups of consecutive elements, 128 bits at a time where the output allows it.
#include "../core/floats.h"
#include "../mix.h"
#include "../schema.h"
#include "launch.h"

namespace xmixup {
namespace {

constexpr int kThreads = 256;
constexpr int kGroupsPerThread = 4;  // spreads the cost of finding a sample's windows over 64 bytes of output
constexpr int kGroupsPerBlock = kThreads * kGroupsPerThread;
constexpr int kBlocksPerProcessor = 2;  // at least; leaves 128 registers a thread, so that nothing is spilled
constexpr int64_t kMaxGridY = 65535;

// The output's elements, as bits.
__device__ inline uint32_t encode(float value, const float*) { return float_bits(value); }

__device__ inline uint32_t encode(float value, const BFloat16*) { return to_bfloat16(value); }
__device__ inline void put(float value, BFloat16* p) { p->bits = to_bfloat16(value); }

__device__ inline uint32_t encode(float value, const Float16*) { return to_float16(value); }
__device__ inline void put(float value, Float16* p) { p->bits = to_float16(value); }

__device__ inline void put(float value, float* p) { *p = value; }

// Consecutive elements that make 128 bits.
template <typename Out>
constexpr int kGroup = 16 / sizeof(Out);

template <typename Out>
__device__ inline uint32_t word(const float* values, int k) {
  constexpr const Out* type = nullptr;
  if constexpr (sizeof(Out) == 4) {
    return encode(values[k], type);
  } else {
    return encode(values[2 * k], type) | encode(values[2 * k + 1], type) << 16;
  }
}

// A group of which the first `room` elements exist. Every index is a constant once the loop is unrolled: an array that
// is indexed at run time would lie in memory.
template <bool whole_groups, typename Out>
__device__ inline void store_group(const float (&values)[kGroup<Out>], int32_t room, Out* out) {
  if constexpr (whole_groups) {
    // Spelled as an intrinsic, because the compiler splits an assignment into four stores.
    __stwb(reinterpret_cast<uint4*>(out),
           make_uint4(word<Out>(values, 0), word<Out>(values, 1), word<Out>(values, 2), word<Out>(values, 3)));
  } else {
#pragma unroll
    for (int k = 0; k < kGroup<Out>; ++k) {
      if (k < room) put(values[k], out + k);
    }
  }
}

// The window of one sample in one pool.
struct Window {
  const uint8_t* first;  // byte of its first pixel
  int64_t row_bytes;     // from one row to the next
  int32_t height, width;
  bool flip;

  __device__ float byte(int32_t y, int32_t x, int32_t c) const {
    return static_cast<float>(first[y * row_bytes + 3 * x + c]);
  }

  // Of a crop: the byte at a place of the output.
  __device__ float crop_value(int32_t y, int32_t x, int32_t c) const { return byte(y, flip ? width - 1 - x : x, c); }

  // Of any window, brought to the output's size: vertically first.
  __device__ float resampled_value(int32_t y, int32_t x, int32_t c, int32_t out_height, int32_t out_width) const {
    const Between rows = between(y, out_height, height);
    const Between columns = between(flip ? out_width - 1 - x : x, out_width, width);
    const float left = byte(rows.before, columns.before, c), right = byte(rows.before, columns.after, c);
    const float first_column = fmaf(rows.weight, byte(rows.after, columns.before, c) - left, left);
    const float last_column = fmaf(rows.weight, byte(rows.after, columns.after, c) - right, right);
    return fmaf(columns.weight, last_column - first_column, first_column);
  }
};

__device__ inline Window open_window(const Side& side, int64_t b) {
  const WindowFault fault = find_fault(side, b);
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::index, "mix: an index is outside its image pool");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::image, "mix: an image is outside its pool's pixels");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::place, "mix: a window is outside its image");
  const int32_t* window = side.window + 4 * b;
  return {window_row(side, b, 0), 3 * static_cast<int64_t>(side.sizes[2 * side.index[b] + 1]), window[2], window[3],
          side.flip[b]};
}

__device__ inline float pick(int32_t c, float red, float green, float blue) {
  return c == 0 ? red : c == 1 ? green : blue;
}

// Everything about one sample that its pixels share.
struct Sample {
  Window target;
  Window aux;
  float lam;  // 1 where there is a box: each pixel is then one image's alone
  int32_t box_top, box_left, box_bottom, box_right;

  __device__ bool has_box() const { return box_top < box_bottom && box_left < box_right; }
  __device__ bool in_box(int32_t y, int32_t x) const {
    return y >= box_top && y < box_bottom && x >= box_left && x < box_right;
  }
};

__device__ inline Sample open_sample(const MixArgs& args, int64_t b) {
  XMIXUP_DEVICE_ASSERT(args.lam[b] >= 0.0f && args.lam[b] <= 1.0f, "mix: a lam is outside 0 to 1");
  Sample sample = {open_window(args.target, b), open_window(args.aux, b), args.lam[b], 0, 0, 0, 0};
  if (args.box != nullptr) {
    XMIXUP_DEVICE_ASSERT(box_fits(args, b), "mix: a box is outside the output");
    const int32_t* box = args.box + 4 * b;
    sample.box_top = box[0];
    sample.box_left = box[1];
    sample.box_bottom = box[0] + box[2];
    sample.box_right = box[1] + box[3];
    sample.lam = 1.0f;
  }
  return sample;
}

__device__ inline ChannelWeights weights_of(const MixArgs& args, float lam, int32_t c) {
  return channel_weights(lam, pick(c, args.scale[0], args.scale[1], args.scale[2]),
                         pick(c, args.bias[0], args.bias[1], args.bias[2]));
}

// --- crops, blended: the path that must be fast ---

__device__ inline float crop_value(const MixArgs& args, const Sample& sample, int32_t y, int32_t x, int32_t c) {
  const ChannelWeights w = weights_of(args, sample.lam, c);
  const float sum = sample.lam == 1.0f ? w.bias : fmaf(sample.aux.crop_value(y, x, c), w.aux, w.bias);
  return fmaf(sample.target.crop_value(y, x, c), w.target, sum);
}

// A place in the output. Beyond the last pixel it stays there: what is computed then is not stored.
struct Cursor {
  int32_t y, x, height, width;

  __device__ void next_pixel() {
    if (++x == width) {
      x = 0;
      if (++y == height) y = height - 1;
    }
  }
};

template <bool whole_groups, typename Out>
__device__ inline void mix_crop_interleaved(const MixArgs& args, const Sample& sample, int32_t first, int32_t count,
                                            Out* image) {
  const int32_t row = 3 * args.width, y = first / row;
  Cursor at{y, (first - y * row) / 3, args.height, args.width};
  int32_t c = first % 3;
  float values[kGroup<Out>];
#pragma unroll
  for (int k = 0; k < kGroup<Out>; ++k) {
    values[k] = crop_value(args, sample, at.y, at.x, c);
    if (++c == 3) {
      c = 0;
      at.next_pixel();
    }
  }
  store_group<whole_groups>(values, count - first, image + first);
}

template <bool whole_groups, typename Out>
__device__ inline void mix_crop_planar(const MixArgs& args, const Sample& sample, int32_t first, int32_t count,
                                       Out* image) {
  const int32_t y = first / args.width;
#pragma unroll 1
  for (int32_t c = 0; c < 3; ++c) {
    Cursor at{y, first - y * args.width, args.height, args.width};
    float values[kGroup<Out>];
#pragma unroll
    for (int k = 0; k < kGroup<Out>; ++k) {
      values[k] = crop_value(args, sample, at.y, at.x, c);
      at.next_pixel();
    }
    store_group<whole_groups>(values, count - first, image + static_cast<int64_t>(c) * count + first);
  }
}

// --- resampled windows and boxes: an element a time ---

__device__ inline float any_value(const MixArgs& args, const Sample& sample, int32_t y, int32_t x, int32_t c) {
  const ChannelWeights w = weights_of(args, sample.lam, c);
  const int32_t height = args.height, width = args.width;
  if (sample.in_box(y, x)) return fmaf(sample.aux.resampled_value(y, x, c, height, width), w.target, w.bias);
  float sum = w.bias;
  if (sample.lam != 1.0f) sum = fmaf(sample.aux.resampled_value(y, x, c, height, width), w.aux, sum);
  return fmaf(sample.target.resampled_value(y, x, c, height, width), w.target, sum);
}

// Elements [begin, end) of a channels_last image, or of each plane of a contiguous one, of `count` elements.
template <bool channels_last, typename Out>
__device__ inline void mix_elements(const MixArgs& args, const Sample& sample, int32_t begin, int32_t end,
                                    int32_t count, Out* image) {
  const int32_t row = channels_last ? 3 * args.width : args.width;
#pragma unroll 1
  for (int32_t i = begin + static_cast<int32_t>(threadIdx.x); i < end; i += kThreads) {
    const int32_t y = i / row, in_row = i - y * row;
    if constexpr (channels_last) {
      put(any_value(args, sample, y, in_row / 3, in_row % 3), image + i);
    } else {
#pragma unroll 1
      for (int32_t c = 0; c < 3; ++c) {
        put(any_value(args, sample, y, in_row, c), image + static_cast<int64_t>(c) * count + i);
      }
    }
  }
}

template <typename Out, bool channels_last, bool whole_groups>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) mix_kernel(const MixArgs args) {
  const int32_t plane = args.height * args.width;
  const int32_t count = channels_last ? 3 * plane : plane;
  const int32_t first_group = static_cast<int32_t>(blockIdx.x) * kGroupsPerBlock;
  for (int64_t b = blockIdx.y; b < args.batch; b += gridDim.y) {
    const Sample sample = open_sample(args, b);
    Out* image = static_cast<Out*>(args.out) + b * 3 * plane;
    if (sample.has_box() || !is_crop(args.target, b, args) || (sample.lam != 1.0f && !is_crop(args.aux, b, args))) {
      const int32_t begin = kGroup<Out> * first_group, room = count - begin;
      const int32_t end = begin + (room < kGroup<Out> * kGroupsPerBlock ? room : kGroup<Out> * kGroupsPerBlock);
      mix_elements<channels_last>(args, sample, begin, end, count, image);
      continue;
    }
#pragma unroll 1
    for (int k = 0; k < kGroupsPerThread; ++k) {
      const int32_t first = kGroup<Out> * (first_group + k * kThreads + static_cast<int32_t>(threadIdx.x));
      if (first >= count) break;
      if constexpr (channels_last) {
        mix_crop_interleaved<whole_groups>(args, sample, first, count, image);
      } else {
        mix_crop_planar<whole_groups>(args, sample, first, count, image);
      }
    }
  }
}

template <typename Out>
void launch_mix(const MixArgs& args, int32_t device_index) {
  const int32_t plane = args.height * args.width;
  const int32_t count = args.channels_last ? 3 * plane : plane;
  const int32_t groups = (count + kGroup<Out> - 1) / kGroup<Out>;
  const dim3 grid((groups + kGroupsPerBlock - 1) / kGroupsPerBlock,
                  static_cast<unsigned>(args.batch < kMaxGridY ? args.batch : kMaxGridY));
  const bool whole = count % kGroup<Out> == 0 && reinterpret_cast<uintptr_t>(args.out) % sizeof(uint4) == 0;
  const auto kernel = args.channels_last ? (whole ? mix_kernel<Out, true, true> : mix_kernel<Out, true, false>)
                                         : (whole ? mix_kernel<Out, false, true> : mix_kernel<Out, false, false>);
  Launcher launch(device_index);
  launch(kernel, grid, dim3(kThreads), args);
}

void run_mix(const MixArgs& args, int32_t device_index) {
  if (args.batch == 0) return;
  switch (args.out_type) {
    case OutType::float32: return launch_mix<float>(args, device_index);
    case OutType::bfloat16: return launch_mix<BFloat16>(args, device_index);
    case OutType::float16: return launch_mix<Float16>(args, device_index);
  }
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, XMIXUP_DEVICE_KEY, m) {
  m.impl("mix", TORCH_BOX(&xmixup::mix<xmixup::run_mix>));
  m.impl("mix_out", TORCH_BOX(&xmixup::mix_out<xmixup::run_mix>));
}
