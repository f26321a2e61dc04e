// Which instruction set the CPU kernels run on. Every kernel is compiled once per level, in the level's own namespace.
#pragma once

#include <string>
#include <vector>

namespace xmixup {

enum class CpuLevel { baseline, avx2, avx512 };

// The best level that this binary holds and this CPU runs; or the one that the environment variable XMIXUP_CPU_LEVEL
// names, read once. Throws std::runtime_error where that one is unknown or cannot run here.
CpuLevel cpu_level();

const char* spell(CpuLevel level);

// Levels in this binary, whether this CPU runs them or not.
std::vector<CpuLevel> compiled_cpu_levels();

// Those of them that this CPU runs.
std::vector<CpuLevel> supported_cpu_levels();

}  // namespace xmixup
