// Which rectangle of an image is erased.
#pragma once

#include <cstdint>

#include "draw_crop.h"

namespace xmixup {

struct EraseSettings {
  bool is_on;
  float probability;
  ShapeSettings shape;  // the aspect ratio is height over width
};

// A rectangle of the output, of random size, shape and place, as torchvision's RandomErasing draws it: the first of ten
// tries that is smaller than the output in both directions, or else none. False where the table of aspect ratios holds
// what is not a positive number.
XMIXUP_INLINE bool draw_erased(const EraseSettings& erase, const DrawKey& key, Purpose purpose, int32_t height,
                               int32_t width, Rectangle* erased) {
  for (int k = 0; k < kTries; ++k) {
    const Words words = random_words(key, purpose, k);
    const Sides sides = draw_sides(erase.shape, height, width, words);
    if (!sides.is_valid) return false;
    const float rows = sides.times_root, columns = sides.over_root;
    if (rows < static_cast<float>(height) && columns < static_cast<float>(width)) {
      *erased = place(height, width, static_cast<int32_t>(rows), static_cast<int32_t>(columns), words.c, words.d);
      return true;
    }
  }
  return true;
}

}  // namespace xmixup
