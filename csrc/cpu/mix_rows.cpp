// Compiled once per CPU level (see simd.h for what that forbids).
//
// Where neither window is resampled, rows are blended straight from the images' bytes. Otherwise both sides of the
// sample are first made rows of floats, in the output's order.
#include "mix_rows.h"

#include "simd.h"

namespace xmixup::XMIXUP_LEVEL {
namespace {

// Pixels of a crop worked on at a time: their bytes stay in the first-level cache, and a row's alignment is kept.
constexpr int kChunk = 512;

// 16 bytes more than the pixels, for whole vector stores.
using FlipScratch = uint8_t[3 * kChunk + 16];

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

template <bool stream, typename Out>
void write(Vec value, Out* p) {
  if constexpr (stream) {
    value.stream(p);
  } else {
    value.store(p);
  }
}

// Source elements are bytes or floats; `aux` is null without auxiliary image.
template <bool has_aux, typename Source, typename Out>
void blend_elements(const Source* target, const Source* aux, const Pattern& w, int begin, int end, Out* out) {
  for (int i = begin; i < end; ++i) {
    const int c = i % 3;
    const float a = has_aux ? static_cast<float>(aux[i]) : 0.0f;
    put(blend<has_aux>(static_cast<float>(target[i]), w.target[c], a, w.aux[c], w.bias[c]), out + i);
  }
}

template <bool has_aux, bool stream, typename Source, typename Out>
int blend_vectors(const Source* target, const Source* aux, const Pattern& w, int begin, int end, Out* out) {
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
      const Vec a = has_aux ? Vec::load(aux + at) : Vec::fill(0);
      write<stream>(blend<has_aux>(Vec::load(target + at), wt[k], a, wa[k], bias[k]), out + at);
    }
  }
  return i;
}

// How many elements come before the first place where a vector of them may be streamed to.
template <typename Out>
int unaligned(const Out* out) {
  constexpr int bytes = Vec::kLanes * static_cast<int>(sizeof(Out));
  const int past = static_cast<int>(reinterpret_cast<uintptr_t>(out) % bytes / sizeof(Out));
  return past == 0 ? 0 : Vec::kLanes - past;
}

