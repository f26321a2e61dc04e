// Mixes whole pixels, of images whose colours are changed by a matrix and of which rectangles are erased, that is,
// filled.
#pragma once

#include "mix_windows.h"
#include "store.h"

namespace xmixup {

// Pixels that a thread computes, as many of each of its rows as it stores at a time: so the cost of finding a sample's
// windows is spread over many.
constexpr int32_t kPixelsPerThread = 16;

// What is changed in one image of a sample, besides its place.
struct Changes {
  const float* color;  // matrix of 3 x 4, or null
  Rectangle erased;    // in the output, what is filled; empty for nothing
  uint64_t noise;      // key of the noise that it is filled with
  int side;            // 0 for the target image, 1 for the auxiliary image

  __device__ Changes(const MixArgs& args, const CropBatch& crops, int64_t b, int side_)
      : color(color_of(args, b, side_)), erased{0, 0, 0, 0}, noise(0), side(side_) {
    if (crops.erased.first == nullptr) return;
    erased = at(crops.erased, b);
    noise = at(args.noise, b);
  }

  __device__ bool erases_row(int32_t y) const { return y >= erased.top && y < erased.top + erased.height; }

  __device__ bool erases(int32_t x, int32_t y) const {
    return erases_row(y) && x >= erased.left && x < erased.left + erased.width;
  }

  template <int n>
  __device__ void change_colors(float (&rgb)[n][3]) const {
    if (color == nullptr) return;
#pragma unroll
    for (int k = 0; k < n; ++k) {
      const float r = rgb[k][0], g = rgb[k][1], b = rgb[k][2];
#pragma unroll
      for (int c = 0; c < 3; ++c) {
        const float* row = color + 4 * c;
        rgb[k][c] = clamp_level(fmaf(__ldg(row), r, fmaf(__ldg(row + 1), g, fmaf(__ldg(row + 2), b, __ldg(row + 3)))));
      }
    }
  }

  // The levels of an erased pixel.
  __device__ void fill(const MixArgs& args, int32_t x, int32_t y, float (&rgb)[3]) const {
#pragma unroll
    for (int c = 0; c < 3; ++c) rgb[c] = args.fill[c];
    if (args.noise_quantiles == nullptr) return;
    const Words words = noise_words(noise, side, y, x / kNoisePixels);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      rgb[c] = noise_level(rgb[c], __ldg(args.noise_quantiles + noise_byte(words, x, c)), args.noise_scale[c]);
    }
  }
};

// One image of a sample as a thread mixes it: n columns of its rows. Only of a single column pixels may be erased: more
// would make the code of Philox too long.
template <template <int> typename Rows, int n>
class ChangedRows {
 public:
  __device__ ChangedRows(const MixArgs& args, const Window& window, const Changes& changes, const Columns<n>& columns,
                         int32_t y)
      : args_(args), columns_(columns), changes_(changes), rows_(window, columns, args, y) {}

  __device__ void next() { rows_.next(); }

  // Adds the weighted pixels of row y, which is the row at hand, to values[channel][k] for each k whose bit of `shown`
  // is set.
  __device__ void add(uint32_t shown, int32_t y, const float (&weight)[3], float (&values)[3][n]) const {
    if (shown == 0) return;
#pragma unroll
    for (int first = 0; first < n; first += kAtOnce) {
      float rgb[kAtOnce][3];
      if (n == 1 && changes_.erases(columns_.x[0], y)) {
        changes_.fill(args_, columns_.x[0], y, rgb[0]);
      } else {
#pragma unroll
        for (int k = 0; k < kAtOnce; ++k) rows_.pixel(first + k, rgb[k]);
        changes_.change_colors(rgb);
      }
#pragma unroll
      for (int k = first; k < first + kAtOnce; ++k) {
#pragma unroll
        for (int c = 0; c < 3; ++c) {
          values[c][k] = shown >> k & 1 ? fmaf(rgb[k - first][c], weight[c], values[c][k]) : values[c][k];
        }
      }
    }
  }

 private:
  static constexpr int kAtOnce = n < 2 ? n : 2;  // with more pixels at a time, registers would be spilled

  const MixArgs& args_;
  const Columns<n>& columns_;
  const Changes& changes_;
  Rows<n> rows_;
};

// --- one element of the output ---

// One channel of a pixel of a window, resampled where it has not the output's size.
__device__ inline float window_element(const MixArgs& args, const Window& window, int32_t x, int32_t y, int32_t c) {
  const LinearTap across = linear_tap(window.flip ? args.width - 1 - x : x, args.width, window.width);
  const LinearTap down = linear_tap(y, args.height, window.height);
  const uint8_t *row_before = window.row(down.before) + c, *row_after = window.row(down.after) + c;
  const auto in_column = [&](int32_t column) {
    const auto before = static_cast<float>(__ldg(row_before + 3 * column));
    return fmaf(down.weight, static_cast<float>(__ldg(row_after + 3 * column)) - before, before);
  };
  const float before = in_column(across.before);
  return fmaf(across.weight, in_column(across.after) - before, before);
}

