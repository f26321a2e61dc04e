// One call of `draw` on the CPU for test_draw_instructions.py, without torch: draw_once CASE.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../csrc/core/draw.h"

namespace {

constexpr int kBatch = 64, kClasses = 102, kMembers = 1300, kIntervals = 4096, kRatioIntervals = 256, kTurns = 1024;

struct Case {
  const char* name;
  bool resized;
  bool box;
  bool color;
  bool erase;
};

constexpr Case kCases[] = {
    {"crop", false, false, false, false}, {"boxed", false, true, false, false}, {"resized", true, false, false, false},
    {"color", true, false, true, false},  {"recipe", true, true, true, true},
};

const Case* find_case(const char* name) {
  for (const Case& c : kCases) {
    if (std::strcmp(name, c.name) == 0) return &c;
  }
  return nullptr;
}

// Everything that is drawn for the batch, in a function of its own, whose instructions are counted.
__attribute__((noinline)) int64_t draw_batch(const xmixup::DrawArgs& args) {
  int64_t wrong = 0;
  for (int64_t b = 0; b < args.batch; ++b) wrong += draw_sample(args, b).fault != xmixup::DrawFault::none;
  return wrong;
}

}  // namespace

int main(int argc, char** argv) {
  const Case* chosen = argc == 2 ? find_case(argv[1]) : nullptr;
  if (chosen == nullptr) {
    std::fprintf(stderr, "draw_once: expected a case\n");
    return 2;
  }
  constexpr int kImages = kClasses * kMembers;
  std::vector<int64_t> sample(kBatch), epoch(kBatch, 3), label(kBatch), offsets(kClasses + 1), members(kImages);
  for (int b = 0; b < kBatch; ++b) sample[b] = label[b] = b;
  for (int k = 0; k <= kClasses; ++k) offsets[k] = int64_t{k} * kMembers;
  for (int i = 0; i < kImages; ++i) members[i] = i;
  std::vector<int32_t> sizes(2 * kImages, 256);
  for (int i = 0; i < kImages; ++i) sizes[2 * i + 1] = 340;
  const std::vector<uint8_t> means(size_t{192} * kImages, 100);
  std::vector<float> lam(kIntervals + 1), ratio_roots(kRatioIntervals + 1), turns(2 * (kTurns + 1));
  for (int i = 0; i <= kIntervals; ++i) lam[i] = 0.5f + 0.5f * i / kIntervals;
  for (int i = 0; i <= kRatioIntervals; ++i) ratio_roots[i] = std::pow(4.0 / 3, i / double{kRatioIntervals} - 0.5);
  for (int i = 0; i <= kTurns; ++i) {
    const double angle = 2 * std::acos(-1.0) * (i / double{kTurns} - 0.5);
    turns[2 * i] = std::cos(angle);
    turns[2 * i + 1] = std::sin(angle);
  }
  std::vector<xmixup::PlanRow> plan(kBatch);
  std::vector<float> matrices(24 * kBatch);

  xmixup::DrawArgs args{};
  args.seed = 7;
  args.sample = sample.data();
  args.epoch = epoch.data();
  args.label = label.data();
  args.target_index = sample.data();
  args.target = args.aux = {sizes.data(), means.data(), kImages};
  args.offsets = offsets.data();
  args.classes = kClasses;
  args.members = members.data();
  args.member_count = kImages;
  args.lam_quantiles = {lam.data(), kIntervals};
  const xmixup::QuantileTable roots{ratio_roots.data(), kRatioIntervals};
  args.crop = {224, 224, true, chosen->resized, {0.08f, 1.0f, roots}};
  args.color.is_on = chosen->color;
  args.color.probability = 1;
  args.color.turns = turns.data();
  args.color.turn_intervals = kTurns;
  for (int step = 0; step < xmixup::kColorSteps; ++step) {
    args.color.has_step[step] = true;
    args.color.least[step] = step < 3 ? 0.6f : -0.1f;
    args.color.most[step] = step < 3 ? 1.4f : 0.1f;
  }
  args.erase = {chosen->erase, 0.25f, {0.02f, 0.33f, roots}};
  args.least_height = args.least_width = chosen->resized ? 1 : 224;
  args.most_side = xmixup::kMaxDrawnSide;
  args.box = chosen->box;
  args.batch = kBatch;
  args.plan = plan.data();
  args.color_matrix = chosen->color ? matrices.data() : nullptr;
  return draw_batch(args) == 0 ? 0 : 1;
}
