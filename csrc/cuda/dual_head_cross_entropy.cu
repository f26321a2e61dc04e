// `dual_head_cross_entropy` on CUDA: one block a sample, then one block for the mean of the samples' losses.
#include "../dual_head_cross_entropy.h"
#include "../schema.h"
#include "launch.h"
#include "reduce.h"

namespace xmixup {
namespace {

constexpr int kThreads = 128;

// Writes the gradient of weight times a row's cross entropy, and returns the cross entropy.
template <typename Logit>
__device__ inline float head_row(const Head& head, int64_t b, float weight, float smoothing) {
  const int n = head.classes, label = static_cast<int>(head.labels[b]);
  const Logit* logits = static_cast<const Logit*>(head.logits) + b * n;
  float* grad = head.grad + b * n;

  float max = -INFINITY;
  for (int c = threadIdx.x; c < n; c += kThreads) max = Max()(to_float(logits[c]), max);
  max = block_reduce<kThreads>(Max(), max);

  RowSums sums{0, 0};
  for (int c = threadIdx.x; c < n; c += kThreads) {
    const float shifted = to_float(logits[c]) - max;
    sums.exp += exp_nonpositive(shifted);
    sums.shifted += shifted;
  }
  sums = {block_reduce<kThreads>(Sum(), sums.exp), block_reduce<kThreads>(Sum(), sums.shifted)};

  const RowGradient gradient = row_gradient(sums, weight, n, smoothing);
  for (int c = threadIdx.x; c < n; c += kThreads) {
    const float unlabelled = exp_nonpositive(to_float(logits[c]) - max) * gradient.exp_factor - gradient.uniform;
    grad[c] = c == label ? unlabelled - gradient.label : unlabelled;
  }
  return cross_entropy(sums, to_float(logits[label]) - max, n, smoothing);
}

__device__ inline const char* message_for(SampleFault fault) {
  switch (fault) {
    case SampleFault::none: return nullptr;
    case SampleFault::lam: return "xmixup_fast.dual_head_cross_entropy: lam: expected a number from 0 to 1";
    case SampleFault::target_label:
      return "xmixup_fast.dual_head_cross_entropy: target_labels: expected a class of target_logits";
    case SampleFault::source_label:
      return "xmixup_fast.dual_head_cross_entropy: source_labels: expected a class of source_logits";
  }
  return nullptr;
}

template <typename Logit>
__global__ void __launch_bounds__(kThreads) samples_kernel(const DualHeadArgs args, AssertRecord* record) {
  const int64_t b = blockIdx.x;
  if (const SampleFault fault = check_sample(args, b); fault != SampleFault::none) {
    if (threadIdx.x == 0) report_wrong_value(record, message_for(fault), b);
    return;  // all threads of the block, so none waits
  }
  const auto batch = static_cast<float>(args.batch);
  const float lam = args.lam[b], source_weight = args.source_weight * (1.0f - lam);
  float loss = lam * head_row<Logit>(args.target, b, lam / batch, args.label_smoothing);
  if (lam == 1.0f) {
    float* row = args.source.grad + b * args.source.classes;
    for (int c = threadIdx.x; c < args.source.classes; c += kThreads) row[c] = 0;
  } else {
    loss += source_weight * head_row<Logit>(args.source, b, source_weight / batch, args.label_smoothing);
  }
  if (threadIdx.x == 0) args.sample_loss[b] = loss;
}

__global__ void __launch_bounds__(kThreads) mean_kernel(const DualHeadArgs args) {
  double sum = 0;
  for (int64_t b = threadIdx.x; b < args.batch; b += kThreads) sum += args.sample_loss[b];
  sum = block_reduce<kThreads>(Sum(), sum);
  if (threadIdx.x == 0) *args.loss = static_cast<float>(sum / static_cast<double>(args.batch));
}

void run_dual_head(const DualHeadArgs& args, int32_t device_index) {
  const auto samples = args.logit_type == LogitType::float32    ? samples_kernel<float>
                       : args.logit_type == LogitType::bfloat16 ? samples_kernel<BFloat16>
                                                                : samples_kernel<Float16>;
  Launcher launch(device_index);
  if (args.batch > 0) {
    launch.with_barriers(samples, dim3(static_cast<unsigned>(args.batch)), dim3(kThreads), args,
                         assert_record(device_index));
  }
  launch.with_barriers(mean_kernel, dim3(1), dim3(kThreads), args);
}

}  // namespace
}  // namespace xmixup

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, XMIXUP_DEVICE_KEY, m) {
  m.impl("dual_head_cross_entropy", TORCH_BOX(&xmixup::dual_head_cross_entropy<xmixup::run_dual_head>));
  m.impl("dual_head_cross_entropy_out", TORCH_BOX(&xmixup::dual_head_cross_entropy_out<xmixup::run_dual_head>));
}
