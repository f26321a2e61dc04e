// `mix` on CUDA. A thread computes the same few columns of several rows, so that it finds only once which columns of
// the images they are made of. It computes 128 bits of a row, or one element where rows are not whole groups of 128
// bits. In both cases neighbouring threads read and write neighbouring bytes. Where colours are changed or windows
// filtered, another kernel mixes whole pixels (mix_pixels.h).
#include "../core/floats.h"
#include "../mix.h"
#include "../schema.h"
#include "launch.h"
#include "mix_pixels.h"
#include "mix_windows.h"
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

// --- rows ---

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

// The sample that a block mixes a part of, or one beyond the batch; and its image in the output.
__device__ inline int64_t sample_of_block() { return static_cast<int64_t>(blockIdx.z) * kMaxGridY + blockIdx.y; }

template <typename Out>
__device__ inline Out* image_of(const MixArgs& args, int64_t b) {
  return static_cast<Out*>(args.out) + b * 3 * args.height * args.width;
}

// The group of a sample that a thread mixes.
__device__ inline uint32_t group_of_thread() { return blockIdx.x * kThreads + threadIdx.x; }

// Fills the erased pixels of a thread's group, which mix_group has mixed as if nothing were erased: so samples without
// erased pixels cost nothing more. What it needs it finds anew: kept from before, it would take registers of all
// samples.
template <typename Out, bool channels_last, int n>
__device__ inline void fill_erased(const MixArgs& args) {
  const int64_t b = sample_of_block();
  const Sample sample = load_sample(args, b);
  const Changes target(args, args.target, b, 0), aux(args, args.aux, b, 1);
  const bool crop = sample.is_crop(args);
  const int32_t columns = crop ? n : kResampledColumns<n>;
  const int32_t rows = kRowsPerThread<Out, channels_last, 1> / columns;
  const int32_t row = channels_last ? 3 * args.width : args.width;
  const auto group = static_cast<int32_t>(group_of_thread());
  const int32_t groups = row / columns, band = group / groups, first = columns * (group - band * groups);
  const int32_t begin = band * rows, end = begin + rows < args.height ? begin + rows : args.height;
#pragma unroll 1
  for (int32_t y = begin; y < end; ++y) {
    if (!target.erases_row(y) && !aux.erases_row(y)) continue;
#pragma unroll 1
    for (int32_t i = first; i < first + columns; ++i) {
      const int32_t x = channels_last ? i / 3 : i;
      if (!target.erases(x, y) && !aux.erases(x, y)) continue;
#pragma unroll 1
      for (int32_t plane = 0; plane < (channels_last ? 1 : 3); ++plane) {
        const float value[1] = {mix_element(args, sample, target, aux, x, y, channels_last ? i - 3 * x : plane)};
        store(value, image_of<Out>(args, b) + (static_cast<int64_t>(plane) * args.height + y) * row + i);
      }
    }
  }
}

template <typename Out, bool channels_last, int n>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor) mix_kernel(const MixArgs args, AssertRecord* record) {
  const int64_t b = sample_of_block();
  if (b >= args.batch || is_wrong(args, b, record)) return;
  const Sample sample = load_sample(args, b);
  Out* image = image_of<Out>(args, b);
  const uint32_t group = group_of_thread();
  const bool crop = sample.is_crop(args);
  if (crop && !sample.has_box()) {
    mix_group<CropRows, false, channels_last, n>(args, sample, group, image);
  } else if (crop) {
    mix_group<CropRows, true, channels_last, n>(args, sample, group, image);
  } else if (!sample.has_box()) {
    mix_group<ResampledRows, false, channels_last, kResampledColumns<n>>(args, sample, group, image);
  } else {
    mix_group<ResampledRows, true, channels_last, kResampledColumns<n>>(args, sample, group, image);
  }
  if (erases(args, b)) fill_erased<Out, channels_last, n>(args);
}

// Pixels of a row that a thread mixes at a time where colours are changed or windows filtered: a whole number of
// vectors in all layouts. It mixes single ones where rows are not whole groups of them, and of samples whose pixels
// need more: filtered or erased ones.
constexpr int kPixelColumns = 4;

template <typename Out>
__global__ void __launch_bounds__(kThreads, kBlocksPerProcessor)
    mix_changed_kernel(const MixArgs args, AssertRecord* record) {
  const int64_t b = sample_of_block();
  if (b >= args.batch || is_wrong(args, b, record)) return;
  const Sample sample = load_sample(args, b);
  Out* image = image_of<Out>(args, b);
  const uint32_t group = group_of_thread();
  const bool vectors = args.width % kPixelColumns == 0 && reinterpret_cast<uintptr_t>(args.out) % sizeof(uint4) == 0;
  if (!vectors || erases(args, b) || (args.antialias && sample.is_reduced(args))) {
    mix_pixels<FilteredRows, 1>(args, sample, b, group, image);
  } else if (sample.is_crop(args)) {
    mix_pixels<CropRows, kPixelColumns>(args, sample, b, group, image);
  } else {
    mix_pixels<ResampledRows, kPixelColumns>(args, sample, b, group, image);
  }
}

// Starts a kernel for so many groups of each sample.
template <typename Kernel>
void launch_kernel(Kernel* kernel, int32_t groups, const MixArgs& args, int32_t device_index) {
  const dim3 grid((groups + kThreads - 1) / kThreads,
                  static_cast<unsigned>(args.batch < kMaxGridY ? args.batch : kMaxGridY),
                  static_cast<unsigned>((args.batch + kMaxGridY - 1) / kMaxGridY));
  Launcher launch(device_index);
  launch(kernel, grid, dim3(kThreads), args, assert_record(device_index));
}

template <typename Out, bool channels_last, int n>
void launch_groups(const MixArgs& args, int32_t device_index) {
  // As if windows were resampled: crops have no more groups than that.
  constexpr int32_t columns = kResampledColumns<n>, rows = kRowsPerThread<Out, channels_last, columns>;
  const int32_t row = channels_last ? 3 * args.width : args.width;
  const int32_t groups = row / columns * ((args.height + rows - 1) / rows);
  launch_kernel(mix_kernel<Out, channels_last, n>, groups, args, device_index);
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
  if (args.color != nullptr || args.antialias) {
    const int32_t groups = args.width * ((args.height + kPixelsPerThread - 1) / kPixelsPerThread);  // single columns
    launch_kernel(mix_changed_kernel<Out>, groups, args, device_index);
  } else if (args.channels_last) {
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
