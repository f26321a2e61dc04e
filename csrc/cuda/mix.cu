// `mix` on CUDA. A thread writes groups of consecutive elements, 128 bits at a time where the output allows it.
#include "../core/half.h"
#include "../mix.h"
#include "../schema.h"
#include "launch.h"

namespace xmixup {
namespace {

constexpr int kThreads = 256;
constexpr int kGroupsPerThread = 4;  // spreads the cost of finding a sample's windows over 64 bytes of output
constexpr int kGroupsPerBlock = kThreads * kGroupsPerThread;
constexpr int64_t kMaxGridY = 65535;

struct Bfloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

__device__ inline void put(float value, float* p) { *p = value; }
__device__ inline void put(float value, Bfloat16* p) { p->bits = to_bfloat16(value); }
__device__ inline void put(float value, Float16* p) { p->bits = to_float16(value); }

// Elements that are stored at once.
template <typename Out>
constexpr int kGroup = 16 / sizeof(Out);

template <typename Out>
struct alignas(16) Group {
  Out elements[kGroup<Out>];
};

// The window of one sample in one pool, and the size it is brought to.
struct Window {
  const uint8_t* first;  // byte of its first pixel
  int64_t row_bytes;     // from one row to the next
  int32_t height, width;
  int32_t out_height, out_width;
  bool flip;

  __device__ float byte(int32_t y, int32_t x, int32_t c) const {
    return static_cast<float>(first[y * row_bytes + 3 * x + c]);
  }

  // The window's element at a place of the output.
  __device__ float value(int32_t y, int32_t x, int32_t c) const {
    const int32_t column = flip ? out_width - 1 - x : x;
    if (height == out_height && width == out_width) return byte(y, column, c);
    const Between rows = between(y, out_height, height), columns = between(column, out_width, width);
    const float left = byte(rows.before, columns.before, c), right = byte(rows.before, columns.after, c);
    const float first_column = fmaf(rows.weight, byte(rows.after, columns.before, c) - left, left);
    const float last_column = fmaf(rows.weight, byte(rows.after, columns.after, c) - right, right);
    return fmaf(columns.weight, last_column - first_column, first_column);
  }
};

__device__ inline Window open_window(const Side& side, int64_t b, const MixArgs& args) {
  const WindowFault fault = find_fault(side, b);
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::index, "mix: an index is outside its image pool");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::image, "mix: an image is outside its pool's pixels");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::place, "mix: a window is outside its image");
  const int32_t* window = side.window + 4 * b;
  return {window_row(side, b, 0),
          3 * static_cast<int64_t>(side.sizes[2 * side.index[b] + 1]),
          window[2],
          window[3],
          args.height,
          args.width,
          side.flip[b]};
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
  int32_t box_top, box_bottom, box_left, box_right;

  __device__ float value(int32_t y, int32_t x, int32_t c) const {
    const float target_weight = pick(c, red.target, green.target, blue.target);
    float sum = pick(c, red.bias, green.bias, blue.bias);
    if (y >= box_top && y < box_bottom && x >= box_left && x < box_right) {
      return fmaf(aux.value(y, x, c), target_weight, sum);  // in the target's place, with all its weight
    }
    if (has_aux) sum = fmaf(aux.value(y, x, c), pick(c, red.aux, green.aux, blue.aux), sum);
    return fmaf(target.value(y, x, c), target_weight, sum);
  }
};

