// Sixteen RGB pixels at a time, as float vectors in the order of an output: interleaved (R G B R G B ...) or planar
// (16 R, 16 G, 16 B), in a row's order or mirrored. For levels with byte shuffles.
#pragma once

#include "simd.h"

#if defined(__AVX2__)

namespace xmixup::XMIXUP_LEVEL {

constexpr int kPixels = 16;
constexpr int kPixelVecs = 3 * kPixels / Vec::kLanes;

// Which of 48 bytes goes to which place, as the masks of byte shuffles: 16 bytes of the result from each 16 of the
// source; a negative entry gives a zero.
template <bool planar, bool mirrored>
struct Shuffles {
  alignas(16) int8_t mask[3][3][16];

  constexpr Shuffles() : mask{} {
    for (int to = 0; to < 48; ++to) {
      const int pixel = planar ? to % 16 : to / 3, channel = planar ? to / 16 : to % 3;
      const int from = 3 * (mirrored ? kPixels - 1 - pixel : pixel) + channel;
      for (int part = 0; part < 3; ++part) {
        mask[to / 16][part][to % 16] = static_cast<int8_t>(from / 16 == part ? from % 16 : -1);
      }
    }
  }
};

struct BytePixels {
  __m128i part[3];

  // Element m * kLanes and those that follow.
  Vec vec(int m) const {
    if constexpr (Vec::kLanes == 16) return Vec::of_bytes(part[m]);
    return Vec::of_bytes(m % 2 == 0 ? part[m / 2] : _mm_srli_si128(part[m / 2], 8));
  }

  template <bool planar, bool mirrored>
  static BytePixels load(const uint8_t* pixels) {
    static constexpr Shuffles<planar, mirrored> shuffles;
    const auto* blocks = reinterpret_cast<const __m128i*>(pixels);
    const __m128i source[3] = {_mm_loadu_si128(blocks), _mm_loadu_si128(blocks + 1), _mm_loadu_si128(blocks + 2)};
    if constexpr (!planar && !mirrored) return {{source[0], source[1], source[2]}};
    BytePixels result;
#pragma GCC unroll 3
    for (int to = 0; to < 3; ++to) {
      result.part[to] = _mm_setzero_si128();
#pragma GCC unroll 3
      for (int from = 0; from < 3; ++from) {
        const __m128i mask = _mm_load_si128(reinterpret_cast<const __m128i*>(shuffles.mask[to][from]));
        result.part[to] = _mm_or_si128(result.part[to], _mm_shuffle_epi8(source[from], mask));
      }
    }
    return result;
  }
};

// Of interleaved floats. A planar vector may load up to two floats beyond the pixels.
template <bool planar>
struct FloatPixels {
  const float* first;

  Vec vec(int m) const {
    if constexpr (!planar) return Vec::load(first + m * Vec::kLanes);
    constexpr int vecs_per_plane = kPixels / Vec::kLanes;
    return Vec::load_every_third(first + 3 * Vec::kLanes * (m % vecs_per_plane) + m / vecs_per_plane);
  }
};

}  // namespace xmixup::XMIXUP_LEVEL

#endif
