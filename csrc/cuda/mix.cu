// `mix` on CUDA. A thread makes the same few columns of several rows, and so works out only once where they come from.
// They are 128 bits of a row, or one element where rows are not made of groups of that size. Either way neighbouring
// threads read and write neighbouring bytes. docs/cuda.md counts what this costs.
#include "../core/floats.h"
#include "../mix.h"
#include "../schema.h"
#include "launch.h"
#include "store.h"

namespace xmixup {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksPerProcessor = 4;  // at least; leaves 128 registers a thread
constexpr int64_t kMaxGridY = 65535;

// Rows that a thread makes of n columns: 128 bytes of output, or 64 bytes of each plane, to spread the cost of finding
// a sample's windows over many pixels.
template <typename Out, bool channels_last, int n>
constexpr int kRowsPerThread = (channels_last ? 128 : 64) / static_cast<int>(sizeof(Out)) / n;

// Columns that a thread makes where it could write n at a time, but they are resampled: eight take too many registers.
template <int n>
constexpr int kResampledColumns = n < 4 ? n : 4;

// --- one sample ---

// The window of one sample in one pool.
struct Window {
  const uint8_t* first;  // byte of its first pixel
  int64_t row_bytes;     // from one row to the next
  int32_t height, width;
  bool flip;

  __device__ const uint8_t* row(int32_t y) const { return first + y * row_bytes; }
};

__device__ inline Window load_window(const CropBatch& crops, int64_t b) {
  const WindowFault fault = check_window(crops, b);
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::index, "mix: an index is outside its image pool");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::image, "mix: an image is outside its pool's pixels");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::window, "mix: a window is outside its image");
  const int32_t* window = crops.window + 4 * b;
  return {window_row(crops, b, 0), 3 * static_cast<int64_t>(crops.sizes[2 * crops.index[b] + 1]), window[2], window[3],
          crops.flip[b]};
}

// Everything about one sample that its pixels share.
struct Sample {
  Window target;
  Window aux;  // where lam is 1: the target's, whose weight is then 0, so that no auxiliary byte is read
  float lam;   // 1 where there is a box: each pixel is then one image's alone
  int32_t box_top, box_left, box_bottom, box_right;

  __device__ bool has_box() const { return box_top < box_bottom && box_left < box_right; }
};

__device__ inline Sample load_sample(const MixArgs& args, int64_t b) {
  XMIXUP_DEVICE_ASSERT(args.lam[b] >= 0.0f && args.lam[b] <= 1.0f, "mix: a lam is outside 0 to 1");
  Sample sample = {load_window(args.target, b), load_window(args.aux, b), args.lam[b], 0, 0, 0, 0};
  if (args.box != nullptr) {
    XMIXUP_DEVICE_ASSERT(box_fits(args, b), "mix: a box is outside the output");
    const int32_t* box = args.box + 4 * b;
    sample.box_top = box[0];
    sample.box_left = box[1];
    sample.box_bottom = box[0] + box[2];
    sample.box_right = box[1] + box[3];
    sample.lam = 1.0f;
  }
  if (sample.lam == 1.0f && !sample.has_box()) sample.aux = sample.target;
  return sample;
}

// --- the columns of a thread, and what a window's rows have for them ---

// n consecutive elements of an output row: of R G B R G B ..., or of one plane, where all three planes have the same.
template <int n>
struct Columns {
  int32_t x[n];        // pixel
  int32_t channel[n];  // 0 in planes

  __device__ Columns(int32_t first, bool channels_last) {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      x[k] = channels_last ? (first + k) / 3 : first + k;
      channel[k] = channels_last ? first + k - 3 * x[k] : 0;
    }
  }
};

// The columns in a window that has the output's size, row by row.
template <int n>
class CropRows {
 public:
  static constexpr int kRowsAtOnce = n == 1 ? 8 : 16 / n,
                       kPlanesAtOnce = 3;  // so many that enough loads are on their way

