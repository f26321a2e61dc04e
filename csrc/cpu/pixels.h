// kPixels RGB pixels at a time, as six float vectors in the order of an output: interleaved (R G B R G B ...) or planar
// (all R, all G, all B), in a row's order or mirrored. For levels with byte shuffles.
#pragma once

#include "simd.h"

#if defined(__AVX2__)

namespace xmixup::XMIXUP_LEVEL {

// Two vectors of each channel: converted to 16 bits, these two fill one vector.
constexpr int kPixels = 2 * Vec::kLanes;
constexpr int kPixelVecs = 6;

// Masks of the byte shuffles that bring the 48 bytes of 16 pixels, in three blocks of 16 bytes, into the order of the
// output: mask[to][from] picks from block `from` of the source the bytes that go into block `to` of the result. A
// negative entry gives zero, so that the three parts of a block are combined by OR.
template <bool planar, bool mirrored>
struct ShuffleMasks {
  alignas(16) int8_t mask[3][3][16];

  constexpr ShuffleMasks() : mask{} {
    for (int to = 0; to < 48; ++to) {
      const int pixel = planar ? to % 16 : to / 3, channel = planar ? to / 16 : to % 3;
      const int from = 3 * (mirrored ? 15 - pixel : pixel) + channel;
      for (int part = 0; part < 3; ++part) {
        mask[to / 16][part][to % 16] = static_cast<int8_t>(from / 16 == part ? from % 16 : -1);
      }
    }
  }
};

template <bool planar, bool mirrored>
inline void load_16_pixels(const uint8_t* pixels, __m128i (&parts)[3]) {
  static constexpr ShuffleMasks<planar, mirrored> masks;
  const auto* blocks = reinterpret_cast<const __m128i*>(pixels);
  const __m128i source[3] = {_mm_loadu_si128(blocks), _mm_loadu_si128(blocks + 1), _mm_loadu_si128(blocks + 2)};
#pragma GCC unroll 3
  for (int to = 0; to < 3; ++to) {
    parts[to] = source[to];
    if constexpr (planar || mirrored) {
      parts[to] = _mm_setzero_si128();
#pragma GCC unroll 3
      for (int from = 0; from < 3; ++from) {
        const __m128i mask = _mm_load_si128(reinterpret_cast<const __m128i*>(masks.mask[to][from]));
        parts[to] = _mm_or_si128(parts[to], _mm_shuffle_epi8(source[from], mask));
      }
    }
  }
}

template <bool planar>
struct BytePixels {
  static constexpr int kLoads = kPixels / 16;
  __m128i parts[kLoads][3];

  Vec vec(int m) const {
    if constexpr (kLoads == 1) {
      return Vec::from_bytes(m % 2 == 0 ? parts[0][m / 2] : _mm_srli_si128(parts[0][m / 2], 8));
    } else {
      return Vec::from_bytes(planar ? parts[m % 2][m / 2] : parts[m / 3][m % 3]);
    }
  }

  template <bool mirrored>
  static BytePixels load(const uint8_t* pixels) {
    BytePixels result;
#pragma GCC unroll 2
    for (int i = 0; i < kLoads; ++i) {
      load_16_pixels<planar, mirrored>(pixels + 48 * (mirrored ? kLoads - 1 - i : i), result.parts[i]);
    }
    return result;
  }
};

// Pixels of interleaved floats. In planes, a vector may load up to two floats beyond the pixels.
template <bool planar>
struct FloatPixels {
  const float* first;

  Vec vec(int m) const {
    if constexpr (!planar) return Vec::load(first + m * Vec::kLanes);
    return Vec::load_every_third(first + 3 * Vec::kLanes * (m % 2) + m / 2);
  }
};

}  // namespace xmixup::XMIXUP_LEVEL

#endif
