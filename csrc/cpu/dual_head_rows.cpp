// Compiled once per CPU level (see simd.h for what that forbids). The loops over kLanes classes are plain C++, which
// the compiler turns into the level's vector instructions.
#include "dual_head_rows.h"

namespace xmixup::XMIXUP_LEVEL {
namespace {

// Class c is added to partial sum c % kLanes, whatever the level's vectors: so all levels add in the same order, and
// give the same bits.
constexpr int kLanes = 16;

struct Lanes {
  float value[kLanes];

  explicit Lanes(float x) {
    for (float& lane : value) lane = x;
  }
};

inline float greater(float a, float b) { return a > b ? a : b; }

inline float horizontal_sum(const Lanes& lanes) {
  float total = 0;
  for (const float lane : lanes.value) total += lane;
  return total;
}

inline float horizontal_max(const Lanes& lanes) {
  float lane_max = lanes.value[0];
  for (const float lane : lanes.value) lane_max = greater(lane_max, lane);
  return lane_max;
}

// Converts up to kLanes logits to float32, and takes them into each lane's maximum.
template <typename Logit>
inline void load_block(const Logit* __restrict logits, int count, float* __restrict row, Lanes& lane_max) {
  for (int j = 0; j < count; ++j) {
    row[j] = to_float(logits[j]);
    lane_max.value[j] = greater(row[j], lane_max.value[j]);
  }
}

// Replaces up to kLanes logits x by exp(x - max), and adds exp(x - max) and x - max to each lane's sums.
inline void exp_block(float* __restrict row, int count, float max, Lanes& exp_sum, Lanes& shifted_sum) {
  for (int j = 0; j < count; ++j) {
    const float shifted = row[j] - max;
    row[j] = exp_nonpositive(shifted);
    exp_sum.value[j] += row[j];
    shifted_sum.value[j] += shifted;
  }
}

// Writes the gradient of weight times a row's cross entropy, and returns the cross entropy.
template <typename Logit>
float head_row(const Head& head, int64_t b, float weight, float smoothing) {
  const int n = head.classes, whole = n - n % kLanes, rest = n - whole;
  const int64_t label = head.labels[b];
  const Logit* logits = static_cast<const Logit*>(head.logits) + b * n;
  float* row = head.grad + b * n;  // holds the logits first, then their exponentials, then the gradient

  Lanes lane_max(-INFINITY);
  for (int c = 0; c < whole; c += kLanes) load_block(logits + c, kLanes, row + c, lane_max);
  load_block(logits + whole, rest, row + whole, lane_max);
  const float max = horizontal_max(lane_max), label_shifted = row[label] - max;

  Lanes exp_sum(0), shifted_sum(0);
  for (int c = 0; c < whole; c += kLanes) exp_block(row + c, kLanes, max, exp_sum, shifted_sum);
  exp_block(row + whole, rest, max, exp_sum, shifted_sum);
  const RowSums sums{horizontal_sum(exp_sum), horizontal_sum(shifted_sum)};

  const RowGradient gradient = row_gradient(sums, weight, n, smoothing);
  for (int c = 0; c < n; ++c) row[c] = row[c] * gradient.exp_factor - gradient.uniform;
  row[label] -= gradient.label;
  return cross_entropy(sums, label_shifted, n, smoothing);
}

template <typename Logit>
void rows(const DualHeadArgs& args, int64_t begin, int64_t end) {
  const auto batch = static_cast<float>(args.batch);
  for (int64_t b = begin; b < end; ++b) {
    const float lam = args.lam[b], source_weight = args.source_weight * (1.0f - lam);
    float loss = lam * head_row<Logit>(args.target, b, lam / batch, args.label_smoothing);
    if (lam == 1.0f) {
      float* row = args.source.grad + b * args.source.classes;
      for (int c = 0; c < args.source.classes; ++c) row[c] = 0;
    } else {
      loss += source_weight * head_row<Logit>(args.source, b, source_weight / batch, args.label_smoothing);
    }
    args.sample_loss[b] = loss;
  }
}

}  // namespace

void dual_head_rows(const DualHeadArgs& args, int64_t begin, int64_t end) {
  switch (args.logit_type) {
    case LogitType::float32: return rows<float>(args, begin, end);
    case LogitType::bfloat16: return rows<BFloat16>(args, begin, end);
    case LogitType::float16: return rows<Float16>(args, begin, end);
  }
}

}  // namespace xmixup::XMIXUP_LEVEL