// One element of the output. Where an image is erased, that is filled; colours are not changed.
__device__ inline float mix_element(const MixArgs& args, const Sample& sample, const Changes& target,
                                    const Changes& aux, int32_t x, int32_t y, int32_t c) {
  const bool in_box =
      sample.has_box() && x >= sample.box_left && x < sample.box_right && y >= sample.box_top && y < sample.box_bottom;
  const ChannelWeights weights = channel_weights(sample.lam, channel_value(c, args.scale), channel_value(c, args.bias));
  float mixed = weights.bias;
#pragma unroll 1
  for (int side = 1; side >= 0; --side) {  // the auxiliary image first, as everywhere
    if (sample.has_box() ? in_box != (side == 1) : side == 1 && sample.lam == 1.0f) continue;  // not shown
    const Changes changes = side == 0 ? target : aux;
    const Window window = side == 0 ? sample.target : sample.aux;
    float value;
    if (!changes.erases(x, y)) {
      value = window_element(args, window, x, y, c);
    } else if (args.noise_quantiles == nullptr) {
      value = channel_value(c, args.fill);
    } else {
      const uint32_t byte = noise_byte(noise_words(changes.noise, side, y, x / kNoisePixels), x, c);
      const float quantile = __ldg(args.noise_quantiles + byte);
      value = noise_level(channel_value(c, args.fill), quantile, channel_value(c, args.noise_scale));
    }
    mixed = fmaf(value, side == 0 || in_box ? weights.target : weights.aux, mixed);
  }
  return mixed;
}

// --- whole pixels ---

// Stores n pixels of a row. `out` is their first element, in planes that of the first one.
template <int n, typename Out>
__device__ inline void store_pixels(const float (&values)[3][n], const MixArgs& args, Out* out) {
  const int64_t plane = static_cast<int64_t>(args.height) * args.width;
#pragma unroll
  for (int part = 0; part < 3; ++part) {
    if (args.channels_last) {
      float elements[n];
#pragma unroll
      for (int i = 0; i < n; ++i) elements[i] = values[(part * n + i) % 3][(part * n + i) / 3];
      store(elements, out + part * n);
    } else {
      store(values[part], out + part * plane);
    }
  }
}

// Mixes one group of a sample: n pixels of each of kPixelsPerThread / n rows. Groups are numbered along the rows first.
template <template <int> typename Rows, int n, typename Out>
__device__ inline void mix_pixels(const MixArgs& args, const Sample& sample, int64_t b, uint32_t group, Out* image) {
  constexpr uint32_t kAll = (1u << n) - 1;
  constexpr int32_t rows = kPixelsPerThread / n;
  const uint32_t groups = static_cast<uint32_t>(args.width) / n, band = group / groups;
  const auto first = static_cast<int32_t>(n * (group - band * groups));
  int32_t y = static_cast<int32_t>(band) * rows;
  const int32_t end = y + rows < args.height ? y + rows : args.height;
  if (y >= end) return;
  const int32_t step = args.channels_last ? 3 : 1;
  Out* out = image + step * (y * args.width + first);

  const Columns<n> columns(first, false);
  const bool boxed = sample.has_box();
  float target_weight[3], aux_weight[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    const ChannelWeights weights = channel_weights(sample.lam, args.scale[c], args.bias[c]);
    target_weight[c] = weights.target;
    aux_weight[c] = boxed ? weights.target : weights.aux;  // a box shows its image with the weight of 1
  }
  uint32_t in_columns = 0;  // bit k: whether column k is inside the box
#pragma unroll
  for (int k = 0; k < n; ++k) {
    in_columns |= static_cast<uint32_t>(columns.x[k] >= sample.box_left && columns.x[k] < sample.box_right) << k;
  }
  const Changes target_changes(args, args.target, b, 0), aux_changes(args, args.aux, b, 1);
  ChangedRows<Rows, n> target(args, sample.target, target_changes, columns, y);
  ChangedRows<Rows, n> aux(args, sample.aux, aux_changes, columns, y);
#pragma unroll 1
  for (; y < end; ++y) {
    const uint32_t in_box = y >= sample.box_top && y < sample.box_bottom ? in_columns : 0;
    float values[3][n];
#pragma unroll
    for (int c = 0; c < 3; ++c) {
#pragma unroll
      for (int k = 0; k < n; ++k) values[c][k] = args.bias[c];
    }
    aux.add(boxed ? in_box : sample.lam != 1.0f ? kAll : 0, y, aux_weight, values);
    target.add(kAll & ~in_box, y, target_weight, values);
    store_pixels(values, args, out);
    out += step * args.width;
    target.next();
    aux.next();
  }
}

}  // namespace xmixup
