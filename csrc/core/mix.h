// What one call of `mix` works on, and the arithmetic of one pixel. No torch here: the CPU kernels, the CUDA kernel and
// its emulation on the CPU all include this file, so that they cannot disagree.
#pragma once

#include <cstdint>

#include "inline.h"

namespace xmixup {

// An image pool, and the window that each sample takes of one of its images.
struct Side {
  const uint8_t* pixels;   // all images, row by row, R G B
  int64_t pixel_bytes;     // size of that buffer
  const int64_t* offsets;  // [images] where an image begins
  const int32_t* sizes;    // [images][height, width]
  int64_t images;
  const int64_t* index;   // [batch] which image
  const int32_t* window;  // [batch][top, left, height, width]
  const bool* flip;       // [batch] mirrored left to right
};

struct MixArgs {
  Side target;
  Side aux;
  const float* lam;  // [batch]
  float scale[3];    // of a byte, per channel: 1 / (255 std)
  float bias[3];     // -mean / std
  float* out;        // [batch][height][width][3], or [batch][3][height][width]
  int64_t batch;
  int32_t height;
  int32_t width;
  bool channels_last;
};

// Weights of one sample and one channel.
struct ChannelWeights {
  float target;
  float aux;
  float bias;
};

XMIXUP_INLINE ChannelWeights channel_weights(float lam, float scale, float bias) {
  return {lam * scale, (1.0f - lam) * scale, bias};
}

// What is wrong with a sample's window, from the first thing that must hold to the last.
enum class WindowFault { none, index, image, size, place };

// Compares in 64 bits, so that no int32 can overflow its way past the check.
XMIXUP_INLINE WindowFault find_fault(const Side& side, int64_t b, int32_t out_height, int32_t out_width) {
  const int64_t i = side.index[b];
  if (i < 0 || i >= side.images) return WindowFault::index;
  const int64_t height = side.sizes[2 * i], width = side.sizes[2 * i + 1], begin = side.offsets[i];
  if (height < 0 || width < 0 || begin < 0 || begin > side.pixel_bytes ||
      height * width > (side.pixel_bytes - begin) / 3) {
    return WindowFault::image;
  }
  const int32_t* window = side.window + 4 * b;
  if (window[2] != out_height || window[3] != out_width) return WindowFault::size;
  const int64_t top = window[0], left = window[1];
  if (top < 0 || left < 0 || top + out_height > height || left + out_width > width) return WindowFault::place;
  return WindowFault::none;
}

// First byte of row y of a sample's window.
XMIXUP_INLINE const uint8_t* window_row(const Side& side, int64_t b, int32_t y) {
  const int64_t i = side.index[b];
  const int32_t* window = side.window + 4 * b;
  const int64_t width = side.sizes[2 * i + 1];
  return side.pixels + side.offsets[i] + 3 * ((window[0] + static_cast<int64_t>(y)) * width + window[1]);
}

}  // namespace xmixup
