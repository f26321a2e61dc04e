// `mix` on CUDA. A thread computes the same few columns of several rows, so that it finds only once which columns of
// the images they are made of. It computes 128 bits of a row, or one element where rows are not whole groups of 128
// bits. In both cases neighbouring threads read and write neighbouring bytes.
#include "../core/floats.h"
#include "../mix.h"
#include "../schema.h"
#include "launch.h"
#include "store.h"

namespace xmixup {
namespace {

constexpr int kThreads = 128;
constexpr int kBlocksPerProcessor = 4;  // the fewest that are to fit: leaves 128 registers a thread
constexpr int64_t kMaxGridY = 65535;

// Rows that a thread computes of its n columns: 128 bytes of output, or 64 bytes of each plane, so that the cost of
// finding a sample's windows is spread over many pixels.
template <typename Out, bool channels_last, int n>
constexpr int kRowsPerThread = (channels_last ? 128 : 64) / static_cast<int>(sizeof(Out)) / n;

// Columns that a thread computes at a time where windows are resampled and it could store n: at most four, since eight
// resampled columns need too many registers.
template <int n>
constexpr int kResampledColumns = n < 4 ? n : 4;

// --- one sample ---

// The window of one sample in one pool.
struct Window {
  const uint8_t* first;  // first byte of its first pixel
  int64_t row_bytes;     // from one row of the image to the next
  int32_t height, width;
  bool flip;

  __device__ const uint8_t* row(int32_t y) const { return first + y * row_bytes; }
};

__device__ inline Window load_window(const CropBatch& crops, int64_t b) {
  const WindowFault fault = check_window(crops, b);
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::index, "mix: an index is outside its image pool");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::image, "mix: an image is outside its pool's pixels");
  XMIXUP_DEVICE_ASSERT(fault != WindowFault::window, "mix: a window is outside its image");
  const Rectangle& window = at(crops.window, b);
  return {window_row(crops, b, 0), 3 * static_cast<int64_t>(crops.sizes[2 * at(crops.index, b) + 1]), window.height,
          window.width, at(crops.flip, b) != 0};
}

// What all pixels of one sample share.
struct Sample {
  Window target;
  Window aux;  // where lam is 1: the target's window, so that no auxiliary byte is read; its weight is 0
  float lam;   // 1 where there is a box: each pixel then shows one image alone
  int32_t box_top, box_left, box_bottom, box_right;

  __device__ bool has_box() const { return box_top < box_bottom && box_left < box_right; }
};

__device__ inline Sample load_sample(const MixArgs& args, int64_t b) {
  const float lam = at(args.lam, b);
  XMIXUP_DEVICE_ASSERT(lam >= 0.0f && lam <= 1.0f, "mix: a lam is outside 0 to 1");
  Sample sample = {load_window(args.target, b), load_window(args.aux, b), lam, 0, 0, 0, 0};
  if (const Rectangle* box = box_of(args, b); box != nullptr) {
    XMIXUP_DEVICE_ASSERT(fits_output(args, *box), "mix: a box is outside the output");
    sample.box_top = box->top;
    sample.box_left = box->left;
    sample.box_bottom = box->top + box->height;
    sample.box_right = box->left + box->width;
    sample.lam = 1.0f;
  }
  if (sample.lam == 1.0f && !sample.has_box()) sample.aux = sample.target;
  return sample;
}

// --- a thread's columns, and their values in the rows of a window ---

// n consecutive elements of an output row: of R G B R G B ..., or of a plane. A thread has the same in all three
// planes.
template <int n>
struct Columns {
  int32_t x[n];        // pixel
  int32_t channel[n];  // 0 for planes

  __device__ Columns(int32_t first, bool channels_last) {
#pragma unroll
    for (int k = 0; k < n; ++k) {
      x[k] = channels_last ? (first + k) / 3 : first + k;
      channel[k] = channels_last ? first + k - 3 * x[k] : 0;
    }
  }
};

// The values of the columns in a window that has the output's size, row by row.
template <int n>
class CropRows {
 public:
  // Loops over rows and planes are unrolled so far that a thread waits for many loads at once.
  static constexpr int kRowsAtOnce = n == 1 ? 8 : 16 / n, kPlanesAtOnce = 3;

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

// The values of the columns in a window of any size, resampled to the output's: vertically first, then horizontally.
template <int n>
class ResampledRows {
 public:
  // Nothing is unrolled: a value takes four loads, and more of them at once would need too many registers.
  static constexpr int kRowsAtOnce = 1, kPlanesAtOnce = 1;

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
  uint32_t last_;       // in a row of the window, the first byte of the last column, which has none after it
  uint32_t before_[n];  // for each element: the byte of LinearTap::before in a row of the window
  float weight_[n];     // for each element: LinearTap::weight
  const uint8_t *row_before_, *row_after_;
  float row_weight_;
};

// --- rows ---

// values[c] by comparisons: an index that is not constant could put the array into memory.
template <typename T>
__device__ inline T channel_value(int c, const T (&values)[3]) {
  return c == 0 ? values[0] : c == 1 ? values[1] : values[2];
}

// Computes one group of a sample: n columns of kRowsPerThread rows. Groups are numbered along the rows first.
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
  ChannelWeights weights[3];  // of planes 0, 1, 2; otherwise of elements 0, 1, 2, and of element k as of k % 3
  uint32_t in_box = 0;        // bit k: whether column k is inside the box
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
  // As if windows were resampled: crops have no more groups than that.
  constexpr int32_t columns = kResampledColumns<n>, rows = kRowsPerThread<Out, channels_last, columns>;
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
  m.impl("mix_plan", TORCH_BOX(&xmixup::mix_plan<xmixup::run_mix>));
  m.impl("mix_plan_out", TORCH_BOX(&xmixup::mix_plan_out<xmixup::run_mix>));
}
