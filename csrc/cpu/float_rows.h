// Rows of one side of a sample as interleaved floats: resampled, mirrored, with changed colours and erased. Compiled
// once per CPU level.
#pragma once

#include "augment.h"
#include "mix_rows.h"
#include "resample.h"

namespace xmixup::XMIXUP_LEVEL {

class FloatRows {
 public:
  // Prepares for sample b, of whose images this is the target (side 0) or the auxiliary one (1). `scratch` has room for
  // half of mix_scratch_floats(args, widest_window).
  void start(const MixArgs& args, const CropBatch& crops, int side, int64_t b, int64_t widest_window, float* scratch) {
    window_ = Window(crops, b);
    out_height_ = args.height;
    width_ = args.width;
    is_crop_ = is_crop(crops, b, args);
    filters_rows_ = args.antialias && window_.height > args.height;
    filters_columns_ = args.antialias && window_.width > args.width;
    const int64_t row = padded_row(args.width);
    float* const tables = scratch + row;
    row_ = scratch;
    window_row_ = scratch + 4 * row;
    // Vectors that reach beyond the row's end find numbers there.
    for (int64_t i = 3 * static_cast<int64_t>(width_); i < row; ++i) row_[i] = 0.0f;
    if (filters_columns_) {
      float* const weights = window_row_ + padded_row(widest_window);
      triangle_columns_.start(width_, window_, reinterpret_cast<int32_t*>(tables), weights);
    } else if (!is_crop_) {
      linear_columns_.start(width_, window_, row, tables);
    }
    colors_.start(color_of(args, b, side));
    erasing_.start(args, crops, side, b);
  }

  // Row y. It is valid until the next call.
  __attribute__((noinline)) FloatRow row(int32_t y) {
    if (is_crop_) {
      copy_row(y);
    } else {
      resample_row(y);
    }
    colors_.apply(row_, width_);
    erasing_.apply(row_, y);
    return {row_};
  }

 private:
  void copy_row(int32_t y) {
    if (y + kRowsAhead < window_.height) prefetch(window_.row(y + kRowsAhead), 3 * width_);
    const ByteRow bytes{window_.row(y), window_};
    int32_t x = 0;
#if defined(__AVX2__)
    if (width_ >= kPixels) {
      const auto order = bytes.order<false>();
      const auto copy = [&](int32_t first) {
        const auto pixels = order.pixels(first);
#pragma GCC unroll 6
        for (int m = 0; m < kPixelVecs; ++m) {
          pixels.vec(m).store(row_ + 3 * static_cast<int64_t>(first) + m * Vec::kLanes);
        }
      };
      for (; x + kPixels <= width_; x += kPixels) copy(x);
      copy(width_ - kPixels);
      return;
    }
#endif
    const auto elements = bytes.elements();
    for (; x < width_; ++x) {
      for (int c = 0; c < 3; ++c) row_[3 * static_cast<int64_t>(x) + c] = elements.get(x, c);
    }
  }

  void resample_row(int32_t y) {
    const int32_t width = window_.width;
    if (filters_rows_) {
      const TriangleTaps taps = triangle_taps(y, out_height_, window_.height);
      const int32_t end = taps.first + taps.count, ahead = end + window_.height / out_height_;
      for (int32_t next = end; next < ahead && next < window_.height; ++next) prefetch(window_.row(next), 3 * width);
      filter_rows(window_, taps, window_row_);
    } else {
      const LinearTap tap = linear_tap(y, out_height_, window_.height);
      const int32_t ahead = tap.after + kRowsAhead;
      if (ahead < window_.height) prefetch(window_.row(ahead), 3 * width);
      interpolate(window_.row(tap.before), window_.row(tap.after), tap.weight, 3 * width, window_row_);
    }
    // The last pixel once more, for LinearColumns.
    for (int c = 0; c < 3; ++c) window_row_[3 * width + c] = window_row_[3 * (width - 1) + c];
    if (filters_columns_) {
      triangle_columns_.apply(window_row_, row_);
    } else {
      linear_columns_.apply(window_row_, row_);
    }
  }

  Window window_;
  int32_t out_height_ = 0, width_ = 0;
  bool is_crop_ = false, filters_rows_ = false, filters_columns_ = false;
  float* row_ = nullptr;         // the row that is returned
  float* window_row_ = nullptr;  // a row of the window, resampled vertically, and its last pixel once more
  LinearColumns linear_columns_;
  TriangleColumns triangle_columns_;
  ColorMatrix colors_;
  Erasing erasing_;
};

}  // namespace xmixup::XMIXUP_LEVEL
