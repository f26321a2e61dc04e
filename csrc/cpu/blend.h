// Blends two rows into a row of the output. Compiled once per CPU level.
#pragma once

#include "rows.h"

namespace xmixup::XMIXUP_LEVEL {

// One element of the output. All code here computes it by these operations in this order. Without an auxiliary image
// (lam = 1) its weight is zero, and the first multiply-add would give the bias.
template <bool has_aux, typename V>
V blend(V target, V target_weight, V aux, V aux_weight, V bias) {
  if constexpr (has_aux) bias = multiply_add(aux, aux_weight, bias);
  return multiply_add(target, target_weight, bias);
}

// The weights of one sample as vectors: of channel m for planes; otherwise of R G B R G B ..., which three vectors hold
// a whole number of times.
struct WeightVecs {
  Vec target[3], aux[3], bias[3];

  WeightVecs() = default;
  // Vector by vector, so that copies stay in registers: the compiler's own copy of so large a struct is a loop in
  // memory.
  WeightVecs(const WeightVecs& other) {
#pragma GCC unroll 3
    for (int m = 0; m < 3; ++m) {
      target[m] = other.target[m];
      aux[m] = other.aux[m];
      bias[m] = other.bias[m];
    }
  }
};

struct Weights {
  ChannelWeights channel[3];
  WeightVecs vecs;

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
      vecs.target[m] = Vec::load(lanes[0]);
      vecs.aux[m] = Vec::load(lanes[1]);
      vecs.bias[m] = Vec::load(lanes[2]);
    }
  }
};

// Mixes pixels [begin, end) of a row, one after the other. `out` is the row's first element, in planes that of the
// first one; `plane` is the number of elements in a plane.
template <bool has_aux, bool planar, typename Row, typename Out>
void mix_elements(const Row& target_row, const Row& aux_row, const Weights& w, int32_t begin, int32_t end, Out* out,
                  int64_t plane) {
  const auto target = target_row.elements(), aux = aux_row.elements();
  for (int32_t x = begin; x < end; ++x) {
    for (int c = 0; c < 3; ++c) {
      const ChannelWeights& weight = w.channel[c];
      const float a = has_aux ? aux.get(x, c) : 0.0f;
      store_scalar(blend<has_aux>(target.get(x, c), weight.target, a, weight.aux, weight.bias),
                   planar ? out + c * plane + x : out + 3 * static_cast<int64_t>(x) + c);
    }
  }
}

#if defined(__AVX2__)

// Mixes kPixels pixels of a row, from column x on. `target` and `aux` are orders of rows.
template <bool has_aux, bool planar, bool stream, typename Order, typename Out>
inline void mix_pixels(const Order& target, const Order& aux, const WeightVecs& w, int32_t x, Out* out, int64_t plane) {
  const auto t = target.pixels(x);
  const auto a = (has_aux ? aux : target).pixels(x);
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

// Mixes pixels [begin, end) of a row. It is a function of its own in the binary, with copies of all that its loops
// read, so that they find everything in registers.
template <bool has_aux, bool planar, typename Row, typename Out>
__attribute__((noinline)) void mix_row(Row target_row, Row aux_row, const Weights& weights, int32_t begin, int32_t end,
                                       Out* out, int64_t plane, bool stream) {
  if (end - begin < kPixels) {
    mix_elements<has_aux, planar>(target_row, aux_row, weights, begin, end, out, plane);
    return;
  }
  const WeightVecs w = weights.vecs;
  const auto target = target_row.template order<planar>(), aux = aux_row.template order<planar>();
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

}  // namespace xmixup::XMIXUP_LEVEL