  __device__ CropRows(const Window& window, const Columns<n>& columns, const MixArgs& args, int32_t y)
      : row_(window.row(y)), row_bytes_(window.row_bytes) {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      byte_[k] = 3 * (window.flip ? args.width - 1 - columns.x[k] : columns.x[k]) + columns.channel[k];
    }
  }

  __device__ void next() { row_ += row_bytes_; }

  __device__ float value(int k, int channel) const { return static_cast<float>(__ldg(row_ + byte_[k] + channel)); }

 private:
  const uint8_t* row_;
  int64_t row_bytes_;
  uint32_t byte_[n];
};

// The columns in any window, brought to the output's size: vertically first.
template <int n>
class ResampledRows {
 public:
  static constexpr int kRowsAtOnce = 1, kPlanesAtOnce = 1;  // four times the loads of a crop, and the registers

  __device__ ResampledRows(const Window& window, const Columns<n>& columns, const MixArgs& args, int32_t y)
      : window_(window), out_height_(args.height), y_(y), last_(3 * (window.width - 1)) {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const int32_t x = window.flip ? args.width - 1 - columns.x[k] : columns.x[k];
      const LinearTap tap = linear_tap(x, args.width, window.width);
      before_[k] = 3 * tap.before + columns.channel[k];
      weight_[k] = tap.weight;
    }
    find_rows();
  }

  __device__ void next() {
    ++y_;
    find_rows();
  }

  __device__ float value(int k, int channel) const {
    const uint32_t after_k = before_[k] < last_ ? before_[k] + 3 : before_[k];
    const float before = in_column(before_[k] + channel), after = in_column(after_k + channel);
    return fmaf(weight_[k], after - before, before);
  }

 private:
  __device__ void find_rows() {
    const LinearTap tap = linear_tap(y_, out_height_, window_.height);
    row_before_ = window_.row(tap.before);
    row_after_ = window_.row(tap.after);
    row_weight_ = tap.weight;
  }

  __device__ float in_column(uint32_t byte) const {
    const auto before = static_cast<float>(__ldg(row_before_ + byte));
    return fmaf(row_weight_, static_cast<float>(__ldg(row_after_ + byte)) - before, before);
  }

  const Window& window_;
  int32_t out_height_, y_;
  uint32_t last_;       // first byte of the last column, which has none after it
  uint32_t before_[n];  // of each element the byte in the column before it
  float weight_[n];
  const uint8_t *row_before_, *row_after_;
  float row_weight_;
};

// --- rows ---

template <typename T>
__device__ inline T channel_value(int c, const T (&values)[3]) {
  return c == 0 ? values[0] : c == 1 ? values[1] : values[2];
}

// Group `group` of one sample: n columns of a few rows. Groups are counted along a row first.
template <template <int> typename Rows, bool boxed, bool channels_last, int n, typename Out>
__device__ inline void mix_group(const MixArgs& args, const Sample& sample, uint32_t group, Out* out) {
  constexpr int32_t rows = kRowsPerThread<Out, channels_last, n>;
  constexpr int kPlanes = channels_last ? 1 : 3;
  const int32_t row = channels_last ? 3 * args.width : args.width;
  const uint32_t groups = static_cast<uint32_t>(row) / n, band = group / groups;
  const auto first = static_cast<int32_t>(n * (group - band * groups));
  int32_t y = static_cast<int32_t>(band) * rows;
  const int32_t end = y + rows < args.height ? y + rows : args.height;
  if (y >= end) return;
  out += y * row + first;

  const Columns<n> columns(first, channels_last);
  ChannelWeights weights[3];  // of the planes, or of elements k = 0, 1, 2 and all with the same k % 3
  uint32_t in_box = 0;        // bit k: whether column k is inside
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const int32_t channel = channels_last ? (columns.channel[0] + c) % 3 : c;
    weights[c] = channel_weights(sample.lam, channel_value(channel, args.scale), channel_value(channel, args.bias));
  }
#pragma unroll
  for (int k = 0; boxed && k < n; ++k) {
    in_box |= static_cast<uint32_t>(columns.x[k] >= sample.box_left && columns.x[k] < sample.box_right) << k;
  }
  Rows<n> target(sample.target, columns, args, y), aux(sample.aux, columns, args, y);
