// `draw` on CUDA: one thread a sample.
#include "../draw.h"
#include "../schema.h"
#include "launch.h"

namespace xmixup {
namespace {

constexpr int kThreads = 128;

__device__ inline const char* message_for(DrawFault fault) {
  switch (fault) {
    case DrawFault::none: return nullptr;
    case DrawFault::epoch: return "xmixup_fast.draw: epoch: expected a number from 0 to 2**32 - 1";
    case DrawFault::target_index: return "xmixup_fast.draw: target_index: expected an image of target_sizes";
    case DrawFault::target_size:
      return "xmixup_fast.draw: target_sizes: expected an image that holds its window, and is not too large";
    case DrawFault::partner: return "xmixup_fast.draw: partner: expected a sample of the batch";
    case DrawFault::label: return "xmixup_fast.draw: label: expected a class of offsets";
    case DrawFault::offsets: return "xmixup_fast.draw: offsets: expected numbers from 0 to the number of members";
    case DrawFault::no_members: return "xmixup_fast.draw: label: expected a class with members";
    case DrawFault::member: return "xmixup_fast.draw: members: expected images of aux_sizes";
    case DrawFault::aux_size:
      return "xmixup_fast.draw: aux_sizes: expected an image that holds its window, and is not too large";
    case DrawFault::ratios: return "xmixup_fast.draw: ratios: expected positive numbers";
    case DrawFault::erase_ratios: return "xmixup_fast.draw: erase_ratios: expected positive numbers";
    case DrawFault::turns: return "xmixup_fast.draw: turns: expected cosines and sines, from -1 to 1";
    case DrawFault::lam: return "xmixup_fast.draw: lam_quantiles: expected numbers from 0 to 1";
  }
  return nullptr;
}

__global__ void __launch_bounds__(kThreads) draw_kernel(const DrawArgs args, AssertRecord* record) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= args.batch) return;
  const auto [fault, sample] = draw_sample(args, b);
  if (fault != DrawFault::none) report_wrong_value(record, message_for(fault), sample);
}

void run_draw(const DrawArgs& args, int32_t device_index) {
  if (args.batch == 0) return;
  Launcher launch(device_index);
  launch(draw_kernel, dim3(static_cast<unsigned>((args.batch + kThreads - 1) / kThreads)), dim3(kThreads), args,
         assert_record(device_index));
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, XMIXUP_DEVICE_KEY, m) {
  m.impl("draw", TORCH_BOX(&xmixup::draw<xmixup::run_draw>));
  m.impl("draw_out", TORCH_BOX(&xmixup::draw_out<xmixup::run_draw>));
}
