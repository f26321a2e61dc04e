// The CPU kernel of `dual_head_cross_entropy`, compiled once per CPU level.
#pragma once

#include "../core/dual_head_cross_entropy.h"

namespace xmixup {

// Writes the gradients and sample_loss of samples [begin, end). Every level gives the same bits.
using DualHeadRows = void(const DualHeadArgs& args, int64_t begin, int64_t end);

namespace baseline {
DualHeadRows dual_head_rows;
}
#if defined(__x86_64__)
namespace avx2 {
DualHeadRows dual_head_rows;
}
namespace avx512 {
DualHeadRows dual_head_rows;
}
#endif

}  // namespace xmixup
