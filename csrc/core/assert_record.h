// What a CUDA kernel leaves for the host when it stops at a wrong value. It needs no torch.
#pragma once

#include <cstdint>

namespace xmixup {

constexpr int kAssertMessageBytes = 112;

// Zeros until a thread finds a wrong value.
struct AssertRecord {
  uint32_t taken;                     // 1 once a thread has begun to write
  int64_t sample;                     // position in the batch
  char message[kAssertMessageBytes];  // operator, argument, and what was expected of it
};

}  // namespace xmixup
