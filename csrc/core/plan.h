// One sample of a plan: what `draw` decides and `mix_plan` renders. xmixup_fast/ops/mix_plan.py has the same layout.
#pragma once

#include <cstdint>

namespace xmixup {

// In pixels, of an image or of the output.
struct Rectangle {
  int32_t top, left, height, width;
};

struct PlanRow {
  int64_t target_index;  // of the image in its pool
  int64_t aux_index;
  int64_t aux_label;
  uint64_t noise;           // key of the noise that erased pixels are filled with
  Rectangle target_window;  // in the image
  Rectangle aux_window;
  Rectangle box;            // in the output, where the auxiliary image shows, if boxed
  Rectangle target_erased;  // in the output; empty where nothing is erased
  Rectangle aux_erased;
  float lam;  // weight of the target image and of its label
  uint8_t target_flip;
  uint8_t aux_flip;
  uint8_t boxed;  // paste a box; else blend
  uint8_t unused[9];
};

static_assert(sizeof(PlanRow) == 128, "the rows of a plan are int32[32]");

}  // namespace xmixup
