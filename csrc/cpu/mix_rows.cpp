// Compiled once per CPU level (see simd.h for what that forbids).
#include "mix_rows.h"

#include "simd.h"

namespace xmixup::XMIXUP_LEVEL {
namespace {

constexpr int kVectorBytes = Vec::kLanes * static_cast<int>(sizeof(float));

// Pixels worked on at a time: their bytes stay in the first-level cache, and their floats keep a row's alignment.
constexpr int kChunk = 512;

// 16 bytes more than the pixels, for whole vector stores.
using Scratch = uint8_t[3 * kChunk + 16];

// The weights of R G B R G B ..., long enough to load a vector from any of the three phases.
struct Pattern {
  static constexpr int kLength = Vec::kLanes + 2;
  float target[kLength];
  float aux[kLength];
  float bias[kLength];

  Pattern(float lam, const MixArgs& args) {
    for (int i = 0; i < kLength; ++i) {
      const ChannelWeights w = channel_weights(lam, args.scale[i % 3], args.bias[i % 3]);
      target[i] = w.target;
      aux[i] = w.aux;
      bias[i] = w.bias;
    }
  }
};

// One element: the definition that every path here follows, in the same order. Without auxiliary image (lam = 1) its
// weight is zero and the inner sum is the bias.
template <bool has_aux, typename V>
V blend(V target, V target_weight, V aux, V aux_weight, V bias) {
  if constexpr (has_aux) bias = multiply_add(aux, aux_weight, bias);
  return multiply_add(target, target_weight, bias);
}

template <bool has_aux>
void blend_elements(const uint8_t* target, const uint8_t* aux, const Pattern& w, int begin, int end, float* out) {
  for (int i = begin; i < end; ++i) {
    const int c = i % 3;
    const float a = has_aux ? static_cast<float>(aux[i]) : 0.0f;
    out[i] = blend<has_aux>(static_cast<float>(target[i]), w.target[c], a, w.aux[c], w.bias[c]);
  }
}

template <bool has_aux, bool stream>
int blend_vectors(const uint8_t* target, const uint8_t* aux, const Pattern& w, int begin, int end, float* out) {
  constexpr int n = Vec::kLanes;
  Vec wt[3], wa[3], bias[3];
  for (int k = 0; k < 3; ++k) {
    const int phase = (begin + k * n) % 3;
    wt[k] = Vec::load(w.target + phase);
    wa[k] = Vec::load(w.aux + phase);
    bias[k] = Vec::load(w.bias + phase);
  }
  int i = begin;
  for (; i + 3 * n <= end; i += 3 * n) {
    for (int k = 0; k < 3; ++k) {
      const int at = i + k * n;
      const Vec a = has_aux ? Vec::load_bytes(aux + at) : Vec::fill(0);
      const Vec mixed = blend<has_aux>(Vec::load_bytes(target + at), wt[k], a, wa[k], bias[k]);
      if constexpr (stream) {
        mixed.stream(out + at);
      } else {
        mixed.store(out + at);
      }
    }
  }
  return i;
}

// count elements R G B R G B ... of one row into channels_last floats.
template <bool has_aux>
void blend_interleaved(const uint8_t* target, const uint8_t* aux, const Pattern& w, int count, float* out,
                       bool stream) {
  int head = 0;
  if (stream) {  // streamed stores must be aligned
    const int past = static_cast<int>(reinterpret_cast<uintptr_t>(out) % kVectorBytes / sizeof(float));
    head = past == 0 ? 0 : Vec::kLanes - past;
    if (head > count) head = count;
    blend_elements<has_aux>(target, aux, w, 0, head, out);
  }
  const int done = stream ? blend_vectors<has_aux, true>(target, aux, w, head, count, out)
                          : blend_vectors<has_aux, false>(target, aux, w, head, count, out);
  blend_elements<has_aux>(target, aux, w, done, count, out);
}

#if defined(__SSSE3__)

// Bytes of channel c out of 16 interleaved pixels.
inline __m128i extract_channel(const uint8_t* pixels, int c) {
  const auto* blocks = reinterpret_cast<const __m128i*>(pixels);
  __m128i plane = _mm_setzero_si128();
  for (int block = 0; block < 3; ++block) {
    alignas(16) int8_t from[16];
    for (int i = 0; i < 16; ++i) {
      const int at = 3 * i + c - 16 * block;
      from[i] = at >= 0 && at < 16 ? static_cast<int8_t>(at) : int8_t{-1};  // -1 gives a zero byte
    }
    const __m128i mask = _mm_load_si128(reinterpret_cast<const __m128i*>(from));
    plane = _mm_or_si128(plane, _mm_shuffle_epi8(_mm_loadu_si128(blocks + block), mask));
  }
  return plane;
}

template <bool has_aux, bool stream>
int blend_planar_vectors(const uint8_t* target, const uint8_t* aux, const Pattern& w, int count, float* out,
                         int64_t plane) {
  int x = 0;
  for (; x + 16 <= count; x += 16) {
#pragma GCC unroll 3
    for (int c = 0; c < 3; ++c) {
      alignas(16) uint8_t t[16], a[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(t), extract_channel(target + 3 * x, c));
      if (has_aux) _mm_store_si128(reinterpret_cast<__m128i*>(a), extract_channel(aux + 3 * x, c));
      for (int i = 0; i < 16; i += Vec::kLanes) {
        const Vec auxiliary = has_aux ? Vec::load_bytes(a + i) : Vec::fill(0);
        const Vec mixed = blend<has_aux>(Vec::load_bytes(t + i), Vec::fill(w.target[c]), auxiliary, Vec::fill(w.aux[c]),
                                         Vec::fill(w.bias[c]));
        if constexpr (stream) {
          mixed.stream(out + c * plane + x + i);
        } else {
          mixed.store(out + c * plane + x + i);
        }
      }
    }
  }
  return x;
}

// dst = the pixels of src in reverse order. Five pixels a time; dst has 16 bytes of room beyond them.
inline void reverse_pixels(const uint8_t* src, int pixels, uint8_t* dst) {
  // Loads begin one byte before the five pixels, so that none ends behind the last pixel of src.
  const __m128i order = _mm_setr_epi8(13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, -1);
  int x = 0;
  for (; x + 6 <= pixels; x += 5) {
    const auto* from = reinterpret_cast<const __m128i*>(src + 3 * (pixels - x - 5) - 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(dst + 3 * x), _mm_shuffle_epi8(_mm_loadu_si128(from), order));
  }
  for (; x < pixels; ++x) {
    for (int c = 0; c < 3; ++c) dst[3 * x + c] = src[3 * (pixels - 1 - x) + c];
  }
}

#else

template <bool has_aux, bool stream>
int blend_planar_vectors(const uint8_t*, const uint8_t*, const Pattern&, int, float*, int64_t) {
  return 0;
}

inline void reverse_pixels(const uint8_t* src, int pixels, uint8_t* dst) {
  for (int x = 0; x < pixels; ++x) {
    for (int c = 0; c < 3; ++c) dst[3 * x + c] = src[3 * (pixels - 1 - x) + c];
  }
}

#endif

// count pixels of one row into three planes that are `plane` floats apart.
template <bool has_aux>
void blend_planar(const uint8_t* target, const uint8_t* aux, const Pattern& w, int count, float* out, int64_t plane,
                  bool stream) {
  const bool aligned = reinterpret_cast<uintptr_t>(out) % kVectorBytes == 0 && plane % Vec::kLanes == 0;
  int x = stream && aligned ? blend_planar_vectors<has_aux, true>(target, aux, w, count, out, plane)
                            : blend_planar_vectors<has_aux, false>(target, aux, w, count, out, plane);
  for (; x < count; ++x) {
    for (int c = 0; c < 3; ++c) {
      const float a = has_aux ? static_cast<float>(aux[3 * x + c]) : 0.0f;
      out[c * plane + x] = blend<has_aux>(static_cast<float>(target[3 * x + c]), w.target[c], a, w.aux[c], w.bias[c]);
    }
  }
}

// Pixels [x, x + count) of a window's row as the network shall see them: in place, or mirrored into scratch.
inline const uint8_t* take(const uint8_t* row, bool flip, int32_t width, int32_t x, int count, Scratch& scratch) {
  if (!flip) return row + 3 * static_cast<int64_t>(x);
  reverse_pixels(row + 3 * static_cast<int64_t>(width - x - count), count, scratch);
  return scratch;
}

template <bool has_aux>
void mix_row(const MixArgs& args, const Pattern& weights, int64_t b, int32_t y, bool stream) {
  Scratch target_scratch, aux_scratch;
  const int64_t width = args.width, plane = args.height * width;
  const uint8_t* target_row = window_row(args.target, b, y);
  const uint8_t* aux_row = has_aux ? window_row(args.aux, b, y) : nullptr;
  float* image = args.out + b * 3 * plane;
  for (int32_t x = 0; x < args.width; x += kChunk) {
    const int count = args.width - x < kChunk ? args.width - x : kChunk;
    const uint8_t* target = take(target_row, args.target.flip[b], args.width, x, count, target_scratch);
    const uint8_t* aux = has_aux ? take(aux_row, args.aux.flip[b], args.width, x, count, aux_scratch) : nullptr;
    if (args.channels_last) {
      blend_interleaved<has_aux>(target, aux, weights, 3 * count, image + 3 * (y * width + x), stream);
    } else {
      blend_planar<has_aux>(target, aux, weights, count, image + y * width + x, plane, stream);
    }
  }
}

}  // namespace

void mix_rows(const MixArgs& args, int64_t begin, int64_t end, bool stream) {
  while (begin < end) {
    const int64_t b = begin / args.height;
    const int64_t sample_end = (b + 1) * args.height < end ? (b + 1) * args.height : end;
    const Pattern weights(args.lam[b], args);
    for (; begin < sample_end; ++begin) {
      const auto y = static_cast<int32_t>(begin - b * args.height);
      if (args.lam[b] == 1.0f) {
        mix_row<false>(args, weights, b, y, stream);
      } else {
        mix_row<true>(args, weights, b, y, stream);
      }
    }
  }
  if (stream) finish_streaming();
}

}  // namespace xmixup::XMIXUP_LEVEL
