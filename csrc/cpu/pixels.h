// kPixels RGB pixels at a time, as six float vectors in the order of an output: interleaved (R G B R G B ...) or planar
// (all R, all G, all B), in a row's order or mirrored. For levels with byte shuffles.
#pragma once

#include "simd.h"

#if defined(__AVX2__)

namespace xmixup::XMIXUP_LEVEL {

// Two vectors of each channel: converted to 16 bits, these two fill one vector.
constexpr int kPixels = 2 * Vec::kLanes;
constexpr int kPixelVecs = 6;

#if defined(__AVX512F__)

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

// kPixels pixels of bytes.
template <bool planar>
struct BytePixels {
  static constexpr int kLoads = kPixels / 16;
  __m128i parts[kLoads][3];

  Vec vec(int m) const { return Vec::from_bytes(planar ? parts[m % 2][m / 2] : parts[m / 3][m % 3]); }

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

// The bytes of a row, in order or mirrored.
template <bool planar>
struct ByteOrder {
  const uint8_t* row;
  int32_t width;
  bool flip;

  ByteOrder(const uint8_t* row, int32_t width, bool flip) : row(row), width(width), flip(flip) {}

  // kPixels pixels, from column x on.
  BytePixels<planar> pixels(int32_t x) const {
    if (!flip) return BytePixels<planar>::template load<false>(row + 3 * static_cast<int64_t>(x));
    return BytePixels<planar>::template load<true>(row + 3 * static_cast<int64_t>(width - x - kPixels));
  }
};

#else

// A vector's bytes come from loads of 16 bytes, as far from the first of the 48 bytes of 16 pixels as these tables say;
// in a mirrored row, as far from the last place for such a load. So both orders take the same instructions, which
// differ in their shuffles.
constexpr int kInterleavedOffset[kPixelVecs] = {0, 4, 8, 20, 28, 32};  // of a vector: both of its halves
constexpr int kPlanarOffset[4] = {0, 12, 24, 32};  // of four pixels: a half of all channels' vectors
constexpr int kLastOffset = 3 * kPixels - 16;

// The byte shuffles of each vector, which also widen bytes to 32 bits: of a row in order, and of a mirrored one.
template <bool planar>
struct ShuffleMasks {
  alignas(32) int8_t mask[2][kPixelVecs][32];

  constexpr ShuffleMasks() : mask{} {
    for (int i = 0; i < 2 * kPixelVecs * Vec::kLanes; ++i) {
      const int mirrored = i / (kPixelVecs * Vec::kLanes), m = i / Vec::kLanes % kPixelVecs, lane = i % Vec::kLanes;
      const int pixel = planar ? m % 2 * Vec::kLanes + lane : (m * Vec::kLanes + lane) / 3;
      const int channel = planar ? m / 2 : (m * Vec::kLanes + lane) % 3;
      const int offset = planar ? kPlanarOffset[pixel / 4] : kInterleavedOffset[m];
      const int from = 3 * (mirrored ? kPixels - 1 - pixel : pixel) + channel;
      int8_t* const bytes = mask[mirrored][m] + 4 * lane;
      bytes[0] = static_cast<int8_t>(from - (mirrored ? kLastOffset - offset : offset));
      bytes[1] = bytes[2] = bytes[3] = -1;  // zero
    }
  }
};

// kPixels pixels of bytes.
template <bool planar>
struct BytePixels {
  const uint8_t* first;  // place of the load with offset 0
  int64_t sign;          // -1 in a mirrored row, where larger offsets are at lower addresses
  const int8_t (*mask)[32];

  // Always inlined, for a constant m: GCC takes it for larger than it then is.
  __attribute__((always_inline)) Vec vec(int m) const {
    const __m256i bytes = planar ? four_and_four(m % 2) : _mm256_broadcastsi128_si256(load(interleaved(m)));
    const __m256i shuffle = _mm256_load_si256(reinterpret_cast<const __m256i*>(mask[m]));
    return {_mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, shuffle))};
  }

 private:
  static __m128i load(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }

  // first + sign * kInterleavedOffset[m], from few registers.
  __attribute__((always_inline)) const uint8_t* interleaved(int m) const {
    const int64_t step = 4 * sign;
    const uint8_t* const middle = first + 20 * sign;
    switch (m) {
      case 0: return first;
      case 1: return first + step;
      case 2: return first + 2 * step;
      case 3: return middle;
      case 4: return middle + 2 * step;
      default: return first + 8 * step;
    }
  }

  __attribute__((always_inline)) __m256i four_and_four(int half) const {
    const __m128i low = load(first + sign * kPlanarOffset[2 * half]),
                  high = load(first + sign * kPlanarOffset[2 * half + 1]);
    return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
  }
};

// The bytes of a row, in order or mirrored.
template <bool planar>
struct ByteOrder {
  const uint8_t* first;
  int64_t sign;
  const int8_t (*mask)[32];

  ByteOrder(const uint8_t* row, int32_t width, bool flip)
      : first(flip ? row + 3 * static_cast<int64_t>(width - kPixels) + kLastOffset : row),
        sign(flip ? -1 : 1),
        mask(kMasks.mask[flip]) {}

  // kPixels pixels, from column x on.
  BytePixels<planar> pixels(int32_t x) const { return {first + sign * (3 * static_cast<int64_t>(x)), sign, mask}; }

 private:
  static constexpr ShuffleMasks<planar> kMasks{};
};

#endif

// Pixels of interleaved floats. In planes, a vector may load up to two floats beyond the pixels.
template <bool planar>
struct FloatPixels {
  const float* first;

  Vec vec(int m) const {
    if constexpr (!planar) return Vec::load(first + m * Vec::kLanes);
    return Vec::load_every_third(first + 3 * Vec::kLanes * (m % 2) + m / 2);
  }
};

// The floats of a row.
template <bool planar>
struct FloatOrder {
  const float* first;

  // kPixels pixels, from column x on.
  FloatPixels<planar> pixels(int32_t x) const { return {first + 3 * static_cast<int64_t>(x)}; }
};

}  // namespace xmixup::XMIXUP_LEVEL

#endif
