// Numbers of samples, one of each in a step of so many bytes: a tensor of its own, or a column of a packed plan.
#pragma once

#include <cstdint>

#include "inline.h"

namespace xmixup {

template <typename T>
struct Column {
  const T* first;
  int64_t stride;  // bytes
};

template <typename T>
XMIXUP_INLINE const T& at(const Column<T>& column, int64_t b) {
  return *reinterpret_cast<const T*>(reinterpret_cast<const char*>(column.first) + b * column.stride);
}

}  // namespace xmixup