#pragma unroll(channels_last ? Rows<n>::kRowsAtOnce : 1)
  for (; y < end; ++y) {
    const uint32_t show_aux = y >= sample.box_top && y < sample.box_bottom ? in_box : 0;
#pragma unroll(Rows<n>::kPlanesAtOnce)
    for (int plane = 0; plane < kPlanes; ++plane) {
      const auto weight = [&](int k) { return channels_last ? weights[k % 3] : channel_value(plane, weights); };
      float values[n];
      if constexpr (boxed) {
#pragma unroll
        for (int k = 0; k < n; ++k) {
          const float value = show_aux >> k & 1 ? aux.value(k, plane) : target.value(k, plane);
          values[k] = fmaf(value, weight(k).target, weight(k).bias);
        }
      } else {
#pragma unroll
        for (int k = 0; k < n; ++k) values[k] = fmaf(aux.value(k, plane), weight(k).aux, weight(k).bias);
#pragma unroll
        for (int k = 0; k < n; ++k) values[k] = fmaf(target.value(k, plane), weight(k).target, values[k]);
      }
      store(values, out + static_cast<int64_t>(plane) * args.height * args.width);
    }
    out += row;
    target.next();
    aux.next();
  }
}

template <typename Out, bool channels_last, int n>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) mix_kernel(const MixArgs args) {
  const int64_t b = static_cast<int64_t>(blockIdx.z) * kMaxGridY + blockIdx.y;
  if (b >= args.batch) return;
  const Sample sample = load_sample(args, b);
  Out* image = static_cast<Out*>(args.out) + b * 3 * args.height * args.width;
  const uint32_t group = blockIdx.x * kThreads + threadIdx.x;
  const bool crop = sample.target.height == args.height && sample.target.width == args.width &&
                    sample.aux.height == args.height && sample.aux.width == args.width;
  if (crop && !sample.has_box()) {
    mix_group<CropRows, false, channels_last, n>(args, sample, group, image);
  } else if (crop) {
    mix_group<CropRows, true, channels_last, n>(args, sample, group, image);
  } else if (!sample.has_box()) {
    mix_group<ResampledRows, false, channels_last, kResampledColumns<n>>(args, sample, group, image);
  } else {
    mix_group<ResampledRows, true, channels_last, kResampledColumns<n>>(args, sample, group, image);
  }
}

template <typename Out, bool channels_last, int n>
void launch_groups(const MixArgs& args, int32_t device_index) {
  constexpr int32_t columns = kResampledColumns<n>,
                    rows = kRowsPerThread<Out, channels_last, columns>;  // a crop has no more groups
  const int32_t row = channels_last ? 3 * args.width : args.width;
  const int32_t groups = row / columns * ((args.height + rows - 1) / rows);
  const dim3 grid((groups + kThreads - 1) / kThreads,
                  static_cast<unsigned>(args.batch < kMaxGridY ? args.batch : kMaxGridY),
                  static_cast<unsigned>((args.batch + kMaxGridY - 1) / kMaxGridY));
  Launcher launch(device_index);
  launch(mix_kernel<Out, channels_last, n>, grid, dim3(kThreads), args);
}

template <typename Out, bool channels_last>
void launch_layout(const MixArgs& args, int32_t device_index) {
  constexpr int kGroup = sizeof(uint4) / sizeof(Out);
  const int32_t row = channels_last ? 3 * args.width : args.width;
  if (row % kGroup == 0 && reinterpret_cast<uintptr_t>(args.out) % sizeof(uint4) == 0) {
    launch_groups<Out, channels_last, kGroup>(args, device_index);
  } else {
    launch_groups<Out, channels_last, 1>(args, device_index);
  }
}

template <typename Out>
void launch_mix(const MixArgs& args, int32_t device_index) {
  if (args.channels_last) {
    launch_layout<Out, true>(args, device_index);
  } else {
    launch_layout<Out, false>(args, device_index);
  }
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
