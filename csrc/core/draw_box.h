// CutMix's box (Yun et al. 2019, arXiv 1905.04899).
#pragma once

#include <cstdint>

#include "plan.h"
#include "rounding.h"

namespace xmixup {

struct Span {
  int64_t begin, extent;
};

// One axis of a box: `side_share` of all pixels about `middle`, a fraction of them, cut off at the edges.
XMIXUP_INLINE Span cut_span(float side_share, float middle, int32_t pixels) {
  const float all = static_cast<float>(pixels);
  const int64_t side = static_cast<int64_t>(nearest_whole(product(side_share, all)));
  const int64_t begin = static_cast<int64_t>(product(middle, all)) - side / 2, end = begin + side;
  const int64_t kept_begin = begin > 0 ? begin : 0, kept_end = end < pixels ? end : pixels;
  return {kept_begin, kept_end - kept_begin};
}

// A box whose sides are sqrt(1 - lam) of the output's. Returns the share of the output that it leaves visible.
XMIXUP_INLINE float cut_box(float lam, float middle_y, float middle_x, int32_t height, int32_t width, Rectangle* box) {
  const float side_share = square_root(difference(1.0f, lam));
  const Span rows = cut_span(side_share, middle_y, height), columns = cut_span(side_share, middle_x, width);
  *box = {static_cast<int32_t>(rows.begin), static_cast<int32_t>(columns.begin), static_cast<int32_t>(rows.extent),
          static_cast<int32_t>(columns.extent)};
  const int64_t covered = rows.extent * columns.extent, whole = static_cast<int64_t>(height) * width;
  return difference(1.0f, quotient(static_cast<float>(covered), static_cast<float>(whole)));
}

}  // namespace xmixup