// count elements R G B R G B ... of one row.
template <bool has_aux, typename Source, typename Out>
void blend_interleaved(const Source* target, const Source* aux, const Pattern& w, int count, Out* out, bool stream) {
  int head = stream ? unaligned(out) : 0;
  if (head > count) head = count;
  blend_elements<has_aux>(target, aux, w, 0, head, out);
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

template <bool has_aux, bool stream, typename Out>
int blend_planar_vectors(const uint8_t* target, const uint8_t* aux, const Pattern& w, int count, Out* out,
                         int64_t plane) {
  int x = 0;
  for (; x + 16 <= count; x += 16) {
#pragma GCC unroll 3
    for (int c = 0; c < 3; ++c) {
      alignas(16) uint8_t t[16], a[16];
      _mm_store_si128(reinterpret_cast<__m128i*>(t), extract_channel(target + 3 * x, c));
      if (has_aux) _mm_store_si128(reinterpret_cast<__m128i*>(a), extract_channel(aux + 3 * x, c));
      for (int i = 0; i < 16; i += Vec::kLanes) {
        const Vec auxiliary = has_aux ? Vec::load(a + i) : Vec::fill(0);
        write<stream>(blend<has_aux>(Vec::load(t + i), Vec::fill(w.target[c]), auxiliary, Vec::fill(w.aux[c]),
                                     Vec::fill(w.bias[c])),
                      out + c * plane + x + i);
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

template <bool has_aux, bool stream, typename Out>
int blend_planar_vectors(const uint8_t*, const uint8_t*, const Pattern&, int, Out*, int64_t) {
  return 0;
}

inline void reverse_pixels(const uint8_t* src, int pixels, uint8_t* dst) {
  for (int x = 0; x < pixels; ++x) {
    for (int c = 0; c < 3; ++c) dst[3 * x + c] = src[3 * (pixels - 1 - x) + c];
  }
}

#endif

// count pixels of a crop's row into three planes that are `plane` elements apart.
template <bool has_aux, typename Out>
void blend_planar(const uint8_t* target, const uint8_t* aux, const Pattern& w, int count, Out* out, int64_t plane,
                  bool stream) {
  const bool aligned = unaligned(out) == 0 && plane % Vec::kLanes == 0;
  int x = stream && aligned ? blend_planar_vectors<has_aux, true>(target, aux, w, count, out, plane)
                            : blend_planar_vectors<has_aux, false>(target, aux, w, count, out, plane);
  for (; x < count; ++x) {
    for (int c = 0; c < 3; ++c) {
      const float a = has_aux ? static_cast<float>(aux[3 * x + c]) : 0.0f;
      put(blend<has_aux>(static_cast<float>(target[3 * x + c]), w.target[c], a, w.aux[c], w.bias[c]),
          out + c * plane + x);
    }
  }
}

// count floats of one channel.
template <bool has_aux, typename Out>
void blend_channel(const float* target, const float* aux, const Pattern& w, int c, int count, Out* out) {
  int i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) {
    const Vec a = has_aux ? Vec::load(aux + i) : Vec::fill(0);
    blend<has_aux>(Vec::load(target + i), Vec::fill(w.target[c]), a, Vec::fill(w.aux[c]), Vec::fill(w.bias[c]))
        .store(out + i);
  }
  for (; i < count; ++i) {
    const float a = has_aux ? aux[i] : 0.0f;
    put(blend<has_aux>(target[i], w.target[c], a, w.aux[c], w.bias[c]), out + i);
  }
}

// a + weight * (b - a), elementwise.
template <typename Source>
void interpolate(const Source* a, const Source* b, float weight, int count, float* out) {
  int i = 0;
  for (; i + Vec::kLanes <= count; i += Vec::kLanes) {
    const Vec first = Vec::load(a + i);
    multiply_add(Vec::fill(weight), subtract(Vec::load(b + i), first), first).store(out + i);
  }
  for (; i < count; ++i) {
    const float first = static_cast<float>(a[i]);
    out[i] = multiply_add(weight, static_cast<float>(b[i]) - first, first);
  }
}

// The rows of one side of one sample as floats in the output's order: resampled, mirrored where it is to be.
class FloatRows {
 public:
  void open(const MixArgs& args, const Side& side, int64_t b, int64_t widest_window, float* scratch) {
    side_ = &side;
    b_ = b;
    out_height_ = args.height;
    height_ = side.window[4 * b + 2];
    width_ = side.window[4 * b + 3];
    count_ = 3 * args.width;
    before_ = reinterpret_cast<int32_t*>(scratch);
    after_ = before_ + count_;
    weight_ = scratch + 2 * count_;
    window_row_ = scratch + 3 * count_;
    row_ = window_row_ + 3 * widest_window;
    for (int32_t x = 0; x < args.width; ++x) {
      const Between place = between(side.flip[b] ? args.width - 1 - x : x, args.width, width_);
      for (int32_t c = 0; c < 3; ++c) {
        const int32_t i = args.channels_last ? 3 * x + c : c * args.width + x;
        before_[i] = 3 * place.before + c;
        after_[i] = 3 * place.after + c;
        weight_[i] = place.weight;
      }
    }
  }

  // Row y of the output; it lasts until the next call.
  const float* row(int32_t y) {
    const Between place = between(y, out_height_, height_);
    interpolate(window_row(*side_, b_, place.before), window_row(*side_, b_, place.after), place.weight, 3 * width_,
                window_row_);
    int i = 0;
    for (; i + Vec::kLanes <= count_; i += Vec::kLanes) {
      const Vec first = Vec::gather(window_row_, before_ + i);
      const Vec step = subtract(Vec::gather(window_row_, after_ + i), first);
      multiply_add(Vec::load(weight_ + i), step, first).store(row_ + i);
    }
    for (; i < count_; ++i) {
      const float first = window_row_[before_[i]];
      row_[i] = multiply_add(weight_[i], window_row_[after_[i]] - first, first);
    }
    return row_;
  }

 private:
  const Side* side_ = nullptr;
  int64_t b_ = 0;
  int32_t out_height_ = 0, height_ = 0, width_ = 0, count_ = 0;
  int32_t* before_ = nullptr;
  int32_t* after_ = nullptr;
  float* weight_ = nullptr;
  float* window_row_ = nullptr;
  float* row_ = nullptr;
};

// Pixels [x, x + count) of a crop's row as the network shall see them: in place, or mirrored into scratch.
inline const uint8_t* take(const uint8_t* row, bool flip, int32_t width, int32_t x, int count, FlipScratch& scratch) {
  if (!flip) return row + 3 * static_cast<int64_t>(x);
  reverse_pixels(row + 3 * static_cast<int64_t>(width - x - count), count, scratch);
  return scratch;
}

// Pixels [begin, end) of row y of sample b, both sides crops.
template <bool has_aux, typename Out>
void mix_crop_row(const MixArgs& args, const Side& target_side, const Side& aux_side, const Pattern& weights, int64_t b,
                  int32_t y, int32_t begin, int32_t end, bool stream) {
  FlipScratch target_scratch, aux_scratch;
  const int64_t width = args.width, plane = args.height * width;
  const uint8_t* target_row = window_row(target_side, b, y);
  const uint8_t* aux_row = has_aux ? window_row(aux_side, b, y) : nullptr;
  Out* image = static_cast<Out*>(args.out) + b * 3 * plane;
  for (int32_t x = begin; x < end; x += kChunk) {
    const int count = end - x < kChunk ? end - x : kChunk;
    const uint8_t* target = take(target_row, target_side.flip[b], args.width, x, count, target_scratch);
    const uint8_t* aux = has_aux ? take(aux_row, aux_side.flip[b], args.width, x, count, aux_scratch) : nullptr;
    if (args.channels_last) {
      blend_interleaved<has_aux>(target, aux, weights, 3 * count, image + 3 * (y * width + x), stream);
    } else {
      blend_planar<has_aux>(target, aux, weights, count, image + y * width + x, plane, stream);
    }
  }
}

// Pixels [begin, end) of row y of sample b, from rows of floats; `aux` is null without auxiliary image.
template <bool has_aux, typename Out>
void mix_float_row(const MixArgs& args, const float* target, const float* aux, const Pattern& weights, int64_t b,
                   int32_t y, int32_t begin, int32_t end, bool stream) {
  const int64_t width = args.width, plane = args.height * width;
  Out* image = static_cast<Out*>(args.out) + b * 3 * plane;
  if (args.channels_last) {
    const int64_t at = 3 * static_cast<int64_t>(begin);
    blend_interleaved<has_aux>(target + at, has_aux ? aux + at : nullptr, weights, 3 * (end - begin),
                               image + 3 * y * width + at, stream);
    return;
  }
  for (int c = 0; c < 3; ++c) {
    const int64_t at = c * width + begin;
    blend_channel<has_aux>(target + at, has_aux ? aux + at : nullptr, weights, c, end - begin,
                           image + c * plane + y * width + begin);
  }
}

// Rows [begin, end) of sample b.
template <typename Out>
void mix_sample(const MixArgs& args, int64_t b, int32_t begin, int32_t end, bool stream, int64_t widest_window,
                float* scratch) {
  const int32_t* box = args.box == nullptr ? nullptr : args.box + 4 * b;
  const float lam = box == nullptr ? args.lam[b] : 1.0f;
  const bool has_aux = lam != 1.0f;
  const Pattern weights(lam, args);
  const int32_t width = args.width;

  // Inside its box, a row shows the auxiliary image as it would show the target outside.
  const auto box_columns = [&](int32_t y, int32_t& left, int32_t& right) {
    const bool inside = box != nullptr && y >= box[0] && y < box[0] + box[2];
    left = inside ? box[1] : width;
    right = inside ? box[1] + box[3] : width;
  };

  const bool uses_aux = has_aux || (box != nullptr && box[2] > 0 && box[3] > 0);
  if (is_crop(args.target, b, args) && (!uses_aux || is_crop(args.aux, b, args))) {
    for (int32_t y = begin; y < end; ++y) {
      if (has_aux) {
        mix_crop_row<true, Out>(args, args.target, args.aux, weights, b, y, 0, width, stream);
        continue;
      }
      int32_t left, right;
      box_columns(y, left, right);
      mix_crop_row<false, Out>(args, args.target, args.target, weights, b, y, 0, left, stream);
      mix_crop_row<false, Out>(args, args.aux, args.aux, weights, b, y, left, right, stream);
      mix_crop_row<false, Out>(args, args.target, args.target, weights, b, y, right, width, stream);
    }
    return;
  }
  FloatRows target, aux;
  target.open(args, args.target, b, widest_window, scratch);
  if (uses_aux) aux.open(args, args.aux, b, widest_window, scratch + mix_scratch_floats(args, widest_window) / 2);
  for (int32_t y = begin; y < end; ++y) {
    const float* target_row = target.row(y);
    if (has_aux) {
      mix_float_row<true, Out>(args, target_row, aux.row(y), weights, b, y, 0, width, stream);
      continue;
    }
    int32_t left, right;
    box_columns(y, left, right);
    mix_float_row<false, Out>(args, target_row, nullptr, weights, b, y, 0, left, stream);
    if (left < right) mix_float_row<false, Out>(args, aux.row(y), nullptr, weights, b, y, left, right, stream);
    mix_float_row<false, Out>(args, target_row, nullptr, weights, b, y, right, width, stream);
  }
}

}  // namespace

void mix_rows(const MixArgs& args, int64_t begin, int64_t end, bool stream, int64_t widest_window, float* scratch) {
  while (begin < end) {
    const int64_t b = begin / args.height;
    const int64_t sample_begin = b * args.height;
    const int64_t stop = sample_begin + args.height < end ? sample_begin + args.height : end;
    const auto first = static_cast<int32_t>(begin - sample_begin), last = static_cast<int32_t>(stop - sample_begin);
    switch (args.out_type) {
      case OutType::float32: mix_sample<float>(args, b, first, last, stream, widest_window, scratch); break;
      case OutType::bfloat16: mix_sample<BFloat16>(args, b, first, last, stream, widest_window, scratch); break;
      case OutType::float16: mix_sample<Float16>(args, b, first, last, stream, widest_window, scratch); break;
    }
    begin = stop;
  }
  if (stream) finish_streaming();
}

}  // namespace xmixup::XMIXUP_LEVEL
