// Filters an axis along which a window is larger than the output: by a triangle whose base is two pixels of the output
// wide, as torch.nn.functional.interpolate(antialias=True) does. Every operation is rounded by itself, so that all
// devices find the same weights.
#pragma once

#include <cstdint>

#include "inline.h"
#include "mix.h"

namespace xmixup {

// The pixels of the window that a pixel of the output is made of. It is the sum of fma(weight, pixel, sum) over them,
// in ascending order and beginning with 0, times inverse_sum.
struct TriangleTaps {
  int32_t first;
  int32_t count;          // at least 1
  float centre;           // of the output's pixel, in the window, whose first pixel reaches from 0 to 1
  float inverse_support;  // 1 / (half of the triangle's base)
  float inverse_sum;      // 1 / (sum of all weights)
};

// Weight of pixel first + j of the window.
XMIXUP_INLINE float triangle_weight(const TriangleTaps& taps, int32_t j) {
  const float offset = static_cast<float>(taps.first + j) + 0.5f - taps.centre;
  const float weight = 1.0f - product(offset < 0.0f ? -offset : offset, taps.inverse_support);
  return weight > 0.0f ? weight : 0.0f;
}

XMIXUP_INLINE TriangleTaps triangle_taps(int32_t out_position, int32_t out_size, int32_t window_size) {
  const float scale = static_cast<float>(window_size) / static_cast<float>(out_size);
  const float support = scale > 1.0f ? scale : 1.0f;
  const float centre = product(scale, static_cast<float>(out_position) + 0.5f);
  const int32_t begin = static_cast<int32_t>(centre - support + 0.5f);
  const int32_t end = static_cast<int32_t>(centre + support + 0.5f);
  TriangleTaps taps = {begin > 0 ? begin : 0, 0, centre, 1.0f / support, 0.0f};
  taps.count = (end < window_size ? end : window_size) - taps.first;
  float sum = 0.0f;
  for (int32_t j = 0; j < taps.count; ++j) sum += triangle_weight(taps, j);
  taps.inverse_sum = 1.0f / sum;
  return taps;
}

}  // namespace xmixup
