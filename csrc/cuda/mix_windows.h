// The windows of a sample as the threads of `mix` read them: its columns, and their values in the rows of a window.
#pragma once

#include "../core/mix.h"
#include "../core/triangle.h"
#include "launch.h"

namespace xmixup {

// values[c] by comparisons: an index that is not constant could put the array into memory.
template <typename T>
__device__ inline T channel_value(int c, const T (&values)[3]) {
  return c == 0 ? values[0] : c == 1 ? values[1] : values[2];
}

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

  // Whether both windows have the output's size.
  __device__ bool is_crop(const MixArgs& args) const {
    return target.height == args.height && target.width == args.width && aux.height == args.height &&
           aux.width == args.width;
  }

  // Whether a window is larger than the output, along one axis or both.
  __device__ bool is_reduced(const MixArgs& args) const {
    return target.height > args.height || target.width > args.width || aux.height > args.height ||
           aux.width > args.width;
  }
};

// --- wrong values: for each a message that names operator and argument; null for right ones ---

// A message for `mix`, or for `mix_plan`.
__device__ inline const char* message_for(const MixArgs& args, const char* mix, const char* mix_plan) {
  return args.plan ? mix_plan : mix;
}

__device__ inline const char* wrong_target(const MixArgs& args, int64_t b) {
  switch (check_window(args.target, b)) {
    case WindowFault::none: break;
    case WindowFault::index:
      return message_for(args, "xmixup_fast.mix: target_index: expected an image of the target's pool",
                         "xmixup_fast.mix_plan: plan: target_index: expected an image of the target's pool");
    case WindowFault::image:
      return message_for(args, "xmixup_fast.mix: target_offsets, target_sizes: expected images inside target_pixels",
                         "xmixup_fast.mix_plan: target_offsets, target_sizes: expected images inside target_pixels");
    case WindowFault::window:
      return message_for(args, "xmixup_fast.mix: target_window: expected a window inside its image",
                         "xmixup_fast.mix_plan: plan: target_window: expected a window inside its image");
  }
  if (args.target.erased.first == nullptr || fits_output(args, at(args.target.erased, b))) return nullptr;
  return "xmixup_fast.mix_plan: plan: target_erased: expected a rectangle inside the output";
}

__device__ inline const char* wrong_aux(const MixArgs& args, int64_t b) {
  switch (check_window(args.aux, b)) {
    case WindowFault::none: break;
    case WindowFault::index:
      return message_for(args, "xmixup_fast.mix: aux_index: expected an image of the auxiliary pool",
                         "xmixup_fast.mix_plan: plan: aux_index: expected an image of the auxiliary pool");
    case WindowFault::image:
      return message_for(args, "xmixup_fast.mix: aux_offsets, aux_sizes: expected images inside aux_pixels",
                         "xmixup_fast.mix_plan: aux_offsets, aux_sizes: expected images inside aux_pixels");
    case WindowFault::window:
      return message_for(args, "xmixup_fast.mix: aux_window: expected a window inside its image",
                         "xmixup_fast.mix_plan: plan: aux_window: expected a window inside its image");
  }
  if (args.aux.erased.first == nullptr || fits_output(args, at(args.aux.erased, b))) return nullptr;
  return "xmixup_fast.mix_plan: plan: aux_erased: expected a rectangle inside the output";
}

__device__ inline const char* wrong_value(const MixArgs& args, int64_t b) {
  if (const char* wrong = wrong_target(args, b)) return wrong;
  if (const char* wrong = wrong_aux(args, b)) return wrong;
  const float lam = at(args.lam, b);
  if (!(lam >= 0.0f && lam <= 1.0f)) {
    return message_for(args, "xmixup_fast.mix: lam: expected a number from 0 to 1",
                       "xmixup_fast.mix_plan: plan: lam: expected a number from 0 to 1");
  }
  const Rectangle* box = box_of(args, b);
  if (box == nullptr || fits_output(args, *box)) return nullptr;
  return message_for(args, "xmixup_fast.mix: box: expected a rectangle inside the output",
                     "xmixup_fast.mix_plan: plan: box: expected a rectangle inside the output");
}

// Whether something is wrong with a sample. Then the first thread of its first block reports it.
__device__ inline bool is_wrong(const MixArgs& args, int64_t b, AssertRecord* record) {
  const char* wrong = wrong_value(args, b);
  if (wrong == nullptr) return false;
  if (blockIdx.x == 0 && threadIdx.x == 0) report_wrong_value(record, wrong, b);
  return true;
}

// --- samples ---

