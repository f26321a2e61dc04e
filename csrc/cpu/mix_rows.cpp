// Compiled once per CPU level (see simd.h for what that forbids).
//
// Where both windows of a sample have the output's size, rows are blended straight from the images' bytes. Otherwise
// both windows are first resampled, row by row, to floats.
#include "mix_rows.h"

#include "pixels.h"
#include "simd.h"

namespace xmixup::XMIXUP_LEVEL {
namespace {

// One element of the output. All code here computes it by these operations in this order. Without an auxiliary image
// (lam = 1) its weight is zero, and the first multiply-add would give the bias.
template <bool has_aux, typename V>
V blend(V target, V target_weight, V aux, V aux_weight, V bias) {
  if constexpr (has_aux) bias = multiply_add(aux, aux_weight, bias);
  return multiply_add(target, target_weight, bias);
}

// --- a row of an image: bytes of a window, or resampled floats ---

struct ByteRow {
  const uint8_t* first;  // of the window's row
  int32_t width;
  bool flip;

  float element(int32_t x, int32_t c) const {
    const int64_t column = flip ? width - 1 - x : x;
    return static_cast<float>(first[3 * column + c]);
  }

#if defined(__AVX2__)
  // kPixels pixels, from column x of the output on.
  template <bool planar>
  BytePixels<planar> pixels(int32_t x) const {
    if (!flip) return BytePixels<planar>::template load<false>(first + 3 * static_cast<int64_t>(x));
    return BytePixels<planar>::template load<true>(first + 3 * static_cast<int64_t>(width - x - kPixels));
  }
#endif
};

struct FloatRow {
  const float* first;

  float element(int32_t x, int32_t c) const { return first[3 * static_cast<int64_t>(x) + c]; }

#if defined(__AVX2__)
  template <bool planar>
  FloatPixels<planar> pixels(int32_t x) const {
    return {first + 3 * static_cast<int64_t>(x)};
  }
#endif
};

// --- blending ---

// The weights of one sample, per channel and as vectors: of channel m for planes; otherwise of R G B R G B ..., which
// three vectors hold a whole number of times.
struct Weights {
  ChannelWeights channel[3];
  Vec target[3], aux[3], bias[3];

