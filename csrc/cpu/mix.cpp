// `mix` on the CPU: torch's threads share the output's rows, and run the kernel of this CPU's level.
#include "../mix.h"

#include <algorithm>
#include <memory>

#include "../schema.h"
#include "level.h"
#include "mix_rows.h"

namespace xmixup {
namespace {

// Outputs of at least this size are written past the caches, with non-temporal stores. They would not fit into the
// caches, and an ordinary store first loads the cache line that it overwrites, which costs as much as writing it.
constexpr int64_t kStreamFromBytes = 4 << 20;

// The fewest elements of rows that a thread is given: about 20 microseconds of work.
constexpr int64_t kElementsPerTask = 1 << 16;

struct alignas(64) CacheLine {
  static constexpr int kFloats = 16;
  float floats[kFloats];
};

int64_t widest_window(const MixArgs& args) {
  int64_t widest = 0;
  for (int64_t b = 0; b < args.batch; ++b) {
    widest = std::max({widest, int64_t{at(args.target.window, b).width}, int64_t{at(args.aux.window, b).width}});
  }
  return widest;
}

void run_mix(const MixArgs& args, int32_t /*device_index*/) {
  static MixRows* const mix_rows = XMIXUP_FOR_CPU_LEVEL(mix_rows);
  check_mix_values(args);
  const int64_t row_elements = 3 * static_cast<int64_t>(args.width);
  const int64_t rows = args.batch * args.height;
  const int64_t element_bytes = args.out_type == OutType::float32 ? 4 : 2;
  // torch.frombuffer makes tensors that begin at any byte.
  const bool is_aligned = reinterpret_cast<uintptr_t>(args.out) % element_bytes == 0;
  const bool stream = is_aligned && rows * row_elements * element_bytes >= kStreamFromBytes;
  const int64_t widest = widest_window(args);
  torch::stable::parallel_for(0, rows, 1 + kElementsPerTask / row_elements, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<CacheLine[]> scratch(new CacheLine[mix_scratch_floats(args, widest) / CacheLine::kFloats]);
    mix_rows(args, begin, end, stream, widest, scratch[0].floats);
  });
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CPU, m) {
  m.impl("mix", TORCH_BOX(&xmixup::mix<xmixup::run_mix>));
  m.impl("mix_out", TORCH_BOX(&xmixup::mix_out<xmixup::run_mix>));
  m.impl("mix_plan", TORCH_BOX(&xmixup::mix_plan<xmixup::run_mix>));
  m.impl("mix_plan_out", TORCH_BOX(&xmixup::mix_plan_out<xmixup::run_mix>));
}
