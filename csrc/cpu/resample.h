// Resampling of one axis after the other. Compiled once per CPU level.
#pragma once

#include "../core/mix.h"
#include "../core/triangle.h"
#include "rows.h"

namespace xmixup::XMIXUP_LEVEL {

// --- rows of a window, made from rows of bytes ---

// out = a + weight * (b - a), elementwise.
inline void interpolate(const uint8_t* a, const uint8_t* b, float weight, int count, float* out) {
  const auto vector = [&](int i) {
    const Vec first = Vec::load(a + i);
    multiply_add(Vec::fill(weight), subtract(Vec::load(b + i), first), first).store(out + i);
  };
  int i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) vector(i);
  if (i < count && count >= Vec::kLanes) {
    vector(count - Vec::kLanes);
    return;
  }
  for (; i < count; ++i) {
    const float first = static_cast<float>(a[i]);
    out[i] = multiply_add(weight, static_cast<float>(b[i]) - first, first);
  }
}

// Some of the rows that a row of the output is made of by a triangle filter, and what their sum is multiplied by.
struct WeightedRows {
  static constexpr int kMost = 16;

  const uint8_t* first;
  int64_t row_bytes;
  int count;
  float weight[kMost];
  float factor;
};

// out = factor * (out + the sum of weight * row over all rows) for n vectors from element i on, whose sums the CPU
// computes side by side; `from_zero`: as if `out` was 0.
template <bool from_zero, int n>
inline void add_vecs(const WeightedRows& rows, int i, float* out) {
  Vec sum[n];
#pragma GCC unroll 4
  for (int k = 0; k < n; ++k) sum[k] = from_zero ? Vec::fill(0.0f) : Vec::load(out + i + k * Vec::kLanes);
  const uint8_t* row = rows.first + i;
  for (int j = 0; j < rows.count; ++j, row += rows.row_bytes) {
    const Vec weight = Vec::fill(rows.weight[j]);
#pragma GCC unroll 4
    for (int k = 0; k < n; ++k) sum[k] = multiply_add(weight, Vec::load(row + k * Vec::kLanes), sum[k]);
  }
#pragma GCC unroll 4
  for (int k = 0; k < n; ++k) times(sum[k], Vec::fill(rows.factor)).store(out + i + k * Vec::kLanes);
}

// The same for `count` elements.
template <bool from_zero>
inline void add_rows(const WeightedRows& rows, int count, float* out) {
  constexpr int kAtOnce = 4;
  int i = 0;
  for (; i + kAtOnce * Vec::kLanes <= count; i += kAtOnce * Vec::kLanes) add_vecs<from_zero, kAtOnce>(rows, i, out);
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) add_vecs<from_zero, 1>(rows, i, out);
  if (from_zero && i < count && count >= Vec::kLanes) {
    add_vecs<from_zero, 1>(rows, count - Vec::kLanes, out);
    return;
  }
  for (; i < count; ++i) {
    float sum = from_zero ? 0.0f : out[i];
    for (int j = 0; j < rows.count; ++j) {
      sum = multiply_add(rows.weight[j], static_cast<float>(rows.first[i + j * rows.row_bytes]), sum);
    }
    out[i] = sum * rows.factor;
  }
}

// out = the rows of the window that `taps` tells, each times its weight.
inline void filter_rows(const Window& window, const TriangleTaps& taps, float* out) {
  for (int32_t begin = 0; begin < taps.count; begin += WeightedRows::kMost) {
    const int32_t left = taps.count - begin;
    const bool last = left <= WeightedRows::kMost;
    WeightedRows rows{window.row(taps.first + begin), window.row_bytes, last ? left : WeightedRows::kMost, {}, 1.0f};
    for (int j = 0; j < rows.count; ++j) rows.weight[j] = triangle_weight(taps, begin + j);
    if (last) rows.factor = taps.inverse_sum;
    begin == 0 ? add_rows<true>(rows, 3 * window.width, out) : add_rows<false>(rows, 3 * window.width, out);
  }
}

// --- columns of the output, made from a row of the window in floats ---

// By interpolation between two pixels.
class LinearColumns {
 public:
  // `tables` has room for 3 rows of the output.
  void start(int32_t width, const Window& window, int64_t row, float* tables) {
    count_ = 3 * width;
    base_ = reinterpret_cast<int32_t*>(tables);
    before_ = base_ + row;
    weight_ = tables + 2 * row;
    within_pair_ = true;
    for (int32_t i = 0; i < count_; i += Vec::kLanes) fill_tables(i, width, window);
  }

  // `window_row` repeats its last pixel: for output columns beyond its centre, it is also the one after.
  void apply(const float* window_row, float* out) const {
    within_pair_ ? interpolate_columns<true>(window_row, out) : interpolate_columns<false>(window_row, out);
  }

