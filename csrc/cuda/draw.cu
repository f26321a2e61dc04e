// `draw` on CUDA: one thread a sample.
#include "../draw.h"
#include "../schema.h"
#include "launch.h"

namespace xmixup {
namespace {

constexpr int kThreads = 128;

__global__ void __launch_bounds__(kThreads) draw_kernel(const DrawArgs args) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= args.batch) return;
  const DrawFault fault = draw_sample(args, b).fault;
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::epoch, "draw: an epoch is outside 0 to 2**32 - 1");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::target_index, "draw: a target_index is outside target_sizes");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::target_size,
                       "draw: a target image is smaller than its window, or too large");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::partner, "draw: a partner is outside the batch");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::label, "draw: a label is outside the classes");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::offsets, "draw: an offset is outside members");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::no_members, "draw: a class has no members");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::member, "draw: a member is outside aux_sizes");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::aux_size,
                       "draw: an auxiliary image is smaller than its window, or too large");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::ratios, "draw: ratios are not positive");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::erase_ratios, "draw: erase_ratios are not positive");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::turns, "draw: turns are not cosines and sines");
  XMIXUP_DEVICE_ASSERT(fault != DrawFault::lam, "draw: a lam is outside 0 to 1");
}

void run_draw(const DrawArgs& args, int32_t device_index) {
  if (args.batch == 0) return;
  Launcher launch(device_index);
  launch(draw_kernel, dim3(static_cast<unsigned>((args.batch + kThreads - 1) / kThreads)), dim3(kThreads), args);
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, XMIXUP_DEVICE_KEY, m) {
  m.impl("draw", TORCH_BOX(&xmixup::draw<xmixup::run_draw>));
}
