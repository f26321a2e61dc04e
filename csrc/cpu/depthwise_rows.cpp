// Compiled once per CPU level (see simd.h for what that forbids).
//
// A row of the output's gradient is multiplied with the input's row that a row of the kernel meets. The sums of its
// taps stay in registers, and are then added to those of the rows before: so few numbers are added to one sum that
// rounding stays small.
#include "depthwise_rows.h"

namespace xmixup::XMIXUP_LEVEL {
namespace {

// The compiler's vectors: a channel is multiplied and added alike in each, so that all levels give the same bits.
template <int lanes>
struct Channels {
  typedef float Register __attribute__((vector_size(4 * lanes)));
  typedef float Memory __attribute__((vector_size(4 * lanes), aligned(4), may_alias));

  static const Memory& at(const float* p) { return *reinterpret_cast<const Memory*>(p); }
  static Memory& at(float* p) { return *reinterpret_cast<Memory*>(p); }
};

#if defined(__AVX512F__)
constexpr int kWidest = 16;
#elif defined(__AVX2__)
constexpr int kWidest = 8;
#else
constexpr int kWidest = 4;
#endif

constexpr int64_t kMostTaps = 5;  // whose sums, a gradient and a product fit 16 registers

// Output positions [begin, end) where taps [first, last] all meet input positions.
struct Range {
  int64_t begin, end;
};

inline Range meeting(const ConvolutionAxis& axis, int64_t first, int64_t last) {
  const int64_t before = axis.padding - first * axis.dilation;                  // of input position 0, at output 0
  const int64_t behind = axis.input - 1 + axis.padding - last * axis.dilation;  // up to the last input position
  const int64_t begin = before <= 0 ? 0 : (before + axis.stride - 1) / axis.stride;
  int64_t end = behind < 0 ? 0 : behind / axis.stride + 1;
  if (end > axis.output) end = axis.output;
  return {begin < end ? begin : end, end};
}

// Where a row of the kernel meets a row of the input, from the same channel on.
struct MeetingRows {
  const float* input;
  const float* grad_output;
  int64_t pixel;  // floats from one pixel to the next
};

// Adds the products of taps [first, first + taps) of a row to their sums.
template <int lanes, int taps>
void add_taps(const ConvolutionAxis& axis, const MeetingRows& rows, int64_t first, float* sums) {
  using Vec = Channels<lanes>;
  typename Vec::Register row_sums[taps] = {};
  // Inlined in both places: a function that is called would have the sums in memory.
  const auto add_where_they_meet = [&](int64_t begin, int64_t end) __attribute__((always_inline)) {
    for (int64_t o = begin; o < end; ++o) {
      const typename Vec::Register grad = Vec::at(rows.grad_output + o * rows.pixel);
      for (int j = 0; j < taps; ++j) {
        const int64_t i = o * axis.stride + (first + j) * axis.dilation - axis.padding;
        if (i >= 0 && i < axis.input) row_sums[j] += grad * Vec::at(rows.input + i * rows.pixel);
      }
    }
  };
  const Range inside = meeting(axis, first, first + taps - 1);
  add_where_they_meet(0, inside.begin);
  const int64_t first_input = inside.begin * axis.stride + first * axis.dilation - axis.padding;
  const int64_t next = axis.stride * rows.pixel, next_tap = axis.dilation * rows.pixel;
  for (int64_t o = inside.begin, at = first_input * rows.pixel; o < inside.end; ++o, at += next) {
    const typename Vec::Register grad = Vec::at(rows.grad_output + o * rows.pixel);
    for (int j = 0; j < taps; ++j) row_sums[j] += grad * Vec::at(rows.input + at + j * next_tap);
  }
  add_where_they_meet(inside.end, axis.output);
  for (int j = 0; j < taps; ++j) Vec::at(sums + (first + j) * kDepthwiseLanes) += row_sums[j];
}

template <int lanes>
void add_row(const ConvolutionAxis& axis, const MeetingRows& rows, float* sums) {
  for (int64_t first = 0; first < axis.taps; first += kMostTaps) {
    switch (axis.taps - first) {
      case 1: add_taps<lanes, 1>(axis, rows, first, sums); break;
      case 2: add_taps<lanes, 2>(axis, rows, first, sums); break;
      case 3: add_taps<lanes, 3>(axis, rows, first, sums); break;
      case 4: add_taps<lanes, 4>(axis, rows, first, sums); break;
      default: add_taps<lanes, kMostTaps>(axis, rows, first, sums);
    }
  }
}

// The same for `count` channels, in vectors as wide as there are channels for.
template <int lanes>
void add_channels(const ConvolutionAxis& axis, MeetingRows rows, int64_t count, float* sums) {
  for (; count >= lanes; count -= lanes) {
    add_row<lanes>(axis, rows, sums);
    rows.input += lanes;
    rows.grad_output += lanes;
    sums += lanes;
  }
  if constexpr (lanes > 1) {
    if (count > 0) add_channels<lanes == 4 ? 1 : lanes / 2>(axis, rows, count, sums);
  }
}

}  // namespace

void depthwise_rows(const DepthwiseArgs& args, int64_t image, int64_t image_end, int64_t block, int64_t block_end,
                    float* sums) {
  const ConvolutionAxis &y = args.y, &x = args.x;
  const int64_t row_sums = x.taps * kDepthwiseLanes, block_sums = y.taps * row_sums;
  for (int64_t i = 0; i < (block_end - block) * block_sums; ++i) sums[i] = 0;
  for (; image < image_end; ++image) {
    for (int64_t o = 0; o < y.output; ++o) {
      const float* grad_output = args.grad_output + (image * y.output + o) * x.output * args.channels;
      // The blocks of a row in turn: their channels lie side by side.
      for (int64_t b = block; b < block_end; ++b) {
        const int64_t channel = b * kDepthwiseLanes, rest = args.channels - channel;
        for (int64_t t = 0; t < y.taps; ++t) {
          const int64_t i = o * y.stride + t * y.dilation - y.padding;
          if (i < 0 || i >= y.input) continue;
          const float* input = args.input + (image * y.input + i) * x.input * args.channels;
          const MeetingRows rows{input + channel, grad_output + channel, args.channels};
          add_channels<kWidest>(x, rows, rest < kDepthwiseLanes ? rest : kDepthwiseLanes,
                                sums + (b - block) * block_sums + t * row_sums);
        }
      }
    }
  }
}

}  // namespace xmixup::XMIXUP_LEVEL
