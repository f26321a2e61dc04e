// `dual_head_cross_entropy` on the CPU: torch's threads share the samples, and run the kernel of this CPU's level.
#include "../dual_head_cross_entropy.h"

#include "../schema.h"
#include "dual_head_rows.h"
#include "level.h"

namespace xmixup {
namespace {

// The fewest logits that a thread is given: about 20 microseconds of work.
constexpr int64_t kLogitsPerTask = 1 << 14;

void run_dual_head(const DualHeadArgs& args, int32_t /*device_index*/) {
  static DualHeadRows* const dual_head_rows = XMIXUP_FOR_CPU_LEVEL(dual_head_rows);
  check_dual_head_values(args);
  const int64_t sample_logits = args.target.classes + args.source.classes;
  torch::stable::parallel_for(0, args.batch, 1 + kLogitsPerTask / sample_logits,
                              [&](int64_t begin, int64_t end) { dual_head_rows(args, begin, end); });
  double sum = 0;
  for (int64_t b = 0; b < args.batch; ++b) sum += args.sample_loss[b];
  *args.loss = static_cast<float>(sum / static_cast<double>(args.batch));
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CPU, m) {
  m.impl("dual_head_cross_entropy", TORCH_BOX(&xmixup::dual_head_cross_entropy<xmixup::run_dual_head>));
  m.impl("dual_head_cross_entropy_out", TORCH_BOX(&xmixup::dual_head_cross_entropy_out<xmixup::run_dual_head>));
}