__device__ inline Sample open_sample(const MixArgs& args, int64_t b) {
  Sample sample;
  sample.target = open_window(args.target, b, args);
  sample.aux = open_window(args.aux, b, args);
  XMIXUP_DEVICE_ASSERT(args.lam[b] >= 0.0f && args.lam[b] <= 1.0f, "mix: a lam is outside 0 to 1");
  sample.box_top = sample.box_bottom = sample.box_left = sample.box_right = 0;
  float lam = args.lam[b];
  if (args.box != nullptr) {
    XMIXUP_DEVICE_ASSERT(box_fits(args, b), "mix: a box is outside the output");
    const int32_t* box = args.box + 4 * b;
    sample.box_top = box[0];
    sample.box_bottom = box[0] + box[2];
    sample.box_left = box[1];
    sample.box_right = box[1] + box[3];
    lam = 1.0f;
  }
  sample.red = channel_weights(lam, args.scale[0], args.bias[0]);
  sample.green = channel_weights(lam, args.scale[1], args.bias[1]);
  sample.blue = channel_weights(lam, args.scale[2], args.bias[2]);
  sample.has_aux = lam != 1.0f;
  return sample;
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

// Elements to consecutive places, of which the first `room` exist.
template <bool whole_groups, typename Out>
__device__ inline void store_group(Out* out, int32_t room, const Group<Out>& group) {
  if constexpr (whole_groups) {
    *reinterpret_cast<Group<Out>*>(out) = group;
  } else {
#pragma unroll
    for (int k = 0; k < kGroup<Out>; ++k) {
      if (k < room) out[k] = group.elements[k];
    }
  }
}

template <bool whole_groups, typename Out>
__device__ inline void mix_interleaved(const Sample& sample, const MixArgs& args, int32_t first, int32_t count,
                                       Out* image) {
  const int32_t row = 3 * args.width, y = first / row;
  Cursor at{y, (first - y * row) / 3, args.height, args.width};
  int32_t c = first % 3;
  Group<Out> group;
#pragma unroll
  for (int k = 0; k < kGroup<Out>; ++k) {
    put(sample.value(at.y, at.x, c), &group.elements[k]);
    if (++c == 3) {
      c = 0;
      at.next_pixel();
    }
  }
  store_group<whole_groups>(image + first, count - first, group);
}

template <bool whole_groups, typename Out>
__device__ inline void mix_planar(const Sample& sample, const MixArgs& args, int32_t first, int32_t count, Out* image) {
  const int32_t y = first / args.width;
  for (int32_t c = 0; c < 3; ++c) {
    Cursor at{y, first - y * args.width, args.height, args.width};
    Group<Out> group;
#pragma unroll
    for (int k = 0; k < kGroup<Out>; ++k) {
      put(sample.value(at.y, at.x, c), &group.elements[k]);
      at.next_pixel();
    }
    store_group<whole_groups>(image + static_cast<int64_t>(c) * count + first, count - first, group);
  }
}

// Groups are of a channels_last image's elements, or of each plane's of a contiguous one.
template <typename Out, bool channels_last, bool whole_groups>
__global__ void __launch_bounds__(kThreads) mix_kernel(const MixArgs args) {
  const int32_t plane = args.height * args.width;
  const int32_t count = channels_last ? 3 * plane : plane;
  for (int64_t b = blockIdx.y; b < args.batch; b += gridDim.y) {
    const Sample sample = open_sample(args, b);
    Out* image = static_cast<Out*>(args.out) + b * 3 * plane;
    for (int k = 0; k < kGroupsPerThread; ++k) {
      const int32_t group = static_cast<int32_t>(blockIdx.x * kGroupsPerBlock + k * kThreads + threadIdx.x);
      const int32_t first = kGroup<Out> * group;
      if (first >= count) break;
      if constexpr (channels_last) {
        mix_interleaved<whole_groups>(sample, args, first, count, image);
      } else {
        mix_planar<whole_groups>(sample, args, first, count, image);
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
  const bool whole = count % kGroup<Out> == 0 && reinterpret_cast<uintptr_t>(args.out) % sizeof(Group<Out>) == 0;
  const auto kernel = args.channels_last ? (whole ? mix_kernel<Out, true, true> : mix_kernel<Out, true, false>)
                                         : (whole ? mix_kernel<Out, false, true> : mix_kernel<Out, false, false>);
  Launcher launch(device_index);
  launch(kernel, grid, dim3(kThreads), args);
}

void run_mix(const MixArgs& args, int32_t device_index) {
  if (args.batch == 0) return;
  switch (args.out_type) {
    case OutType::float32: return launch_mix<float>(args, device_index);
    case OutType::bfloat16: return launch_mix<Bfloat16>(args, device_index);
    case OutType::float16: return launch_mix<Float16>(args, device_index);
  }
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, XMIXUP_DEVICE_KEY, m) {
  m.impl("mix", TORCH_BOX(&xmixup::mix<xmixup::run_mix>));
  m.impl("mix_out", TORCH_BOX(&xmixup::mix_out<xmixup::run_mix>));
}
