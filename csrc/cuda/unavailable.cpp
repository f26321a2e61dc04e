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

STABLE_TORCH_LIBRARY_IMPL(XMIXUP_LIBRARY, CUDA, m) {
  m.impl("mix", TORCH_BOX(&xmixup::mix<xmixup::refuse<xmixup::MixArgs>>));
  m.impl("mix_out", TORCH_BOX(&xmixup::mix_out<xmixup::refuse<xmixup::MixArgs>>));
  m.impl("draw", TORCH_BOX(&xmixup::draw<xmixup::refuse<xmixup::DrawArgs>>));
  m.impl("dual_head_cross_entropy", TORCH_BOX(&xmixup::dual_head_cross_entropy<xmixup::refuse<xmixup::DualHeadArgs>>));
}
