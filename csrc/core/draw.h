// What one call of `draw` works on, and all that is drawn for one sample. No torch here: the CPU kernel, the CUDA
// kernel and its emulation on the CPU all run this code, to the same bits.
#pragma once

#include <cstdint>

#include "philox.h"

namespace xmixup {

struct DrawArgs {
  uint64_t seed;
  const int64_t* sample;        // [batch] what tells samples apart
  const int64_t* epoch;         // [batch] 0 to 2^32 - 1
  const int64_t* label;         // [batch] target class
  const int64_t* target_index;  // [batch] which target image
  const int32_t* target_sizes;  // [targets][height, width]
  int64_t targets;
  const int64_t* offsets;  // [classes + 1] where a class begins in members
  int64_t classes;
  const int64_t* members;  // [member_count] auxiliary images of each class; none where there is nothing to mix in
  int64_t member_count;
  const int32_t* aux_sizes;  // [auxes][height, width]
  int64_t auxes;
  const float* lam_quantiles;  // [intervals + 1]
  int64_t intervals;           // 1 to 2^24
  int32_t height;              // of all windows
  int32_t width;
  bool flip;  // mirror windows half of the time
  int64_t batch;

  int32_t* target_window;  // [batch][top, left, height, width]
  bool* target_flip;       // [batch]
  int64_t* aux_index;      // [batch]
  int32_t* aux_window;     // [batch][top, left, height, width]
  bool* aux_flip;          // [batch]
  float* lam;              // [batch]
  float* center;           // [batch][from the top, from the left]
};

// The last word of a counter, so that the draws of one sample have nothing to do with one another.
enum class Purpose : uint32_t { target_crop, aux_choice, aux_crop, lam_and_center };

XMIXUP_INLINE Words random_words(const DrawArgs& args, int64_t b, Purpose purpose) {
  const auto sample = static_cast<uint64_t>(args.sample[b]);
  return philox({static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32),
                 static_cast<uint32_t>(args.epoch[b]), static_cast<uint32_t>(purpose)},
                args.seed);
}

// The auxiliary image that goes with a sample: any member of its class.
XMIXUP_INLINE int64_t choose_aux(const DrawArgs& args, int64_t b) {
  const int64_t first = args.offsets[args.label[b]], last = args.offsets[args.label[b] + 1];
  return args.members[first + uniform_below(last - first, random_words(args, b, Purpose::aux_choice).a)];
}

// A window anywhere inside an image, and whether it is mirrored.
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

// A number from 0 to 1, without 1: the word's upper 24 bits * 2^-24, which is exact.
XMIXUP_INLINE float uniform_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

// The table at fraction_of(word) * intervals; the position is exact, as it is an integer.
XMIXUP_INLINE float draw_lam(const DrawArgs& args, uint32_t word) {
  const uint64_t position = static_cast<uint64_t>(word >> 8) * static_cast<uint64_t>(args.intervals);
  const float* entry = args.lam_quantiles + (position >> 24);
  return interpolate(entry[0], entry[1], static_cast<float>(position & 0xFFFFFF) * 0x1p-24f);
}

// What is wrong with a sample, from the first thing that must hold to the last.
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

// Writes all outputs of a sample without a fault.
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
