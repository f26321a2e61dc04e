#include "level.h"

#include <cstdlib>
#include <stdexcept>

namespace xmixup {
namespace {

bool cpu_supports(CpuLevel level) {
  if (level == CpuLevel::baseline) return true;
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (level == CpuLevel::avx2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  return false;
#endif
}

std::string to_string(const std::vector<CpuLevel>& levels) {
  std::string text;
  for (const CpuLevel level : levels) text += (text.empty() ? "" : ", ") + std::string(to_string(level));
  return text;
}

CpuLevel choose_level() {
  const std::vector<CpuLevel> levels = supported_cpu_levels();
  const char* wanted = std::getenv("XMIXUP_CPU_LEVEL");
  if (wanted == nullptr || *wanted == '\0') return levels.back();
  for (const CpuLevel level : levels) {
    if (wanted == std::string(to_string(level))) return level;
  }
  throw std::runtime_error("XMIXUP_CPU_LEVEL: expected one of the levels that this build and CPU have (" +
                           to_string(levels) + "), got '" + wanted + "'");
}

}  // namespace

CpuLevel cpu_level() {
  static const CpuLevel level = choose_level();
  return level;
}

const char* to_string(CpuLevel level) {
  switch (level) {
    case CpuLevel::avx2: return "avx2";
    case CpuLevel::avx512: return "avx512";
    default: return "baseline";
  }
}

std::vector<CpuLevel> compiled_cpu_levels() {
#if defined(__x86_64__)
  return {CpuLevel::baseline, CpuLevel::avx2, CpuLevel::avx512};
#else
  return {CpuLevel::baseline};
#endif
}

std::vector<CpuLevel> supported_cpu_levels() {
  std::vector<CpuLevel> levels;
  for (const CpuLevel level : compiled_cpu_levels()) {
    if (cpu_supports(level)) levels.push_back(level);
  }
  return levels;
}

}  // namespace xmixup
