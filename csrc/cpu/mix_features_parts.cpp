// Compiled once per CPU level (see simd.h for what that forbids).
#include "mix_features_parts.h"

#include <math.h>  // not cmath, whose functions are inline

#include "simd.h"

namespace xmixup::XMIXUP_LEVEL {
namespace {

constexpr int kLine = 64;  // bytes of a line of the caches, on which the widest streamed vectors lie
constexpr int kPair = 2 * Vec::kLanes;

// Calls pair(i) for features i to i + kPair, and one(i) for what is left over: float64, and features of the first and
// last line. `out` is where the results go.
template <bool stream, typename Feature, typename One, typename Pair>
inline void for_each(const Feature* out, int64_t count, const One& one, const Pair& pair) {
  int64_t i = 0;
  if constexpr (Vec::kLanes > 1 && sizeof(Feature) <= sizeof(float)) {
    for (; stream && i < count && reinterpret_cast<uintptr_t>(out + i) % kLine != 0; ++i) one(i);
    for (; i + kPair <= count; i += kPair) pair(i);
  }
  for (; i < count; ++i) one(i);
}

template <bool stream, typename Feature>
void copy(const Feature* from, Feature* to, int64_t count) {
  for_each<stream>(
      to, count, [=](int64_t i) { to[i] = from[i]; },
      [=](auto i) { store_pair<stream>(Vec::load(from + i), Vec::load(from + i + Vec::kLanes), to + i); });
}

template <bool stream, typename Feature>
void clear(Feature* to, int64_t count) {
  for_each<stream>(
      to, count, [=](int64_t i) { to[i] = Feature{}; },
      [=](auto i) { store_pair<stream>(Vec::fill(0), Vec::fill(0), to + i); });
}

template <bool stream, typename Feature, typename Weight>
void mix(const Feature* target, const Feature* aux, Feature* mixed, int64_t count, Weight lam) {
  const Weight rest = 1 - lam;
  for_each<stream>(
      mixed, count, [=](int64_t i) { put(blend(to_computed(target[i]), to_computed(aux[i]), lam, rest), mixed + i); },
      [=](auto i) {
        const Vec lams = Vec::fill(lam), rests = Vec::fill(rest);
        const auto mix_at = [=](auto at) {
          return add(multiply(lams, Vec::load(target + at)), multiply(rests, Vec::load(aux + at)));
        };
        store_pair<stream>(mix_at(i), mix_at(i + Vec::kLanes), mixed + i);
      });
}

template <bool stream, typename Feature, typename Weight>
void scale(const Feature* mixed_grad, Feature* target_grad, Feature* aux_grad, int64_t count, Weight lam) {
  const Weight rest = 1 - lam;
  for_each<stream>(
      target_grad, count,
      [=](int64_t i) {
        const Weight grad = to_computed(mixed_grad[i]);
        put(lam * grad, target_grad + i);
        put(rest * grad, aux_grad + i);
      },
      [=](auto i) {
        const Vec first = Vec::load(mixed_grad + i), second = Vec::load(mixed_grad + i + Vec::kLanes);
        const Vec lams = Vec::fill(lam), rests = Vec::fill(rest);
        store_pair<stream>(multiply(lams, first), multiply(lams, second), target_grad + i);
        store_pair<stream>(multiply(rests, first), multiply(rests, second), aux_grad + i);
      });
}

// Feature i goes into partial sum i % kLanes, at every level: so all levels add up in one order, to the same bits.
constexpr int kLanes = 16;

template <typename Feature, typename Sum>
inline void add_block(const Feature* __restrict mixed_grad, const Feature* __restrict target,
                      const Feature* __restrict aux, int64_t count, Sum* __restrict lanes) {
  for (int64_t j = 0; j < count; ++j) {
    lanes[j] += to_computed(mixed_grad[j]) * (to_computed(target[j]) - to_computed(aux[j]));
  }
}

template <typename Feature>
typename Computed<Feature>::type lam_sum(const Feature* mixed_grad, const Feature* target, const Feature* aux,
                                         int64_t count) {
  using Sum = typename Computed<Feature>::type;
  Sum lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) add_block(mixed_grad + i, target + i, aux + i, kLanes, lanes);
  add_block(mixed_grad + i, target + i, aux + i, count - i, lanes);
  Sum total = 0;
  for (const Sum lane : lanes) total += lane;
  return total;
}

// What one sample's lam is multiplied with. A NaN is made the usual one, because the vectors' rounding to bfloat16
// keeps a NaN only where its lower bits are zero, as those of features are.
template <typename Weight>
Weight weight_of(const void* lam, int64_t b) {
  const Weight weight = static_cast<const Weight*>(lam)[b];
  return weight == weight ? weight : static_cast<Weight>(NAN);
}

template <bool stream, typename Feature>
void part(const FeatureArgs& args, FeatureWork work, int64_t at) {
  using Weight = typename Computed<Feature>::type;
  const int64_t b = at / args.parts, begin = at % args.parts * kPartFeatures, first = b * args.size + begin;
  const int64_t count = args.size - begin < kPartFeatures ? args.size - begin : kPartFeatures;
  const Weight lam = weight_of<Weight>(args.lam, b);
  const auto input = [&](const void* features) { return static_cast<const Feature*>(features) + first; };
  const auto output = [&](void* features) { return static_cast<Feature*>(features) + first; };
  if (work == FeatureWork::lam_sums) {
    Weight* sum = static_cast<Weight*>(args.lam_sums) + at;
    *sum = lam == 1 ? 0 : lam_sum(input(args.mixed_grad), input(args.target), input(args.aux), count);
  } else if (work == FeatureWork::mix && lam == 1) {
    copy<stream>(input(args.target), output(args.mixed), count);
  } else if (work == FeatureWork::mix) {
    mix<stream>(input(args.target), input(args.aux), output(args.mixed), count, lam);
  } else if (lam == 1) {
    copy<stream>(input(args.mixed_grad), output(args.target_grad), count);
    clear<stream>(output(args.aux_grad), count);
  } else {
    scale<stream>(input(args.mixed_grad), output(args.target_grad), output(args.aux_grad), count, lam);
  }
}

template <typename Feature>
void parts(const FeatureArgs& args, FeatureWork work, int64_t begin, int64_t end, bool stream) {
  for (int64_t at = begin; at < end; ++at) {
    stream ? part<true, Feature>(args, work, at) : part<false, Feature>(args, work, at);
  }
  if (stream) finish_streaming();
}

}  // namespace

void mix_features_parts(const FeatureArgs& args, FeatureWork work, int64_t begin, int64_t end, bool stream) {
  switch (args.type) {
    case FeatureType::float32: return parts<float>(args, work, begin, end, stream);
    case FeatureType::bfloat16: return parts<BFloat16>(args, work, begin, end, stream);
    case FeatureType::float16: return parts<Float16>(args, work, begin, end, stream);
    case FeatureType::float64: return parts<double>(args, work, begin, end, stream);
  }
}

}  // namespace xmixup::XMIXUP_LEVEL
