// `mix_features` and its gradients on CUDA. A thread makes 128 bits of one sample's features, or one feature where
// samples are not whole groups of that size. Lam's gradient is summed up by a block for each part of a sample's
// features.
#include "../mix_features.h"
#include "../schema.h"
#include "launch.h"
#include "reduce.h"
#include "store.h"

namespace xmixup {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kMaxGridY = 65535;

// The grid's y and z count samples, because there can be more of them than y has room for.
dim3 grid_of(const FeatureArgs& args, int64_t blocks) {
  return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(args.batch < kMaxGridY ? args.batch : kMaxGridY),
              static_cast<unsigned>((args.batch + kMaxGridY - 1) / kMaxGridY));
}

__device__ inline int64_t sample_of_block() { return static_cast<int64_t>(blockIdx.z) * kMaxGridY + blockIdx.y; }

// n features, at once where there are more than one.
template <typename Feature, int n>
struct Group {
  Feature value[n];

  __device__ static Group load(const void* features, int64_t at) {
    const Feature* p = static_cast<const Feature*>(features) + at;
    Group group;
    if constexpr (n > 1) {
      const uint4 bits = __ldg(reinterpret_cast<const uint4*>(p));
      static_assert(sizeof group == sizeof bits);
      memcpy(&group, &bits, sizeof bits);
    } else {
      group.value[0] = *p;
    }
    return group;
  }
};

// What a thread does: n features, which begin at `at`, of a sample with this lam.
template <typename Feature, int n>
struct Mix {
  using Weight = typename Computed<Feature>::type;

  __device__ static void run(const FeatureArgs& args, Weight lam, int64_t at) {
    const auto target = Group<Feature, n>::load(args.target, at);
    Weight values[n];
    for (int k = 0; k < n; ++k) values[k] = to_computed(target.value[k]);
    if (lam != 1) {
      const auto aux = Group<Feature, n>::load(args.aux, at);
      for (int k = 0; k < n; ++k) values[k] = blend(values[k], to_computed(aux.value[k]), lam, 1 - lam);
    }
    store(values, static_cast<Feature*>(args.mixed) + at);
  }
};

template <typename Feature, int n>
struct Grads {
  using Weight = typename Computed<Feature>::type;

  __device__ static void run(const FeatureArgs& args, Weight lam, int64_t at) {
    const auto grad = Group<Feature, n>::load(args.mixed_grad, at);
    Weight target[n], aux[n];
    for (int k = 0; k < n; ++k) {
      const Weight value = to_computed(grad.value[k]);
      target[k] = lam * value;
      aux[k] = lam == 1 ? 0 : (1 - lam) * value;  // also where value is not finite
    }
    store(target, static_cast<Feature*>(args.target_grad) + at);
    store(aux, static_cast<Feature*>(args.aux_grad) + at);
  }
};

template <template <typename, int> class Work, typename Feature, int n>
__global__ void __launch_bounds__(kThreads) features_kernel(const FeatureArgs args) {
  const int64_t b = sample_of_block(), place = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * n;
  if (b >= args.batch || place >= args.size) return;
  Work<Feature, n>::run(args, static_cast<const typename Computed<Feature>::type*>(args.lam)[b], b * args.size + place);
}

template <typename Feature>
__global__ void __launch_bounds__(kThreads) lam_sums_kernel(const FeatureArgs args) {
  using Sum = typename Computed<Feature>::type;
  const int64_t b = sample_of_block();
  if (b >= args.batch) return;
  const int64_t begin = blockIdx.x * kPartFeatures;
  const int64_t end = begin + kPartFeatures < args.size ? begin + kPartFeatures : args.size;
  const auto feature = [&](const void* features, int64_t place) {
    return to_computed(static_cast<const Feature*>(features)[b * args.size + place]);
  };
  Sum sum = 0;
  if (static_cast<const Sum*>(args.lam)[b] != 1) {
    for (int64_t place = begin + threadIdx.x; place < end; place += kThreads) {
      sum += feature(args.mixed_grad, place) * (feature(args.target, place) - feature(args.aux, place));
    }
  }
  sum = block_reduce<kThreads>(Plus(), sum);
  if (threadIdx.x == 0) static_cast<Sum*>(args.lam_sums)[b * args.parts + blockIdx.x] = sum;
}

template <typename Sum>
__global__ void __launch_bounds__(kThreads) lam_grad_kernel(const FeatureArgs args) {
  const int64_t b = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (b >= args.batch) return;
  double sum = 0;
  for (int64_t part = 0; part < args.parts; ++part)
    sum += static_cast<const Sum*>(args.lam_sums)[b * args.parts + part];
  static_cast<Sum*>(args.lam_grad)[b] = static_cast<Sum>(sum);
}

// Calls run with a feature of the call's type.
template <typename Run>
void with_type(const FeatureArgs& args, const Run& run) {
  switch (args.type) {
    case FeatureType::float32: return run(float{});
    case FeatureType::bfloat16: return run(BFloat16{});
    case FeatureType::float16: return run(Float16{});
    case FeatureType::float64: return run(double{});
  }
}

bool is_group_aligned(const void* features) { return reinterpret_cast<uintptr_t>(features) % sizeof(uint4) == 0; }

template <template <typename, int> class Work>
void run_features(const FeatureArgs& args, int32_t device_index) {
  if (args.batch * args.size == 0) return;
  with_type(args, [&](auto feature) {
    using Feature = decltype(feature);
    constexpr int kGroup = sizeof(uint4) / sizeof(Feature);
    const bool is_grouped = args.size % kGroup == 0 && is_group_aligned(args.target) && is_group_aligned(args.aux) &&
                            is_group_aligned(args.mixed) && is_group_aligned(args.mixed_grad) &&
                            is_group_aligned(args.target_grad) && is_group_aligned(args.aux_grad);
    const int64_t threads = is_grouped ? args.size / kGroup : args.size;
    Launcher launch(device_index);
    launch(is_grouped ? features_kernel<Work, Feature, kGroup> : features_kernel<Work, Feature, 1>,
           grid_of(args, (threads + kThreads - 1) / kThreads), dim3(kThreads), args);
  });
}

void run_lam_grad(const FeatureArgs& args, int32_t device_index) {
  if (args.batch == 0) return;
  with_type(args, [&](auto feature) {
    using Feature = decltype(feature);
    Launcher launch(device_index);
    if (args.parts > 0) {
      launch.with_barriers(lam_sums_kernel<Feature>, grid_of(args, args.parts), dim3(kThreads), args);
    }
    const dim3 blocks(static_cast<unsigned>((args.batch + kThreads - 1) / kThreads));
    launch(lam_grad_kernel<typename Computed<Feature>::type>, blocks, dim3(kThreads), args);
  });
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, XMIXUP_DEVICE_KEY, m) {
  m.impl("mix_features", TORCH_BOX(&xmixup::mix_features<xmixup::run_features<xmixup::Mix>>));
  m.impl("mix_features_backward", TORCH_BOX(&xmixup::mix_features_backward<xmixup::run_features<xmixup::Grads>>));
  m.impl("mix_features_lam_backward", TORCH_BOX(&xmixup::mix_features_lam_backward<xmixup::run_lam_grad>));
}
