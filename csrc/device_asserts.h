// The records of CUDA kernels that stopped at a wrong value, one for each device. After a device-side assert no memory
// of the device can be read any more, so they are memory of the host that kernels can write to.
#pragma once

#include <cstdint>

#include "core/assert_record.h"

namespace xmixup {

// The record of a device. `allocate` makes it at the first call, and it stays for as long as the process does.
AssertRecord* kept_assert_record(int32_t device_index, AssertRecord* (*allocate)());

}  // namespace xmixup
