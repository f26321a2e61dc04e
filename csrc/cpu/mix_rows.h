// The CPU kernel of `mix`, once per instruction set.
#pragma once

#include "../core/mix.h"

namespace xmixup {

// Writes rows [begin, end) of the output, counted through the batch: row b * height + y is row y of sample b.
// `stream`: past the caches, for outputs that would only evict what is in them.
// `scratch`: mix_scratch_floats(args, widest_window) floats that nobody else uses meanwhile.
using MixRows = void(const MixArgs& args, int64_t begin, int64_t end, bool stream, int64_t widest_window,
                     float* scratch);

// For each side: where each element of a row comes from and with what weight, one row of the window, one of the output.
XMIXUP_INLINE int64_t mix_scratch_floats(const MixArgs& args, int64_t widest_window) {
  const int64_t row = 3 * static_cast<int64_t>(args.width);
  return 2 * (3 * row + 3 * widest_window + row);
}

namespace baseline {
MixRows mix_rows;
}
#if defined(__x86_64__)
namespace avx2 {
MixRows mix_rows;
}
namespace avx512 {
MixRows mix_rows;
}
#endif

}  // namespace xmixup
