// The Python module `_C`. Importing it registers the operators in torch.ops.xmixup_fast; no tensor passes through here.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/level.h"
#include "cpu/output_cache.h"
#include "cuda/current_stream.h"
#include "cuda/kernel_error.h"

namespace py = pybind11;

namespace {

std::vector<std::string> level_names(const std::vector<xmixup::CpuLevel>& levels) {
  std::vector<std::string> names;
  for (const xmixup::CpuLevel level : levels) names.emplace_back(xmixup::to_string(level));
  return names;
}

py::dict build_info() {
  py::dict info;
  info["version"] = XMIXUP_VERSION;
  info["compiler"] = XMIXUP_CXX_COMPILER;
  info["torch"] = XMIXUP_TORCH_VERSION;
#if defined(XMIXUP_CUDA_VERSION)
  info["cuda"] = XMIXUP_CUDA_VERSION;
  info["cuda_compiler"] = XMIXUP_CUDA_COMPILER;
  info["cuda_architectures"] = XMIXUP_CUDA_ARCHITECTURES;
#else
  info["cuda"] = py::none();
  info["cuda_compiler"] = py::none();
  info["cuda_architectures"] = py::none();
#endif
  info["cpu_levels"] = level_names(xmixup::compiled_cpu_levels());
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  // So that a wrong XMIXUP_CPU_LEVEL or XMIXUP_OUTPUT_CACHE fails the import, not the first batch.
  xmixup::cpu_level();
  xmixup::output_cache_is_on();
  m.doc() = "Native operators of xmixup_fast.";
  m.attr("__version__") = XMIXUP_VERSION;
  m.def("build_info", &build_info,
        "What this binary was built with: version, compilers, torch, CUDA version and architectures or None, CPU "
        "levels.");
  m.def(
      "cpu_level", [] { return xmixup::to_string(xmixup::cpu_level()); },
      "The instruction set that the CPU kernels run on; set XMIXUP_CPU_LEVEL before the import to choose another.");
  m.def(
      "supported_cpu_levels", [] { return level_names(xmixup::supported_cpu_levels()); },
      "The instruction sets that this binary holds and this CPU runs.");
  m.def(
      "cuda_kernel_error", &xmixup::kernel_error,
      "What CUDA says of loading a kernel of this binary on the current GPU: name and text of the error, or two empty "
      "strings.");
  m.def(
      "current_cuda_stream",
      [](int32_t device_index) { return reinterpret_cast<uintptr_t>(xmixup::current_cuda_stream(device_index)); },
      "The address of torch's current stream of a CUDA device, on which kernels are launched.");
  m.def("free_outputs", &xmixup::free_output_blocks,
        "Gives the memory kept for the next outputs on the CPU back to the system; returns its bytes.");
  m.def(
      "output_cache_bytes",
      [] {
        const xmixup::OutputCacheBytes bytes = xmixup::output_cache_bytes();
        return py::make_tuple(bytes.in_use, bytes.free);
      },
      "Bytes of the blocks that outputs on the CPU are in, and of those kept for the next ones.");
}
