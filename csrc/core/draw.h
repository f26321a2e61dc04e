// The arguments of one call of `draw`, and the code that draws the plan of one sample. It needs no torch: the CPU
// kernel, the CUDA kernel and its emulation on the CPU all run it, and so give the same bits.
#pragma once

#include <cstdint>

#include "draw_box.h"
#include "draw_color.h"
#include "draw_crop.h"
#include "draw_erase.h"

namespace xmixup {

// What is known of the images of a pool.
struct ImageFacts {
  const int32_t* sizes;  // [images][height, width]
  const uint8_t* means;  // [images][8][8][3] mean colours of an image's cells; null where not needed
  int64_t images;
};

struct DrawArgs {
  uint64_t seed;
  const int64_t* sample;        // [batch] id of the sample, any number
  const int64_t* epoch;         // [batch] 0 to 2^32 - 1
  const int64_t* label;         // [batch] target class
  const int64_t* target_index;  // [batch] index of the target image
  ImageFacts target;
  const int64_t* offsets;  // [classes + 1] class k has members[offsets[k]] to members[offsets[k + 1] - 1]
  int64_t classes;
  const int64_t* members;  // [member_count] auxiliary images, class by class; empty where none are to be drawn
  int64_t member_count;
  ImageFacts aux;
  const int64_t* aux_labels;  // [auxes]; null: -1
  const int64_t* partner;     // [batch] sample whose target image is the auxiliary one; null: members are drawn
  const bool* mixed;          // [batch] lam is 1 where false; null: all are mixed
  QuantileTable lam_quantiles;
  CropSettings crop;
  ColorSettings color;
  EraseSettings erase;
  int32_t least_height;  // of images, in pixels
  int32_t least_width;
  int32_t most_side;
  bool box;      // paste a box of the auxiliary image; else blend
  bool one_lam;  // of the first sample, for all
  int64_t batch;

