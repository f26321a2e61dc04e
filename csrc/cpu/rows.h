// Windows of images, and rows of them that are blended: bytes as they are, or floats. Compiled once per CPU level.
#pragma once

#include "../core/mix.h"
#include "pixels.h"
#include "simd.h"

namespace xmixup::XMIXUP_LEVEL {

// The window of one sample in one pool.
struct Window {
  const uint8_t* first = nullptr;  // first byte of its first pixel
  int64_t row_bytes = 0;           // from one row of the image to the next
  int32_t height = 0, width = 0;
  bool flip = false;

  Window() = default;
  Window(const CropBatch& crops, int64_t b)
      : first(window_row(crops, b, 0)),
        row_bytes(3 * static_cast<int64_t>(crops.sizes[2 * at(crops.index, b) + 1])),
        height(at(crops.window, b).height),
        width(at(crops.window, b).width),
        flip(at(crops.flip, b) != 0) {}

  const uint8_t* row(int32_t y) const { return first + y * row_bytes; }
};

// A row is prefetched this many rows before it is read. The CPU does not foresee it: the rows of a window are too far
// apart, and mirrored ones are read backwards.
constexpr int32_t kRowsAhead = 2;

inline void prefetch(const uint8_t* row, int32_t bytes) {
  constexpr int kCacheLine = 64;
#pragma GCC unroll 4
  for (int32_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(row + i);
}

// Numbers of a row, one at a time: pixel x begins x times `step` from `first`.
template <typename T>
struct Elements {
  const T* first;
  int64_t step;

  float get(int32_t x, int32_t c) const { return static_cast<float>(first[step * x + c]); }
};

// A row of a window that has the output's width.
struct ByteRow {
  const uint8_t* first;
  const Window& window;

  Elements<uint8_t> elements() const {
    if (!window.flip) return {first, 3};
    return {first + 3 * static_cast<int64_t>(window.width - 1), -3};
  }

#if defined(__AVX2__)
  template <bool planar>
  ByteOrder<planar> order() const {
    return {first, window.width, window.flip};
  }
#endif
};

// A row of interleaved floats in the output's order.
struct FloatRow {
  const float* first;

  Elements<float> elements() const { return {first, 3}; }

#if defined(__AVX2__)
  template <bool planar>
  FloatOrder<planar> order() const {
    return {first};
  }
#endif
};

}  // namespace xmixup::XMIXUP_LEVEL
