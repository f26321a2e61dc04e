// The arguments of one call of `dual_head_cross_entropy`, and the arithmetic of one row of logits. It needs no torch:
// the CPU kernels, the CUDA kernel and its emulation on the CPU all include this file, so that they cannot disagree.
#pragma once

#include <math.h>  // not cmath, whose functions are inline: see inline.h

#include <cstdint>

#include "floats.h"
#include "inline.h"

namespace xmixup {

enum class LogitType { float32, bfloat16, float16 };

struct Head {
  const void* logits;     // [batch][classes], of the call's LogitType
  const int64_t* labels;  // [batch]
  float* grad;            // [batch][classes], the gradient of the loss in the logits
  int32_t classes;
};

struct DualHeadArgs {
  Head target;
  Head source;
  const float* lam;    // [batch]
  float* sample_loss;  // [batch], scratch
  float* loss;         // one number: the mean of sample_loss
  int64_t batch;
  float source_weight;
  float label_smoothing;
  LogitType logit_type;
};

// What is wrong with a sample, in the order in which it is checked.
enum class SampleFault { none, lam, target_label, source_label };

XMIXUP_INLINE bool has_label(const Head& head, int64_t b) {
  return head.labels[b] >= 0 && head.labels[b] < head.classes;
}

XMIXUP_INLINE SampleFault check_sample(const DualHeadArgs& args, int64_t b) {
  const float lam = args.lam[b];
  if (!(lam >= 0.0f && lam <= 1.0f)) return SampleFault::lam;
  if (!has_label(args.target, b)) return SampleFault::target_label;
  if (lam != 1.0f && !has_label(args.source, b)) return SampleFault::source_label;
  return SampleFault::none;
}

// Sums over the classes c of a row of logits x, whose maximum is m.
struct RowSums {
  float exp;      // of exp(x_c - m)
  float shifted;  // of x_c - m
};

// The cross entropy of a row: the sum of -q_c log(p_c) over the classes c, with p = softmax(x) and, for label y and
// smoothing s, q_c = (1 - s) [c = y] + s / classes. `label_shifted` is x_y - m.
XMIXUP_INLINE float cross_entropy(const RowSums& sums, float label_shifted, int32_t classes, float smoothing) {
  const float log_sum = logf(sums.exp);
  const float label_loss = log_sum - label_shifted;
  if (smoothing == 0.0f) return label_loss;  // 0 * infinity is NaN: a logit may be -infinity
  return (1.0f - smoothing) * label_loss + smoothing * (log_sum - sums.shifted / static_cast<float>(classes));
}

// The gradient of weight times a row's cross entropy. In x_c it is weight * (p_c - q_c), computed as
// exp(x_c - m) * exp_factor - uniform, less `label` where c is the label.
struct RowGradient {
  float exp_factor;
  float uniform;
  float label;
};

XMIXUP_INLINE RowGradient row_gradient(const RowSums& sums, float weight, int32_t classes, float smoothing) {
  return {weight / sums.exp, weight * smoothing / static_cast<float>(classes), weight * (1.0f - smoothing)};
}

}  // namespace xmixup