  PlanRow* plan;        // [batch]
  float* color_matrix;  // [batch][target, aux][3][4]; null where no colours are changed
};

// What is wrong with a sample, in the order in which it is checked.
enum class DrawFault {
  none,
  epoch,
  target_index,
  target_size,
  partner,
  label,
  offsets,
  no_members,
  member,
  aux_size,
  ratios,
  erase_ratios,
  turns,
  lam
};

// A fault, and the sample whose it is: the partner's faults are a sample's, too.
struct FoundFault {
  DrawFault fault;
  int64_t sample;
};

// One image of a pair.
struct DrawnImage {
  int64_t index;
  Rectangle window;
  bool flip;
  Rectangle erased;
};

XMIXUP_INLINE DrawKey key_of(const DrawArgs& args, int64_t b) {
  return {args.seed, static_cast<uint64_t>(args.sample[b]), static_cast<uint32_t>(args.epoch[b])};
}

// The auxiliary image to mix with a sample: a member of its class, each as likely as any other.
XMIXUP_INLINE int64_t choose_aux(const DrawArgs& args, int64_t b) {
  const int64_t first = args.offsets[args.label[b]], last = args.offsets[args.label[b] + 1];
  return args.members[first + uniform_below(last - first, random_words(key_of(args, b), Purpose::aux_choice).a)];
}

XMIXUP_INLINE bool has_fitting_size(const DrawArgs& args, const int32_t* size) {
  return size[0] >= args.least_height && size[0] <= args.most_side && size[1] >= args.least_width &&
         size[1] <= args.most_side;
}

XMIXUP_INLINE DrawFault check_target(const DrawArgs& args, int64_t b) {
  if (args.epoch[b] < 0 || args.epoch[b] > 0xFFFFFFFF) return DrawFault::epoch;
  const int64_t target = args.target_index[b];
  if (target < 0 || target >= args.target.images) return DrawFault::target_index;
  return has_fitting_size(args, args.target.sizes + 2 * target) ? DrawFault::none : DrawFault::target_size;
}

// Finds the auxiliary image of a sample.
XMIXUP_INLINE DrawFault find_aux(const DrawArgs& args, int64_t b, int64_t* index) {
  const int64_t label = args.label[b];
  if (label < 0 || label >= args.classes) return DrawFault::label;
  const int64_t first = args.offsets[label], last = args.offsets[label + 1];
  if (first < 0 || last > args.member_count) return DrawFault::offsets;
  if (first >= last) return DrawFault::no_members;
  *index = choose_aux(args, b);
  if (*index < 0 || *index >= args.aux.images) return DrawFault::member;
  return has_fitting_size(args, args.aux.sizes + 2 * *index) ? DrawFault::none : DrawFault::aux_size;
}

// Draws all that happens to one image. `erase_word` decides whether a rectangle is erased; `matrix` gets its colours'.
XMIXUP_INLINE DrawFault draw_image(const DrawArgs& args, const DrawKey& key, const ImagePurposes& purposes,
                                   const ImageFacts& facts, uint32_t erase_word, DrawnImage* image, float* matrix) {
  const int32_t height = facts.sizes[2 * image->index], width = facts.sizes[2 * image->index + 1];
  if (!draw_crop(args.crop, key, purposes, height, width, &image->window, &image->flip)) return DrawFault::ratios;
  image->erased = {0, 0, 0, 0};
  if (args.erase.is_on && uniform_float(erase_word) < args.erase.probability &&
      !draw_erased(args.erase, key, purposes.erased, args.crop.height, args.crop.width, &image->erased)) {
    return DrawFault::erase_ratios;
  }
  if (!args.color.is_on) return DrawFault::none;
  const uint8_t* means = facts.means == nullptr ? nullptr : facts.means + kGrid * kGrid * 3 * image->index;
  const bool is_drawn = draw_color(args.color, key, purposes, means, height, width, image->window, matrix);
  return is_drawn ? DrawFault::none : DrawFault::turns;
}

// The weight that is drawn for a sample, whether it is mixed or not.
XMIXUP_INLINE float drawn_lam(const DrawArgs& args, int64_t b) {
  const DrawKey key = key_of(args, args.one_lam ? 0 : b);
  return quantile_at(args.lam_quantiles, random_words(key, Purpose::lam_and_center).a);
}

// Draws the weight of a sample's target image, and the box, which is empty where there are no boxes.
XMIXUP_INLINE DrawFault draw_mixing(const DrawArgs& args, int64_t b, float* lam, Rectangle* box) {
  *lam = drawn_lam(args, b);
  if (!(*lam >= 0.0f && *lam <= 1.0f)) return DrawFault::lam;
  if (args.mixed != nullptr && !args.mixed[b]) *lam = 1.0f;
  *box = {0, 0, 0, 0};
  if (args.box) {
    const Words words = random_words(key_of(args, b), Purpose::lam_and_center);
    *lam = cut_box(*lam, uniform_float(words.b), uniform_float(words.c), args.crop.height, args.crop.width, box);
  }
  return DrawFault::none;
}

// Draws the auxiliary side of a sample: a member of its class; or its partner's target side; or, where there is
// neither, `target`, its own target side, of which nothing is erased. `matrices` are those of both sides.
XMIXUP_INLINE FoundFault draw_aux(const DrawArgs& args, int64_t b, const DrawnImage& target, DrawnImage* aux,
                                  int64_t* label, float* matrices) {
  float* matrix = matrices == nullptr ? nullptr : matrices + 12;
  *label = -1;
  const bool has_partner = args.partner != nullptr;
  if (!has_partner && args.member_count == 0) {
    *aux = target;
    aux->erased = {0, 0, 0, 0};
    if (matrix != nullptr) {
      for (int k = 0; k < 12; ++k) matrix[k] = matrices[k];
    }
    return {DrawFault::none, b};
  }
  const int64_t whose = has_partner ? args.partner[b] : b;
  if (whose < 0 || whose >= args.batch) return {DrawFault::partner, b};
  const DrawFault fault = has_partner ? check_target(args, whose) : find_aux(args, b, &aux->index);
  if (fault != DrawFault::none) return {fault, whose};
  if (has_partner) {
    aux->index = args.target_index[whose];
    *label = args.label[whose];
  } else if (args.aux_labels != nullptr) {
    *label = args.aux_labels[aux->index];
  }
  const DrawKey key = key_of(args, whose);
  const Words erasing = args.erase.is_on ? random_words(key, Purpose::erasing) : Words{};
  return {draw_image(args, key, has_partner ? target_purposes() : aux_purposes(), has_partner ? args.target : args.aux,
                     has_partner ? erasing.a : erasing.b, aux, matrix),
          whose};
}

// Writes the row of a sample, unless something is wrong with it. Its matrices may have been written even then.
XMIXUP_INLINE FoundFault draw_sample(const DrawArgs& args, int64_t b) {
  const DrawFault wrong = check_target(args, b);
  if (wrong != DrawFault::none) return {wrong, b};
  const DrawKey key = key_of(args, b);
  const Words erasing = args.erase.is_on ? random_words(key, Purpose::erasing) : Words{};
  float* matrices = args.color_matrix == nullptr ? nullptr : args.color_matrix + 24 * b;

  DrawnImage target{args.target_index[b], {}, false, {}}, aux{};
  const DrawFault target_fault = draw_image(args, key, target_purposes(), args.target, erasing.a, &target, matrices);
  if (target_fault != DrawFault::none) return {target_fault, b};
  int64_t aux_label;
  const FoundFault aux_fault = draw_aux(args, b, target, &aux, &aux_label, matrices);
  if (aux_fault.fault != DrawFault::none) return aux_fault;
  float lam;
  Rectangle box;
  const DrawFault mixing_fault = draw_mixing(args, b, &lam, &box);
  if (mixing_fault != DrawFault::none) return {mixing_fault, b};

  PlanRow& row = args.plan[b];
  row.target_index = target.index;
  row.target_window = target.window;
  row.target_flip = target.flip;
  row.target_erased = target.erased;
  row.aux_index = aux.index;
  row.aux_label = aux_label;
  row.aux_window = aux.window;
  row.aux_flip = aux.flip;
  row.aux_erased = aux.erased;
  row.noise = erasing.c | static_cast<uint64_t>(erasing.d) << 32;
  row.lam = lam;
  row.box = box;
  row.boxed = args.box;
  for (uint8_t& byte : row.unused) byte = 0;
  return {DrawFault::none, b};
}

}  // namespace xmixup
