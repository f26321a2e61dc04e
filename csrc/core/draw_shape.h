// The sides of a rectangle whose area and aspect ratio are random, as torchvision's RandomResizedCrop and RandomErasing
// draw them.
#pragma once

#include <cstdint>

#include "draw_words.h"

namespace xmixup {

// Sides, in pixels, of images and outputs that such rectangles are drawn in: float32 holds every integer up to this.
constexpr int32_t kMaxDrawnSide = 1 << 24;

struct ShapeSettings {
  float least_area;  // as shares of the whole's
  float most_area;
  QuantileTable ratio_roots;  // of the square root of the aspect ratio
};

// Rounded to whole pixels.
struct Sides {
  float times_root;  // the square root of the area, times the root of the aspect ratio
  float over_root;   // and divided by it
  bool is_valid;     // whether the root is a positive number, as all in the table must be
};

XMIXUP_INLINE bool is_ratio_root(float x) { return x > 0.0f && x <= 0x1.fffffep127f; }

XMIXUP_INLINE Sides draw_sides(const ShapeSettings& shape, int32_t height, int32_t width, Words words) {
  const float whole = static_cast<float>(static_cast<int64_t>(height) * width);
  const float share = interpolate(shape.least_area, shape.most_area, uniform_float(words.a));
  const float side = square_root(product(whole, share)), ratio_root = quantile_at(shape.ratio_roots, words.b);
  return {nearest_whole(product(side, ratio_root)), nearest_whole(quotient(side, ratio_root)),
          is_ratio_root(ratio_root)};
}

}  // namespace xmixup
