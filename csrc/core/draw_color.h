// How the colours of an image are changed: the matrix of a random order of torchvision's ColorJitter steps.
#pragma once

#include <cstdint>

#include "draw_words.h"
#include "plan.h"

namespace xmixup {

constexpr int kColorSteps = 4;  // brightness, contrast, saturation, hue
constexpr int kOrders = 24;
constexpr int kGrid = 8;  // rows and columns of an image's mean colours

struct ColorSettings {
  bool is_on;
  float probability;
  bool has_step[kColorSteps];
  float least[kColorSteps];  // factor of brightness, contrast, saturation; turn of the hue, of whole turns
  float most[kColorSteps];
  const float* turns;  // [turn_intervals + 1][cosine, sine] of -1/2 to 1/2 of a turn
  int64_t turn_intervals;
};

struct Rgb {
  float r, g, b;
};

// As torchvision weighs channels.
XMIXUP_INLINE float luma(const Rgb& x) {
  return sum(sum(product(0.2989f, x.r), product(0.587f, x.g)), product(0.114f, x.b));
}

XMIXUP_INLINE Rgb times(float factor, const Rgb& x) {
  return {product(factor, x.r), product(factor, x.g), product(factor, x.b)};
}

XMIXUP_INLINE Rgb plus(const Rgb& x, float shift) { return {sum(x.r, shift), sum(x.g, shift), sum(x.b, shift)}; }

// How many eighths of a pixel of `begin` to `end` lie in a cell of the grid, which cuts `pixels` into eight.
XMIXUP_INLINE int64_t overlap(int64_t begin, int64_t end, int64_t cell, int64_t pixels) {
  const int64_t first = kGrid * begin > cell * pixels ? kGrid * begin : cell * pixels;
  const int64_t last = kGrid * end < (cell + 1) * pixels ? kGrid * end : (cell + 1) * pixels;
  return last > first ? last - first : 0;
}

// The mean colour of a window, in 0..255, as far as the mean colours of the image's cells, uint8[8][8][3], tell it.
// Sums are exact: with sides of up to 2^24 pixels they are below 2^62.
XMIXUP_INLINE Rgb window_mean(const uint8_t* means, int32_t height, int32_t width, const Rectangle& window) {
  const int64_t top = window.top, left = window.left, rows = window.height, columns = window.width;
  int64_t r = 0, g = 0, b = 0;
  for (int y = 0; y < kGrid; ++y) {
    const int64_t row_weight = overlap(top, top + rows, y, height);
    if (row_weight == 0) continue;
    for (int x = 0; x < kGrid; ++x) {
      const int64_t weight = row_weight * overlap(left, left + columns, x, width);
      const uint8_t* cell = means + 3 * (kGrid * y + x);
      r += weight * cell[0];
      g += weight * cell[1];
      b += weight * cell[2];
    }
  }
  const float whole = static_cast<float>(kGrid * kGrid * rows * columns);
  return {quotient(static_cast<float>(r), whole), quotient(static_cast<float>(g), whole),
          quotient(static_cast<float>(b), whole)};
}

// Turns colours about the grey axis.
struct Rotation {
  float cosine, sine;
};

XMIXUP_INLINE bool is_on_circle(const float* entry) {
  return entry[0] >= -1.0f && entry[0] <= 1.0f && entry[1] >= -1.0f && entry[1] <= 1.0f;
}

// The rotation by a part of a turn, -1/2 to 1/2. False where the table holds what is no cosine or sine.
XMIXUP_INLINE bool find_rotation(const ColorSettings& color, float turn, Rotation* rotation) {
  const float place = product(sum(turn, 0.5f), static_cast<float>(color.turn_intervals));
  int64_t interval = static_cast<int64_t>(place);
  if (interval > color.turn_intervals - 1) interval = color.turn_intervals - 1;
  const float fraction = difference(place, static_cast<float>(interval));
  const float* entry = color.turns + 2 * interval;
  *rotation = {interpolate(entry[0], entry[2], fraction), interpolate(entry[1], entry[3], fraction)};
  return is_on_circle(entry) && is_on_circle(entry + 2);
}

XMIXUP_INLINE Rgb rotated(const Rotation& rotation, const Rgb& x) {
  const float grey = product(product(difference(1.0f, rotation.cosine), 0.333333343f), sum(sum(x.r, x.g), x.b));
  const float side = product(rotation.sine, 0.577350259f);  // 1 / sqrt 3
  const Rgb straight = plus(times(rotation.cosine, x), grey);
  return {sum(straight.r, product(side, difference(x.b, x.g))), sum(straight.g, product(side, difference(x.r, x.b))),
          sum(straight.b, product(side, difference(x.g, x.r)))};
}

// The matrix of an image whose colours are being changed, column by column: what R, G, B and 1 become; and what the
// mean colour becomes, as far as it is needed.
struct ColorState {
  Rgb columns[5];
};

constexpr int kShift = 3, kMean = 4;  // among the columns

XMIXUP_INLINE void change(ColorState& state, int step, float factor, const Rotation& rotation) {
  const float rest = difference(1.0f, factor), mean_luma = luma(state.columns[kMean]);
  for (int k = 0; k < 5; ++k) {
    Rgb& x = state.columns[k];
    switch (step) {
      case 0: x = times(factor, x); break;  // brightness
      case 1:                               // contrast
        x = times(factor, x);
        if (k >= kShift) x = plus(x, product(rest, mean_luma));
        break;
      case 2: x = plus(times(factor, x), product(rest, luma(x))); break;  // saturation
      default: x = rotated(rotation, x);                                  // hue
    }
  }
}

// Takes the next step of an order of steps, 0 to 23 in the order of a dictionary: `order` is what is left of it,
// `steps` those left of the four, four bits each, `count` how many they are.
XMIXUP_INLINE int next_step(uint32_t& order, uint32_t& steps, uint32_t count) {
  const uint32_t rest = count == 4 ? 6 : count == 3 ? 2 : 1;  // orders of those that are left then
  const uint32_t place = 4 * (order / rest);
  order %= rest;
  const uint32_t step = steps >> place & 15u;
  steps = (steps & ((1u << place) - 1)) | (steps >> (place + 4) << place);
  return static_cast<int>(step);
}

XMIXUP_INLINE uint32_t word_of(const Words& words, int number) {
  return number == 0 ? words.a : number == 1 ? words.b : number == 2 ? words.c : words.d;
}

// Draws the matrix float[3][4] that turns R, G, B, 1 of a pixel, in 0..255, into its new R, G, B. `means` are those of
// the image, and null without contrast. False where the table of turns holds what is no cosine or sine.
XMIXUP_INLINE bool draw_color(const ColorSettings& color, const DrawKey& key, const ImagePurposes& purposes,
                              const uint8_t* means, int32_t height, int32_t width, const Rectangle& window,
                              float* matrix) {
  ColorState state{{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0, 0, 0}, {0, 0, 0}}};
  const Words choice = random_words(key, purposes.color);
  if (uniform_float(choice.a) < color.probability) {
    const Words words = random_words(key, purposes.factors);
    if (color.has_step[1]) state.columns[kMean] = window_mean(means, height, width, window);
    Rotation rotation{1.0f, 0.0f};
    if (color.has_step[3]) {
      const float turn = interpolate(color.least[3], color.most[3], uniform_float(words.d));
      if (!find_rotation(color, turn, &rotation)) return false;
    }
    uint32_t order = static_cast<uint32_t>(uniform_below(kOrders, choice.b)), steps = 0x3210u;
    for (uint32_t count = kColorSteps; count > 0; --count) {
      const int step = next_step(order, steps, count);
      if (!color.has_step[step]) continue;
      const float factor = interpolate(color.least[step], color.most[step], uniform_float(word_of(words, step)));
      change(state, step, factor, rotation);
    }
  }
  for (int k = 0; k < 4; ++k) {
    matrix[k] = state.columns[k].r;
    matrix[4 + k] = state.columns[k].g;
    matrix[8 + k] = state.columns[k].b;
  }
  return true;
}

}  // namespace xmixup
