// The random words of a sample, and the numbers that are made of them.
#pragma once

#include <cstdint>

#include "philox.h"
#include "rounding.h"

namespace xmixup {

// What the random words of a sample depend on, besides their purpose.
struct DrawKey {
  uint64_t seed;
  uint64_t sample;
  uint32_t epoch;
};

// What random words are drawn for: the last word of Philox's counter, so that a sample's draws are independent.
enum class Purpose : uint32_t {
  target_crop,     // top and left of a window of the output's size, flip
  aux_choice,      // member
  aux_crop,        // as target_crop
  lam_and_center,  // lam, centre's y and x
  target_color,    // whether colours are changed, order of the steps
  target_factors,  // factors of brightness, contrast and saturation, turn of the hue
  aux_color,
  aux_factors,
  erasing,  // whether something is erased from the target image and from the auxiliary one, key of the noise in two
            // words
  // The first of ten tries, each with words of its own: area, aspect ratio, top, left.
  target_window = 16,
  aux_window = 32,
  target_erased = 48,
  aux_erased = 64,
};

constexpr int kTries = 10;

// The purposes of one image of a pair.
struct ImagePurposes {
  Purpose crop, color, factors, window, erased;
};

XMIXUP_INLINE ImagePurposes target_purposes() {
  return {Purpose::target_crop, Purpose::target_color, Purpose::target_factors, Purpose::target_window,
          Purpose::target_erased};
}

XMIXUP_INLINE ImagePurposes aux_purposes() {
  return {Purpose::aux_crop, Purpose::aux_color, Purpose::aux_factors, Purpose::aux_window, Purpose::aux_erased};
}

XMIXUP_INLINE Words random_words(const DrawKey& key, Purpose purpose, int number = 0) {
  return philox({static_cast<uint32_t>(key.sample), static_cast<uint32_t>(key.sample >> 32), key.epoch,
                 static_cast<uint32_t>(purpose) + static_cast<uint32_t>(number)},
                key.seed);
}

// A uniform number in [0, 1): the word's upper 24 bits times 2^-24, which float32 holds exactly.
XMIXUP_INLINE float uniform_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// Quantiles of a distribution at 0, 1 / intervals, ... 1.
struct QuantileTable {
  const float* entries;  // [intervals + 1]
  int64_t intervals;     // 1 to 2^24
};

// Interpolates the table at uniform_float(word) * intervals. That position is computed in integers, in units of 2^-24,
// and so exact.
XMIXUP_INLINE float quantile_at(const QuantileTable& table, uint32_t word) {
  const uint64_t position = static_cast<uint64_t>(word >> 8) * static_cast<uint64_t>(table.intervals);
  const float* entry = table.entries + (position >> 24);
  return interpolate(entry[0], entry[1], static_cast<float>(position & 0xFFFFFF) * 0x1p-24f);
}

}  // namespace xmixup