  Weights(float lam, const MixArgs& args) {
    for (int c = 0; c < 3; ++c) channel[c] = channel_weights(lam, args.scale[c], args.bias[c]);
    for (int m = 0; m < 3; ++m) {
      float lanes[3][Vec::kLanes];
      for (int i = 0; i < Vec::kLanes; ++i) {
        const ChannelWeights& w = channel[args.channels_last ? (m * Vec::kLanes + i) % 3 : m];
        lanes[0][i] = w.target;
        lanes[1][i] = w.aux;
        lanes[2][i] = w.bias;
      }
      target[m] = Vec::load(lanes[0]);
      aux[m] = Vec::load(lanes[1]);
      bias[m] = Vec::load(lanes[2]);
    }
  }
};

// Mixes pixels [begin, end) of a row, one after the other. `out` is the row's first element, in planes that of the
// first one; `plane` is the number of elements in a plane.
template <bool has_aux, bool planar, typename Row, typename Out>
void mix_elements(const Row& target, const Row& aux, const Weights& w, int32_t begin, int32_t end, Out* out,
                  int64_t plane) {
  for (int32_t x = begin; x < end; ++x) {
    for (int c = 0; c < 3; ++c) {
      const ChannelWeights& weight = w.channel[c];
      const float a = has_aux ? aux.element(x, c) : 0.0f;
      store_scalar(blend<has_aux>(target.element(x, c), weight.target, a, weight.aux, weight.bias),
                   planar ? out + c * plane + x : out + 3 * static_cast<int64_t>(x) + c);
    }
  }
}

#if defined(__AVX2__)

// Mixes kPixels pixels of a row, from column x on.
template <bool has_aux, bool planar, bool stream, typename Row, typename Out>
inline void mix_pixels(const Row& target, const Row& aux, const Weights& w, int32_t x, Out* out, int64_t plane) {
  const auto t = target.template pixels<planar>(x);
  const auto a = (has_aux ? aux : target).template pixels<planar>(x);
  const auto mixed = [&](int m) {
    const int k = planar ? m / 2 : m % 3;
    return blend<has_aux>(t.vec(m), w.target[k], has_aux ? a.vec(m) : w.bias[k], w.aux[k], w.bias[k]);
  };
#pragma GCC unroll 3
  for (int pair = 0; pair < kPixelVecs / 2; ++pair) {
    Out* p = planar ? out + pair * plane + x : out + 3 * static_cast<int64_t>(x) + 2 * pair * Vec::kLanes;
    store_pair<stream>(mixed(2 * pair), mixed(2 * pair + 1), p);
  }
}

// How many pixels, from column x on, come before the first one at an address that can be streamed to; less than
// kPixels.
template <bool planar, typename Out>
int32_t unaligned_pixels(const Out* out, int32_t x) {
  constexpr int step = planar ? 1 : 3;
  auto address = reinterpret_cast<uintptr_t>(out + step * static_cast<int64_t>(x));
  int32_t pixels = 0;
  for (; address % sizeof(Vec) != 0; address += step * sizeof(Out)) ++pixels;
  return pixels;
}

template <bool has_aux, bool planar, typename Row, typename Out>
void mix_row(const Row& target, const Row& aux, const Weights& w, int32_t begin, int32_t end, Out* out, int64_t plane,
             bool stream) {
  if (end - begin < kPixels) {
    mix_elements<has_aux, planar>(target, aux, w, begin, end, out, plane);
    return;
  }
  // The ends of a row take kPixels pixels too, some of which are mixed a second time, with the same result.
  int32_t x = begin;
  if (stream && (!planar || plane * sizeof(Out) % sizeof(Vec) == 0)) {
    const int32_t head = unaligned_pixels<planar>(out, begin);
    if (head > 0) mix_pixels<has_aux, planar, false>(target, aux, w, begin, out, plane);
    for (x += head; x + kPixels <= end; x += kPixels) {
      mix_pixels<has_aux, planar, true>(target, aux, w, x, out, plane);
    }
  } else {
    for (; x + kPixels <= end; x += kPixels) mix_pixels<has_aux, planar, false>(target, aux, w, x, out, plane);
  }
  if (x < end) mix_pixels<has_aux, planar, false>(target, aux, w, end - kPixels, out, plane);
}

#else

template <bool has_aux, bool planar, typename Row, typename Out>
void mix_row(const Row& target, const Row& aux, const Weights& w, int32_t begin, int32_t end, Out* out, int64_t plane,
             bool /*stream*/) {
  mix_elements<has_aux, planar>(target, aux, w, begin, end, out, plane);
}

#endif

// A row is prefetched this many rows before it is read. The CPU does not foresee it: the rows of a window are too far
// apart, and mirrored ones are read backwards.
constexpr int32_t kRowsAhead = 2;

inline void prefetch(const uint8_t* row, int32_t bytes) {
  constexpr int kCacheLine = 64;
  for (int32_t i = 0; i < bytes; i += kCacheLine) __builtin_prefetch(row + i);
}

// --- resampling ---

// out = a + weight * (b - a), elementwise.
void interpolate(const uint8_t* a, const uint8_t* b, float weight, int count, float* out) {
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

// The rows of one sample's window as interleaved floats, resampled to the output's size and mirrored where `flip` is
// set.
class ResampledRows {
 public:
  // Prepares for sample b. `scratch` has room for half of mix_scratch_floats().
  void start(const MixArgs& args, const CropBatch& crops, int64_t b, float* scratch) {
    crops_ = &crops;
    b_ = b;
    out_height_ = args.height;
    height_ = at(crops.window, b).height;
    width_ = at(crops.window, b).width;
    count_ = 3 * args.width;
    const int64_t row = padded_row(args.width);
    base_ = reinterpret_cast<int32_t*>(scratch);
    before_ = base_ + row;
    weight_ = scratch + 2 * row;
    row_ = scratch + 3 * row;
    window_row_ = scratch + 4 * row;
    within_pair_ = true;
    for (int32_t i = 0; i < count_; i += Vec::kLanes) fill_tables(i, args.width, at(crops.flip, b) != 0);
  }

  // Row y. It is valid until the next call.
  FloatRow row(int32_t y) {
    const LinearTap tap = linear_tap(y, out_height_, height_);
    if (tap.after + kRowsAhead < height_) prefetch(window_row(*crops_, b_, tap.after + kRowsAhead), 3 * width_);
    interpolate(window_row(*crops_, b_, tap.before), window_row(*crops_, b_, tap.after), tap.weight, 3 * width_,
                window_row_);
    // Repeats the last pixel: for output columns beyond its centre, it is also the one after.
    for (int c = 0; c < 3; ++c) window_row_[3 * width_ + c] = window_row_[3 * (width_ - 1) + c];
    within_pair_ ? interpolate_columns<true>() : interpolate_columns<false>();
    return {row_};
  }

 private:
  // Fills the tables for elements i to i + kLanes - 1. Those beyond the row's end, whose results nobody uses, take the
  // columns of the last pixel.
  void fill_tables(int32_t i, int32_t width, bool flip) {
    int32_t last = 0;
    base_[i] = 3 * width_;
    for (int32_t j = i; j < i + Vec::kLanes; ++j) {
      const int32_t x = j < count_ ? j / 3 : width - 1;
      const LinearTap tap = linear_tap(flip ? width - 1 - x : x, width, width_);
      before_[j] = 3 * tap.before + j % 3;
      weight_[j] = tap.weight;
      base_[i] = before_[j] < base_[i] ? before_[j] : base_[i];
      last = before_[j] > last ? before_[j] : last;
    }
    for (int32_t j = i; j < i + Vec::kLanes; ++j) before_[j] -= base_[i];
    within_pair_ = within_pair_ && last + 3 - base_[i] < 2 * Vec::kLanes;
  }

  template <bool within_pair>
  void interpolate_columns() {
    for (int32_t i = 0; i < count_; i += Vec::kLanes) {
      const float* p = window_row_ + base_[i];
      const LaneIndices before = LaneIndices::load(before_ + i), after = before.plus(3);
      const Vec first = within_pair ? Vec::permute_pair(p, before) : Vec::gather(p, before);
      const Vec step = subtract(within_pair ? Vec::permute_pair(p, after) : Vec::gather(p, after), first);
      multiply_add(Vec::load(weight_ + i), step, first).store(row_ + i);
    }
  }

  const CropBatch* crops_ = nullptr;
  int64_t b_ = 0;
  int32_t out_height_ = 0, height_ = 0, width_ = 0, count_ = 0;
  bool within_pair_ = false;   // whether no vector needs floats further apart than permute_pair reaches
  int32_t* base_ = nullptr;    // for the first element of each vector: the lowest index in window_row_ that it needs
  int32_t* before_ = nullptr;  // for each element: LinearTap::before as an index in window_row_, less its vector's base
  float* weight_ = nullptr;    // for each element: LinearTap::weight
  float* row_ = nullptr;       // the row that is returned
  float* window_row_ = nullptr;  // a row of the window, interpolated vertically, and its last pixel once more
};

// --- samples ---

// Mixes rows [begin, end) of sample b. `target_row(y)` and `aux_row(y)` return row y of the two images.
template <bool planar, typename Out, typename TargetRow, typename AuxRow>
void mix_sample_rows(const MixArgs& args, int64_t b, int32_t begin, int32_t end, bool stream,
                     const TargetRow& target_row, const AuxRow& aux_row) {
  const Rectangle* box = box_of(args, b);
  const float lam = box == nullptr ? at(args.lam, b) : 1.0f;
  const Weights weights(lam, args);
  const int32_t width = args.width;
  const int64_t plane = static_cast<int64_t>(args.height) * width;
  Out* out = static_cast<Out*>(args.out) + 3 * plane * b + (planar ? 1 : 3) * static_cast<int64_t>(begin) * width;
  for (int32_t y = begin; y < end; ++y, out += (planar ? 1 : 3) * static_cast<int64_t>(width)) {
    const auto target = target_row(y);
    if (lam != 1.0f) {
      mix_row<true, planar>(target, aux_row(y), weights, 0, width, out, plane, stream);
    } else if (box == nullptr || y < box->top || y >= box->top + box->height || box->width == 0) {
      mix_row<false, planar>(target, target, weights, 0, width, out, plane, stream);
    } else {  // in the box the auxiliary image takes the place of the target, with a weight of 1
      const int32_t left = box->left, right = box->left + box->width;
      const auto aux = aux_row(y);
      mix_row<false, planar>(target, target, weights, 0, left, out, plane, stream);
      mix_row<false, planar>(aux, aux, weights, left, right, out, plane, stream);
      mix_row<false, planar>(target, target, weights, right, width, out, plane, stream);
    }
  }
}

template <bool planar, typename Out>
void mix_sample(const MixArgs& args, int64_t b, int32_t begin, int32_t end, bool stream, int64_t widest_window,
                float* scratch) {
  const Rectangle* box = box_of(args, b);
  const bool uses_aux = box == nullptr ? at(args.lam, b) != 1.0f : box->height > 0 && box->width > 0;
  if (is_crop(args.target, b, args) && (!uses_aux || is_crop(args.aux, b, args))) {
    const auto byte_row = [&](const CropBatch& crops) {
      return [&args, &crops, b, end](int32_t y) {
        if (y + kRowsAhead < end) prefetch(window_row(crops, b, y + kRowsAhead), 3 * args.width);
        return ByteRow{window_row(crops, b, y), args.width, at(crops.flip, b) != 0};
      };
    };
    mix_sample_rows<planar, Out>(args, b, begin, end, stream, byte_row(args.target), byte_row(args.aux));
    return;
  }
  ResampledRows target, aux;
  target.start(args, args.target, b, scratch);
  if (uses_aux) aux.start(args, args.aux, b, scratch + mix_scratch_floats(args, widest_window) / 2);
  mix_sample_rows<planar, Out>(
      args, b, begin, end, stream, [&](int32_t y) { return target.row(y); }, [&](int32_t y) { return aux.row(y); });
}

template <typename Out>
void mix_rows_as(const MixArgs& args, int64_t begin, int64_t end, bool stream, int64_t widest_window, float* scratch) {
  while (begin < end) {
    const int64_t b = begin / args.height;
    const int64_t sample_begin = b * args.height;
    const int64_t stop = sample_begin + args.height < end ? sample_begin + args.height : end;
    const auto first = static_cast<int32_t>(begin - sample_begin), last = static_cast<int32_t>(stop - sample_begin);
    if (args.channels_last) {
      mix_sample<false, Out>(args, b, first, last, stream, widest_window, scratch);
    } else {
      mix_sample<true, Out>(args, b, first, last, stream, widest_window, scratch);
    }
    begin = stop;
  }
}

}  // namespace

void mix_rows(const MixArgs& args, int64_t begin, int64_t end, bool stream, int64_t widest_window, float* scratch) {
  switch (args.out_type) {
    case OutType::float32: mix_rows_as<float>(args, begin, end, stream, widest_window, scratch); break;
    case OutType::bfloat16: mix_rows_as<BFloat16>(args, begin, end, stream, widest_window, scratch); break;
    case OutType::float16: mix_rows_as<Float16>(args, begin, end, stream, widest_window, scratch); break;
  }
  if (stream) finish_streaming();
}

}  // namespace xmixup::XMIXUP_LEVEL
