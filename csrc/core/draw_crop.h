// Which window of an image is taken.
#pragma once

#include <cstdint>

#include "draw_shape.h"
#include "plan.h"

namespace xmixup {

struct CropSettings {
  int32_t height;  // of the output, in pixels
  int32_t width;
  bool flip;            // mirror a window left to right, with probability 1/2
  bool resized;         // windows of any size and shape, else of the output's size
  ShapeSettings shape;  // of resized windows; the aspect ratio is width over height
};

// A rectangle of this size at a random place.
XMIXUP_INLINE Rectangle place(int32_t outer_height, int32_t outer_width, int32_t height, int32_t width,
                              uint32_t top_word, uint32_t left_word) {
  return {static_cast<int32_t>(uniform_below(int64_t{outer_height} - height + 1, top_word)),
          static_cast<int32_t>(uniform_below(int64_t{outer_width} - width + 1, left_word)), height, width};
}

// The largest window in the middle of an image whose aspect ratio is allowed; of the image, or the nearest one.
XMIXUP_INLINE Rectangle middle_window(const QuantileTable& ratio_roots, int32_t height, int32_t width) {
  const float least_root = ratio_roots.entries[0], most_root = ratio_roots.entries[ratio_roots.intervals];
  const float least = product(least_root, least_root), most = product(most_root, most_root);
  const float h = static_cast<float>(height), w = static_cast<float>(width), ratio = quotient(w, h);
  float rows = h, columns = w;
  if (ratio < least) {
    rows = nearest_whole(quotient(w, least));
  } else if (ratio > most) {
    columns = nearest_whole(product(h, most));
  }
  // A side of less than half a pixel is one pixel. Rounding may take one beyond the image.
  rows = rows >= 1.0f ? (rows <= h ? rows : h) : 1.0f;
  columns = columns >= 1.0f ? (columns <= w ? columns : w) : 1.0f;
  const int32_t window_height = static_cast<int32_t>(rows), window_width = static_cast<int32_t>(columns);
  return {(height - window_height) / 2, (width - window_width) / 2, window_height, window_width};
}

// A window of random size, shape and place, as torchvision's RandomResizedCrop draws it: the first of ten tries that
// the image holds, or else the middle one. False where the table of aspect ratios holds what is not a positive number.
XMIXUP_INLINE bool draw_resized_window(const CropSettings& crop, const DrawKey& key, Purpose purpose, int32_t height,
                                       int32_t width, Rectangle* window) {
  for (int k = 0; k < kTries; ++k) {
    const Words words = random_words(key, purpose, k);
    const Sides sides = draw_sides(crop.shape, height, width, words);
    if (!sides.is_valid) return false;
    const float rows = sides.over_root, columns = sides.times_root;
    if (rows >= 1.0f && rows <= static_cast<float>(height) && columns >= 1.0f && columns <= static_cast<float>(width)) {
      *window = place(height, width, static_cast<int32_t>(rows), static_cast<int32_t>(columns), words.c, words.d);
      return true;
    }
  }
  const QuantileTable& roots = crop.shape.ratio_roots;
  *window = middle_window(roots, height, width);
  return is_ratio_root(roots.entries[0]) && is_ratio_root(roots.entries[roots.intervals]);
}

// Draws a window of an image, and whether it is mirrored. False as above.
XMIXUP_INLINE bool draw_crop(const CropSettings& crop, const DrawKey& key, const ImagePurposes& purposes,
                             int32_t height, int32_t width, Rectangle* window, bool* flip) {
  const Words words = random_words(key, purposes.crop);
  *flip = crop.flip && words.c < 0x80000000u;
  if (crop.resized) return draw_resized_window(crop, key, purposes.window, height, width, window);
  *window = place(height, width, crop.height, crop.width, words.a, words.b);
  return true;
}

}  // namespace xmixup
