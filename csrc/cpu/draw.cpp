// `draw` on the CPU: torch's threads share the samples.
#include "../draw.h"

#include <atomic>

#include "../schema.h"

namespace xmixup {
namespace {

// The fewest samples that a thread is given: about 20 microseconds of work.
constexpr int64_t kSamplesPerTask = 256;

void run_draw(const DrawArgs& args, int32_t /*device_index*/) {
  std::atomic<int64_t> wrong{args.batch};  // the first sample with which something is wrong
  torch::stable::parallel_for(0, args.batch, kSamplesPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      if (draw_sample(args, b).fault == DrawFault::none) continue;
      int64_t first = wrong.load();
      while (b < first && !wrong.compare_exchange_weak(first, b)) {
      }
      return;
    }
  });
  if (wrong < args.batch) fail_draw(args, wrong);
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CPU, m) {
  m.impl("draw", TORCH_BOX(&xmixup::draw<xmixup::run_draw>));
  m.impl("draw_out", TORCH_BOX(&xmixup::draw_out<xmixup::run_draw>));
}
