// The arguments of one call of `mix`, and the arithmetic of one pixel. It needs no torch: the CPU kernels, the CUDA
// kernel and its emulation on the CPU all include this file, so that they cannot disagree.
#pragma once

#include <cstdint>

#include "column.h"
#include "inline.h"
#include "philox.h"
#include "plan.h"
#include "rounding.h"

namespace xmixup {

// An image pool, and for each sample a window of one of its images.
struct CropBatch {
  const uint8_t* pixels;   // all images, row by row: R G B R G B ...
  int64_t pixel_bytes;     // size of pixels
  const int64_t* offsets;  // [images] first byte of an image
  const int32_t* sizes;    // [images][height, width]
  int64_t images;
  Column<int64_t> index;     // [batch] index of the image
  Column<Rectangle> window;  // [batch]
  Column<uint8_t> flip;      // [batch] whether the window is mirrored left to right
  Column<Rectangle> erased;  // [batch] in the output, what is filled in place of the image; or null
};

enum class OutType { float32, bfloat16, float16 };

struct MixArgs {
  CropBatch target;
  CropBatch aux;
  Column<float> lam;       // [batch]; checked, but without effect where there are boxes
  Column<Rectangle> box;   // [batch] in the output, where the auxiliary image shows; or null
  Column<uint8_t> boxed;   // [batch] which samples have a box; null: all, where there are boxes
  Column<uint64_t> noise;  // [batch] key of the noise that erased pixels are filled with; null without rectangles
  const float*
      color;      // [batch][target, aux][3][4] matrices of R, G, B, 1 in 0..255, whose results are clamped; or null
  float fill[3];  // per channel: what erased pixels are filled with, in 0..255
  float noise_scale[3];          // per channel: a standard deviation of the noise that is added to it, 255 std
  const float* noise_quantiles;  // [256] of the normal distribution, one for each random byte; null: no noise
  float scale[3];                // per channel: 1 / (255 std)
  float bias[3];                 // per channel: -mean / std
  void* out;                     // [batch][height][width][3], or [batch][3][height][width]
  OutType out_type;
  int64_t batch;
  int32_t height;
  int32_t width;
  bool channels_last;
  bool plan;       // whether the columns are those of a packed plan, for messages
  bool antialias;  // filter axes along which a window is larger than the output, instead of taking two pixels of each
};

// Weights of one sample and channel: an output is t * target + (a * aux + bias) for the bytes t and a of the images.
struct ChannelWeights {
  float target;
  float aux;
  float bias;
};

XMIXUP_INLINE ChannelWeights channel_weights(float lam, float scale, float bias) {
  return {lam * scale, (1.0f - lam) * scale, bias};
}

// Pixels that a window may be high or wide. float32 holds every integer up to this, and int32 the bytes of such a row.
constexpr int64_t kMaxWindowSide = 1 << 24;

// What is wrong with a sample's window, in the order in which it is checked.
enum class WindowFault { none, index, image, window };

// Compares in 64 bits, so that no int32 can overflow its way past the check.
XMIXUP_INLINE WindowFault check_window(const CropBatch& crops, int64_t b) {
  const int64_t i = at(crops.index, b);
  if (i < 0 || i >= crops.images) return WindowFault::index;
  const int64_t height = crops.sizes[2 * i], width = crops.sizes[2 * i + 1], begin = crops.offsets[i];
  if (height < 0 || width < 0 || begin < 0 || begin > crops.pixel_bytes ||
      height * width > (crops.pixel_bytes - begin) / 3) {
    return WindowFault::image;
  }
  const Rectangle& window = at(crops.window, b);
  const int64_t top = window.top, left = window.left, rows = window.height, columns = window.width;
  if (top < 0 || left < 0 || rows < 1 || columns < 1 || top + rows > height || left + columns > width ||
      rows > kMaxWindowSide || columns > kMaxWindowSide) {
    return WindowFault::window;
  }
  return WindowFault::none;
}

// Whether a rectangle, which may be empty, lies inside the output.
XMIXUP_INLINE bool fits_output(const MixArgs& args, const Rectangle& rectangle) {
  const int64_t top = rectangle.top, left = rectangle.left, height = rectangle.height, width = rectangle.width;
  return top >= 0 && left >= 0 && height >= 0 && width >= 0 && top + height <= args.height &&
         left + width <= args.width;
}

// Where the auxiliary image of a sample shows; null for samples that are blended.
XMIXUP_INLINE const Rectangle* box_of(const MixArgs& args, int64_t b) {
  if (args.box.first == nullptr || (args.boxed.first != nullptr && at(args.boxed, b) == 0)) return nullptr;
  return &at(args.box, b);
}

// What is filled in place of one of a sample's images; null for nothing.
XMIXUP_INLINE const Rectangle* erased_of(const CropBatch& crops, int64_t b) {
  if (crops.erased.first == nullptr) return nullptr;
  const Rectangle& erased = at(crops.erased, b);
  return erased.height > 0 && erased.width > 0 ? &erased : nullptr;
}

// Whether a window has the output's size, so that nothing is resampled.
XMIXUP_INLINE bool is_crop(const CropBatch& crops, int64_t b, const MixArgs& args) {
  return at(crops.window, b).height == args.height && at(crops.window, b).width == args.width;
}

// Bilinear resampling along one axis, with pixel centres at half-integers: a row (or column) of the output is
// before + weight * (after - before), of two neighbouring rows of the window. Beyond the window's edges, its outermost
// row is taken. Three roundings (of the ratio, the product and the difference) move the position by less than 3 * 2^-24
// of the window's size.
struct LinearTap {
  int32_t before;
  int32_t after;
  float weight;
};

XMIXUP_INLINE LinearTap linear_tap(int32_t out_position, int32_t out_size, int32_t window_size) {
  const float ratio = static_cast<float>(window_size) / static_cast<float>(out_size);
  float position = product(static_cast<float>(out_position) + 0.5f, ratio) - 0.5f;
  if (position < 0.0f) position = 0.0f;
  int32_t before = static_cast<int32_t>(position);
  if (before > window_size - 1) before = window_size - 1;
  const int32_t after = before + 1 < window_size ? before + 1 : before;
  return {before, after, position - static_cast<float>(before)};
}

// First byte of row y of a sample's window.
XMIXUP_INLINE const uint8_t* window_row(const CropBatch& crops, int64_t b, int32_t y) {
  const int64_t i = at(crops.index, b);
  const Rectangle& window = at(crops.window, b);
  const int64_t width = crops.sizes[2 * i + 1];
  return crops.pixels + crops.offsets[i] + 3 * ((window.top + static_cast<int64_t>(y)) * width + window.left);
}

// --- changed colours and erased pixels ---

// The matrix of a sample's target image (side 0) or auxiliary image (1); null for no change of colours. Channel c is
// clamp_level(fma(m[4 c], r, fma(m[4 c + 1], g, fma(m[4 c + 2], b, m[4 c + 3])))).
XMIXUP_INLINE const float* color_of(const MixArgs& args, int64_t b, int side) {
  return args.color == nullptr ? nullptr : args.color + 12 * (2 * b + side);
}

// A level clamped to 0..255: +0 for -0 and for NaN.
XMIXUP_INLINE float clamp_level(float level) {
#if defined(__CUDA_ARCH__)
  return fminf(fmaxf(level, 0.0f), 255.0f);
#else
  const float positive = level > 0.0f ? level : 0.0f;
  return positive < 255.0f ? positive : 255.0f;
#endif
}

// Neighbouring pixels whose noise comes from the 16 bytes of one call of Philox.
constexpr int32_t kNoisePixels = 5;

// The random bytes of pixels kNoisePixels * group to kNoisePixels * (group + 1) - 1 of row y, three of each pixel.
XMIXUP_INLINE Words noise_words(uint64_t key, int side, int32_t y, int32_t group) {
  return philox({static_cast<uint32_t>(group), static_cast<uint32_t>(y), static_cast<uint32_t>(side), 0}, key);
}

// The random byte of channel c of pixel x, out of the noise_words of its group.
XMIXUP_INLINE uint32_t noise_byte(const Words& words, int32_t x, int32_t c) {
  const int32_t byte = 3 * (x % kNoisePixels) + c;
  const uint32_t word = byte < 4 ? words.a : byte < 8 ? words.b : byte < 12 ? words.c : words.d;
  return word >> (8 * (byte & 3)) & 255;
}

// What a channel is filled with, for its random byte's quantile of the normal distribution.
XMIXUP_INLINE float noise_level(float fill, float quantile, float scale) { return fill + product(quantile, scale); }

}  // namespace xmixup
