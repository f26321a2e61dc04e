// CPU levels: the instruction sets that the CPU kernels are compiled for. Every kernel is compiled once per level, in
// the level's own namespace.
#pragma once

#include <cstddef>
#include <initializer_list>
#include <string>
#include <vector>

namespace xmixup {

enum class CpuLevel { baseline, avx2, avx512 };

// The best level that this binary holds and this CPU runs; or the one that the environment variable XMIXUP_CPU_LEVEL
// names, read once. Throws std::runtime_error where that one is unknown or cannot run here.
CpuLevel cpu_level();

const char* to_string(CpuLevel level);

// Levels in this binary, whether this CPU runs them or not.
std::vector<CpuLevel> compiled_cpu_levels();

// The levels in this binary that this CPU runs, the best one last.
std::vector<CpuLevel> supported_cpu_levels();

// The kernel of the level that cpu_level() names, out of the kernels of all compiled levels, in CpuLevel's order.
template <typename Kernel>
Kernel* kernel_for_cpu_level(std::initializer_list<Kernel*> kernels) {
  return kernels.begin()[static_cast<size_t>(cpu_level())];
}

}  // namespace xmixup

// XMIXUP_FOR_CPU_LEVEL(mix_rows) is xmixup::avx2::mix_rows where cpu_level() is avx2, and so on.
#if defined(__x86_64__)
#define XMIXUP_FOR_CPU_LEVEL(kernel) \
  xmixup::kernel_for_cpu_level({xmixup::baseline::kernel, xmixup::avx2::kernel, xmixup::avx512::kernel})
#else
#define XMIXUP_FOR_CPU_LEVEL(kernel) xmixup::kernel_for_cpu_level({xmixup::baseline::kernel})
#endif
