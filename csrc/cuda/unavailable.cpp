// What a build without CUDA kernels has in their place: operators that refuse CUDA tensors, and say why.
#include <stdexcept>

#include "../draw.h"
#include "../dual_head_cross_entropy.h"
#include "../mix.h"
#include "../schema.h"
#include "kernel_error.h"

namespace xmixup {
namespace {

template <typename Args>
void refuse(const Args& /*args*/, int32_t /*device_index*/) {
  throw std::runtime_error(
      "xmixup_fast: got CUDA tensors, expected tensors on the CPU, as this build has no CUDA kernels; "
      "a build made where nvcc is found has them");
}

}  // namespace

std::pair<std::string, std::string> kernel_error() { return {"none", "this build has no CUDA kernels"}; }

}  // namespace xmixup

using xmixup::refuse;

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CUDA, m) {
  m.impl("mix", TORCH_BOX(&xmixup::mix<refuse<xmixup::MixArgs>>));
  m.impl("mix_out", TORCH_BOX(&xmixup::mix_out<refuse<xmixup::MixArgs>>));
  m.impl("mix_plan", TORCH_BOX(&xmixup::mix_plan<refuse<xmixup::MixArgs>>));
  m.impl("mix_plan_out", TORCH_BOX(&xmixup::mix_plan_out<refuse<xmixup::MixArgs>>));
  m.impl("draw", TORCH_BOX(&xmixup::draw<refuse<xmixup::DrawArgs>>));
  m.impl("draw_out", TORCH_BOX(&xmixup::draw_out<refuse<xmixup::DrawArgs>>));
  m.impl("dual_head_cross_entropy", TORCH_BOX(&xmixup::dual_head_cross_entropy<refuse<xmixup::DualHeadArgs>>));
  m.impl("dual_head_cross_entropy_out", TORCH_BOX(&xmixup::dual_head_cross_entropy_out<refuse<xmixup::DualHeadArgs>>));
}
