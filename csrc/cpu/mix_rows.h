// The CPU kernel of `mix`, compiled once per CPU level.
#pragma once

#include "../core/mix.h"

namespace xmixup {

// Writes rows [begin, end) of the output, counted through the batch: row b * height + y is row y of sample b.
// `stream`: write past the caches.
// `widest_window`: pixels of the widest window in the batch.
// `scratch`: mix_scratch_floats(args, widest_window) floats, which begin at a cache line, for this call alone.
using MixRows = void(const MixArgs& args, int64_t begin, int64_t end, bool stream, int64_t widest_window,
                     float* scratch);

// Floats that a row of pixels takes in `scratch`: vectors may go 64 floats beyond its end, and rows begin at cache
// lines.
XMIXUP_INLINE int64_t padded_row(int64_t pixels) { return (3 * pixels + 64 + 15) / 16 * 16; }

// For each of the two images: a row of the output and tables of three numbers for each of its elements; a row of the
// window, and for a triangle filter a table as long as two.
XMIXUP_INLINE int64_t mix_scratch_floats(const MixArgs& args, int64_t widest_window) {
  return 2 * (4 * padded_row(args.width) + (args.antialias ? 3 : 1) * padded_row(widest_window));
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