 private:
  // Fills the tables for elements i to i + kLanes - 1. Those beyond the row's end, whose results nobody uses, take the
  // columns of the last pixel.
  void fill_tables(int32_t i, int32_t width, const Window& window) {
    int32_t last = 0;
    base_[i] = 3 * window.width;
    for (int32_t j = i; j < i + Vec::kLanes; ++j) {
      const int32_t x = j < count_ ? j / 3 : width - 1;
      const LinearTap tap = linear_tap(window.flip ? width - 1 - x : x, width, window.width);
      before_[j] = 3 * tap.before + j % 3;
      weight_[j] = tap.weight;
      base_[i] = before_[j] < base_[i] ? before_[j] : base_[i];
      last = before_[j] > last ? before_[j] : last;
    }
    for (int32_t j = i; j < i + Vec::kLanes; ++j) before_[j] -= base_[i];
    within_pair_ = within_pair_ && last + 3 - base_[i] < 2 * Vec::kLanes;
  }

  template <bool within_pair>
  void interpolate_columns(const float* window_row, float* out) const {
    for (int32_t i = 0; i < count_; i += Vec::kLanes) {
      const float* p = window_row + base_[i];
      const LaneIndices before = LaneIndices::load(before_ + i), after = before.plus(3);
      const Vec first = within_pair ? Vec::permute_pair(p, before) : Vec::gather(p, before);
      const Vec step = subtract(within_pair ? Vec::permute_pair(p, after) : Vec::gather(p, after), first);
      multiply_add(Vec::load(weight_ + i), step, first).store(out + i);
    }
  }

  int32_t count_ = 0;
  bool within_pair_ = false;   // whether no vector needs floats further apart than permute_pair reaches
  int32_t* base_ = nullptr;    // for the first element of each vector: the lowest index in a window's row that it needs
  int32_t* before_ = nullptr;  // for each element: LinearTap::before as an index in the row, less its vector's base
  float* weight_ = nullptr;    // for each element: LinearTap::weight
};

// By a triangle filter.
class TriangleColumns {
 public:
  // `first` has room for a row of the output, `weights` for two of the window: a pixel of the output has at most
  // 2 window / output + 2 taps, and no more than the window is wide, and at most 3 pixels are added to fill a group.
  void start(int32_t width, const Window& window, int32_t* first, float* weights) {
    width_ = width;
    first_ = first;
    weights_ = weights;
    taps_ = 0;
    for (int32_t x = 0; x < width; ++x) {
      const int32_t count = triangle_taps(x, width, window.width).count;
      taps_ = count > taps_ ? count : taps_;
    }
    for (int32_t x = 0; x < (width + kAtOnce - 1) / kAtOnce * kAtOnce; ++x) {
      const int32_t column = x < width ? x : width - 1;
      const TriangleTaps taps = triangle_taps(window.flip ? width - 1 - column : column, width, window.width);
      const int32_t last = window.width - taps_, begin = taps.first < last ? taps.first : last;
      first_[x] = 3 * begin;
      float* const group = weights_ + static_cast<int64_t>(x / kAtOnce) * kAtOnce * (taps_ + 1) + x % kAtOnce;
      for (int32_t i = 0; i < taps_; ++i) {
        const int32_t j = begin + i - taps.first;
        group[static_cast<int64_t>(kAtOnce) * i] = j >= 0 && j < taps.count ? triangle_weight(taps, j) : 0.0f;
      }
      group[static_cast<int64_t>(kAtOnce) * taps_] = taps.inverse_sum;
    }
  }

  // Reads one float beyond the end of `window_row`.
  void apply(const float* window_row, float* out) const {
    const int64_t end = 3 * static_cast<int64_t>(taps_);
    const float* weight = weights_;
    const int32_t* const last = first_ + width_;
    for (const int32_t* first = first_; first < last; first += kAtOnce, out += 3 * kAtOnce) {
      Pixel sum[kAtOnce];
      const float* pixel[kAtOnce];
#pragma GCC unroll 4
      for (int k = 0; k < kAtOnce; ++k) {
        sum[k] = Pixel::fill(0.0f);
        pixel[k] = window_row + first[k];
      }
      for (int64_t i = 0; i < end; i += 3, weight += kAtOnce) {
#pragma GCC unroll 4
        for (int k = 0; k < kAtOnce; ++k) {
          sum[k] = multiply_add(Pixel::fill(weight[k]), Pixel::load(pixel[k] + i), sum[k]);
        }
      }
      // The fourth float of a pixel is the first one of the next, which is stored after it.
#pragma GCC unroll 4
      for (int k = 0; k < kAtOnce; ++k) times(sum[k], Pixel::fill(weight[k])).store(out + 3 * k);
      weight += kAtOnce;
    }
  }

 private:
  static constexpr int kAtOnce = 4;  // pixels in a group, whose sums the CPU computes side by side

  int32_t width_ = 0;
  int32_t taps_ = 0;          // of each pixel: as many as the one with most has; the others have weights of zero
  int32_t* first_ = nullptr;  // for each pixel: the first of its taps, as an index in a row of the window
  float* weights_ = nullptr;  // for each group: the weights of its pixels' first taps, of the second ones ..., and
                              // their TriangleTaps::inverse_sum
};

}  // namespace xmixup::XMIXUP_LEVEL
