// The arguments of one call of `draw`, and the code that draws for one sample. It needs no torch: the CPU kernel, the
// CUDA kernel and its emulation on the CPU all run it, and so give the same bits.
#pragma once

#include <cstdint>

#include "philox.h"

namespace xmixup {

struct DrawArgs {
  uint64_t seed;
  const int64_t* sample;        // [batch] id of the sample, any number
  const int64_t* epoch;         // [batch] 0 to 2^32 - 1
  const int64_t* label;         // [batch] target class
  const int64_t* target_index;  // [batch] index of the target image
  const int32_t* target_sizes;  // [targets][height, width]
  int64_t targets;
  const int64_t* offsets;  // [classes + 1] class k has members[offsets[k]] to members[offsets[k + 1] - 1]
  int64_t classes;
  const int64_t* members;  // [member_count] auxiliary images, class by class; empty where none are to be drawn
  int64_t member_count;
  const int32_t* aux_sizes;  // [auxes][height, width]
  int64_t auxes;
  const float* lam_quantiles;  // [intervals + 1] ascending quantiles of lam's distribution
  int64_t intervals;           // 1 to 2^24
  int32_t height;              // of every window, in pixels
  int32_t width;
  bool flip;  // mirror a window left to right, with probability 1/2
  int64_t batch;

  int32_t* target_window;  // [batch][top, left, height, width]
  bool* target_flip;       // [batch]
  int64_t* aux_index;      // [batch]
  int32_t* aux_window;     // [batch][top, left, height, width]
  bool* aux_flip;          // [batch]
  float* lam;              // [batch]
  float* center;           // [batch][y, x] of a pasted rectangle's middle, as fractions of height and width
};

// What random words are drawn for: the last word of Philox's counter, so that a sample's draws are independent.
enum class Purpose : uint32_t { target_crop, aux_choice, aux_crop, lam_and_center };

XMIXUP_INLINE Words random_words(const DrawArgs& args, int64_t b, Purpose purpose) {
  const auto sample = static_cast<uint64_t>(args.sample[b]);
  return philox({static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32),
                 static_cast<uint32_t>(args.epoch[b]), static_cast<uint32_t>(purpose)},
                args.seed);
}

// The auxiliary image to mix with a sample: a member of its class, each as likely as any other.
XMIXUP_INLINE int64_t choose_aux(const DrawArgs& args, int64_t b) {
  const int64_t first = args.offsets[args.label[b]], last = args.offsets[args.label[b] + 1];
  return args.members[first + uniform_below(last - first, random_words(args, b, Purpose::aux_choice).a)];
}

// Draws a window, which may be anywhere inside the image, and whether it is mirrored.
XMIXUP_INLINE void draw_crop(const DrawArgs& args, Words words, const int32_t* image_size, int32_t* window,
                             bool* flip) {
  window[0] = static_cast<int32_t>(uniform_below(int64_t{image_size[0]} - args.height + 1, words.a));
  window[1] = static_cast<int32_t>(uniform_below(int64_t{image_size[1]} - args.width + 1, words.b));
  window[2] = args.height;
  window[3] = args.width;
  *flip = args.flip && words.c < 0x80000000u;
}

// left + fraction * (right - left), each operation rounded by itself: a fused one would give other bits.
XMIXUP_INLINE float interpolate(float left, float right, float fraction) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(left, __fmul_rn(fraction, __fsub_rn(right, left)));
#else
  return left + fraction * (right - left);
#endif
}

// A uniform number in [0, 1): the word's upper 24 bits times 2^-24, which float32 holds exactly.
XMIXUP_INLINE float uniform_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// Interpolates the table of quantiles at uniform_float(word) * intervals. That position is computed in integers, in
// units of 2^-24, and so exact.
XMIXUP_INLINE float draw_lam(const DrawArgs& args, uint32_t word) {
  const uint64_t position = static_cast<uint64_t>(word >> 8) * static_cast<uint64_t>(args.intervals);
  const float* entry = args.lam_quantiles + (position >> 24);
  return interpolate(entry[0], entry[1], static_cast<float>(position & 0xFFFFFF) * 0x1p-24f);
}

// What is wrong with a sample, in the order in which it is checked.
enum class DrawFault { none, epoch, target_index, target_size, label, no_members, member, aux_size };

XMIXUP_INLINE bool is_large_enough(const DrawArgs& args, const int32_t* image_size) {
  return image_size[0] >= args.height && image_size[1] >= args.width;
}

XMIXUP_INLINE DrawFault check_sample(const DrawArgs& args, int64_t b) {
  if (args.epoch[b] < 0 || args.epoch[b] > 0xFFFFFFFF) return DrawFault::epoch;
  const int64_t target = args.target_index[b];
  if (target < 0 || target >= args.targets) return DrawFault::target_index;
  if (!is_large_enough(args, args.target_sizes + 2 * target)) return DrawFault::target_size;
  if (args.member_count == 0) return DrawFault::none;
  const int64_t label = args.label[b];
  if (label < 0 || label >= args.classes) return DrawFault::label;
  const int64_t first = args.offsets[label], last = args.offsets[label + 1];
  if (first < 0 || first >= last || last > args.member_count) return DrawFault::no_members;
  const int64_t aux = choose_aux(args, b);
  if (aux < 0 || aux >= args.auxes) return DrawFault::member;
  if (!is_large_enough(args, args.aux_sizes + 2 * aux)) return DrawFault::aux_size;
  return DrawFault::none;
}

// Writes all outputs of a sample that has passed check_sample.
XMIXUP_INLINE void draw_sample(const DrawArgs& args, int64_t b) {
  const int32_t* target_size = args.target_sizes + 2 * args.target_index[b];
  draw_crop(args, random_words(args, b, Purpose::target_crop), target_size, args.target_window + 4 * b,
            args.target_flip + b);
  const Words words = random_words(args, b, Purpose::lam_and_center);
  args.lam[b] = draw_lam(args, words.a);
  args.center[2 * b] = uniform_float(words.b);
  args.center[2 * b + 1] = uniform_float(words.c);
  if (args.member_count > 0) {
    args.aux_index[b] = choose_aux(args, b);
    draw_crop(args, random_words(args, b, Purpose::aux_crop), args.aux_sizes + 2 * args.aux_index[b],
              args.aux_window + 4 * b, args.aux_flip + b);
  } else {
    args.aux_index[b] = 0;
    for (int k = 0; k < 4; ++k) args.aux_window[4 * b + k] = 0;
    args.aux_flip[b] = false;
  }
}

}  // namespace xmixup
