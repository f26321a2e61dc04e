// The CPU kernels of `mix_features` and its gradients, once per instruction set.
#pragma once

#include "../core/mix_features.h"

namespace xmixup {

// What is written: mixed; target_grad and aux_grad; or lam_sums.
enum class FeatureWork { mix, feature_grads, lam_sums };

// Does parts [begin, end) of all samples' parts: kPartFeatures of one sample, or what is left of it. With `stream`,
// features are written past the caches; the tensors then begin on 64 bytes. Every level gives the same bits.
using MixFeaturesParts = void(const FeatureArgs& args, FeatureWork work, int64_t begin, int64_t end, bool stream);

namespace baseline {
MixFeaturesParts mix_features_parts;
}
#if defined(__x86_64__)
namespace avx2 {
MixFeaturesParts mix_features_parts;
}
namespace avx512 {
MixFeaturesParts mix_features_parts;
}
#endif

}  // namespace xmixup