// Of a sample that is not wrong.
__device__ inline Sample load_sample(const MixArgs& args, int64_t b) {
  Sample sample = {load_window(args.target, b), load_window(args.aux, b), at(args.lam, b), 0, 0, 0, 0};
  if (const Rectangle* box = box_of(args, b); box != nullptr) {
    sample.box_top = box->top;
    sample.box_left = box->left;
    sample.box_bottom = box->top + box->height;
    sample.box_right = box->left + box->width;
    sample.lam = 1.0f;
  }
  if (sample.lam == 1.0f && !sample.has_box()) sample.aux = sample.target;
  return sample;
}

// Whether pixels of one of a sample's images are erased.
__device__ inline bool erases(const MixArgs& args, int64_t b) {
  return erased_of(args.target, b) != nullptr || erased_of(args.aux, b) != nullptr;
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

  // The three channels of a column that has channel 0.
  __device__ void pixel(int k, float (&rgb)[3]) const {
#pragma unroll
    for (int c = 0; c < 3; ++c) rgb[c] = value(k, c);
  }

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

  // The three channels of a column that has channel 0.
  __device__ void pixel(int k, float (&rgb)[3]) const {
#pragma unroll
    for (int c = 0; c < 3; ++c) rgb[c] = value(k, c);
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

// The pixels of the window that a pixel of the output is made of along one axis: two neighbours, or those under the
// triangle where the axis is filtered.
class AxisTaps {
 public:
  __device__ AxisTaps(int32_t position, int32_t out_size, int32_t window_size, bool antialias)
      : filtered_(antialias && window_size > out_size) {
    if (filtered_) {
      taps_ = triangle_taps(position, out_size, window_size);
    } else {
      const LinearTap tap = linear_tap(position, out_size, window_size);
      taps_ = {tap.before, tap.after - tap.before + 1, tap.weight, 0.0f, 0.0f};
    }
  }

  // Resamples three channels, of which `load(i, rgb)` returns those of pixel i of the window.
  template <typename Load>
  __device__ void resample(const Load& load, float (&rgb)[3]) const {
    float pixel[3];
    if (filtered_) {
      rgb[0] = rgb[1] = rgb[2] = 0.0f;
#pragma unroll 1
      for (int32_t j = 0; j < taps_.count; ++j) {
        const float weight = triangle_weight(taps_, j);
        load(taps_.first + j, pixel);
#pragma unroll
        for (int c = 0; c < 3; ++c) rgb[c] = fmaf(weight, pixel[c], rgb[c]);
      }
#pragma unroll
      for (int c = 0; c < 3; ++c) rgb[c] = product(rgb[c], taps_.inverse_sum);
    } else {
      load(taps_.first, rgb);
      if (taps_.centre == 0.0f) return;  // of a crop all weights are 0
      load(taps_.first + taps_.count - 1, pixel);
#pragma unroll
      for (int c = 0; c < 3; ++c) rgb[c] = fmaf(taps_.centre, pixel[c] - rgb[c], rgb[c]);
    }
  }

 private:
  bool filtered_;
  TriangleTaps taps_;  // where the axis is not filtered, `centre` is the weight of the second of at most two pixels
};

// Likewise of a window that is filtered along the axes along which it is larger than the output. For each column the
// rows are filtered anew: a pixel takes as many loads as there are pixels of the window under both triangles.
template <int n>
class FilteredRows {
 public:
  static_assert(n == 1, "more columns would need too many registers");

  __device__ FilteredRows(const Window& window, const Columns<n>& columns, const MixArgs& args, int32_t y)
      : window_(window),
        out_height_(args.height),
        y_(y),
        antialias_(args.antialias),
        across_(window.flip ? args.width - 1 - columns.x[0] : columns.x[0], args.width, window.width, args.antialias),
        down_(y, args.height, window.height, args.antialias) {}

  __device__ void next() {
    ++y_;
    down_ = AxisTaps(y_, out_height_, window_.height, antialias_);
  }

  __device__ void pixel(int /*k*/, float (&rgb)[3]) const {
    across_.resample([&](int32_t x, float (&column)[3]) { filter_column(3 * x, column); }, rgb);
  }

 private:
  __device__ void filter_column(uint32_t byte, float (&rgb)[3]) const {
    down_.resample(
        [&](int32_t y, float (&pixel)[3]) {
          const uint8_t* bytes = window_.row(y) + byte;
#pragma unroll
          for (int c = 0; c < 3; ++c) pixel[c] = static_cast<float>(__ldg(bytes + c));
        },
        rgb);
  }

  const Window& window_;
  int32_t out_height_, y_;
  bool antialias_;
  AxisTaps across_, down_;
};

}  // namespace xmixup
