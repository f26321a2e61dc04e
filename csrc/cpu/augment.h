// Changes of a row of floats: its colours, and its erased pixels. Compiled once per CPU level.
#pragma once

#include "../core/mix.h"
#include "simd.h"

namespace xmixup::XMIXUP_LEVEL {

// One channel of a pixel by its row of a colour matrix: the order of core/mix.h's color_of.
inline float recolor(const float* m, float r, float g, float b) {
  return clamp_level(multiply_add(m[0], r, multiply_add(m[1], g, multiply_add(m[2], b, m[3]))));
}

// The colour matrix of one side of a sample.
class ColorMatrix {
 public:
  // Pixels whose floats fill vectors, and these vectors.
  static constexpr int kVecs = 3, kVecPixels = Vec::kLanes;

  // Where there is no matrix, nothing is prepared.
  void start(const float* matrix) {
    matrix_ = matrix;
#if defined(__AVX2__)
    for (int m = 0; matrix != nullptr && m < kVecs; ++m) {
      float lanes[4][Vec::kLanes];
      for (int i = 0; i < Vec::kLanes; ++i) {
        for (int k = 0; k < 4; ++k) lanes[k][i] = matrix[4 * ((m * Vec::kLanes + i) % 3) + k];
      }
      for (int k = 0; k < 4; ++k) factors_[m][k] = Vec::load(lanes[k]);
    }
#endif
  }

  // Changes pixels in place. Reads and writes up to 3 kVecPixels floats beyond the last of them.
  void apply(float* row, int32_t pixels) const {
    if (matrix_ == nullptr) return;
#if defined(__AVX2__)
    for (int32_t x = 0; x < pixels; x += kVecPixels) apply_to_vecs(row + 3 * static_cast<int64_t>(x));
#else
    for (int32_t x = 0; x < pixels; ++x, row += 3) {
      const float r = row[0], g = row[1], b = row[2];
      for (int c = 0; c < 3; ++c) row[c] = recolor(matrix_ + 4 * c, r, g, b);
    }
#endif
  }

 private:
#if defined(__AVX2__)
  // Vector m begins in the middle of a pixel, `phase` floats after the pixel's first one.
  static constexpr int phase(int m) { return m * Vec::kLanes % 3; }
  // Whether its lanes belong to pixels whose first floats a shuffle does not reach. Then it takes them from two floats
  // further on, which all lanes but the first allow.
  static constexpr bool is_shifted(int m) { return (phase(m) + Vec::kLanes - 1) / 3 * 3 >= Vec::kLanes; }

  struct PixelIndices {
    int32_t lane[kVecs][Vec::kLanes];  // of the first float of each lane's pixel

    constexpr PixelIndices() : lane{} {
      for (int m = 0; m < kVecs; ++m) {
        for (int i = 0; i < Vec::kLanes; ++i) {
          const int index = (phase(m) + i) / 3 * 3 - (is_shifted(m) ? 2 : 0);
          lane[m][i] = index > 0 ? index : 0;
        }
      }
    }
  };

  void apply_to_vecs(float* p) const {
    static constexpr PixelIndices indices;
    Vec changed[kVecs];
#pragma GCC unroll 3
    for (int m = 0; m < kVecs; ++m) {
      const LaneIndices lanes = LaneIndices::load(indices.lane[m]);
      const auto channel = [&](int c) {
        const float* const first = p + m * Vec::kLanes - phase(m) + c;
        return is_shifted(m) ? Vec::permute(first + 2, lanes).with_first(first) : Vec::permute(first, lanes);
      };
      const Vec* const k = factors_[m];
      const Vec sum =
          multiply_add(k[0], channel(0), multiply_add(k[1], channel(1), multiply_add(k[2], channel(2), k[3])));
      changed[m] = minimum(maximum(sum, Vec::fill(0.0f)), Vec::fill(255.0f));
    }
#pragma GCC unroll 3
    for (int m = 0; m < kVecs; ++m) changed[m].store(p + m * Vec::kLanes);
  }

  Vec factors_[kVecs][4];
#endif
  const float* matrix_ = nullptr;
};

// The erased rectangle of one side of a sample.
class Erasing {
 public:
  void start(const MixArgs& args, const CropBatch& crops, int side, int64_t b) {
    args_ = &args;
    rectangle_ = erased_of(crops, b);
    side_ = side;
    key_ = args.noise_quantiles == nullptr ? 0 : at(args.noise, b);
  }

  // Fills what is erased of row y.
  void apply(float* row, int32_t y) const {
    if (rectangle_ == nullptr || y < rectangle_->top || y >= rectangle_->top + rectangle_->height) return;
    const int32_t left = rectangle_->left, right = left + rectangle_->width;
    if (args_->noise_quantiles != nullptr) {
      fill_with_noise(row, y, left, right);
      return;
    }
    for (int32_t x = left; x < right; ++x) {
      for (int c = 0; c < 3; ++c) row[3 * static_cast<int64_t>(x) + c] = args_->fill[c];
    }
  }

 private:
  static constexpr int kNoiseFloats = 3 * kNoisePixels;

  void fill_with_noise(float* row, int32_t y, int32_t left, int32_t right) const {
    for (int32_t group = left / kNoisePixels; kNoisePixels * group < right; ++group) {
      float levels[kNoiseFloats];
      noise_levels(group, y, levels);
      // Where pixels of the group are outside of the rectangle, its others.
      const int32_t first = kNoisePixels * group, end = right - first < kNoisePixels ? right - first : kNoisePixels;
      float* const pixels = row + 3 * static_cast<int64_t>(first);
      for (int32_t i = left > first ? 3 * (left - first) : 0; i < 3 * end; ++i) pixels[i] = levels[i];
    }
  }

  void noise_levels(int32_t group, int32_t y, float* levels) const {
    const Words words = noise_words(key_, side_, y, group);
#pragma GCC unroll 15
    for (int i = 0; i < kNoiseFloats; ++i) {
      const float quantile = args_->noise_quantiles[noise_byte(words, i / 3, i % 3)];
      levels[i] = noise_level(args_->fill[i % 3], quantile, args_->noise_scale[i % 3]);
    }
  }

  const MixArgs* args_ = nullptr;
  const Rectangle* rectangle_ = nullptr;
  uint64_t key_ = 0;
  int side_ = 0;
};

}  // namespace xmixup::XMIXUP_LEVEL
