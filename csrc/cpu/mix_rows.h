// The CPU kernel of `mix`, once per instruction set.
#pragma once

#include "../core/mix.h"

namespace xmixup {

// Writes rows [begin, end) of the output, counted through the batch: row b * height + y is row y of sample b.
// `stream`: past the caches, for outputs that would only evict what is in them.
using MixRows = void(const MixArgs& args, int64_t begin, int64_t end, bool stream);

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
