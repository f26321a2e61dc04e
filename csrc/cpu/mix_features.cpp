// `mix_features` and its gradients on the CPU: picks the kernel for this CPU's instruction set and shares the samples'
// parts out to torch's threads.
#include "../mix_features.h"

#include <algorithm>

#include "../schema.h"
#include "level.h"
#include "mix_features_parts.h"

namespace xmixup {
namespace {

// Tensors from this size on are written past the caches, as those of `mix`.
constexpr int64_t kStreamFromBytes = 4 << 20;

// Features that are worth handing to a thread: about 20 microseconds of work.
constexpr int64_t kFeaturesPerTask = 1 << 16;

MixFeaturesParts* parts_for(CpuLevel level) {
#if defined(__x86_64__)
  if (level == CpuLevel::avx512) return avx512::mix_features_parts;
  if (level == CpuLevel::avx2) return avx2::mix_features_parts;
#endif
  (void)level;
  return baseline::mix_features_parts;
}

bool begins_a_line(const void* tensor) { return reinterpret_cast<uintptr_t>(tensor) % 64 == 0; }

void run_parts(const FeatureArgs& args, FeatureWork work) {
  static MixFeaturesParts* const do_parts = parts_for(cpu_level());
  if (args.size == 0) return;
  const int64_t feature_bytes = args.type == FeatureType::float64 ? 8 : (args.type == FeatureType::float32 ? 4 : 2);
  const bool is_aligned = begins_a_line(args.mixed) && begins_a_line(args.target_grad) && begins_a_line(args.aux_grad);
  const bool stream = is_aligned && args.batch * args.size * feature_bytes >= kStreamFromBytes;
  const int64_t grain = 1 + kFeaturesPerTask / std::min(args.size, kPartFeatures);
  torch::stable::parallel_for(0, args.batch * args.parts, grain,
                              [&](int64_t begin, int64_t end) { do_parts(args, work, begin, end, stream); });
}

void run_mix(const FeatureArgs& args, int32_t /*device_index*/) { run_parts(args, FeatureWork::mix); }

void run_feature_grads(const FeatureArgs& args, int32_t /*device_index*/) {
  run_parts(args, FeatureWork::feature_grads);
}

template <typename Number>
void add_parts(const FeatureArgs& args) {
  const Number* sums = static_cast<const Number*>(args.lam_sums);
  for (int64_t b = 0; b < args.batch; ++b) {
    double sum = 0;
    for (int64_t at = b * args.parts; at < (b + 1) * args.parts; ++at) sum += sums[at];
    static_cast<Number*>(args.lam_grad)[b] = static_cast<Number>(sum);
  }
}

void run_lam_grad(const FeatureArgs& args, int32_t /*device_index*/) {
  run_parts(args, FeatureWork::lam_sums);
  args.type == FeatureType::float64 ? add_parts<double>(args) : add_parts<float>(args);
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CPU, m) {
  m.impl("mix_features", TORCH_BOX(&xmixup::mix_features<xmixup::run_mix>));
  m.impl("mix_features_backward", TORCH_BOX(&xmixup::mix_features_backward<xmixup::run_feature_grads>));
  m.impl("mix_features_lam_backward", TORCH_BOX(&xmixup::mix_features_lam_backward<xmixup::run_lam_grad>));
}
