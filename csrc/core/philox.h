// Philox4x32-10, the counter-based generator of Salmon et al. 2011 (doi:10.1145/2063384.2063405). It has no state: a
// counter and a key give four random words.
#pragma once

#include <cstdint>

#include "inline.h"

namespace xmixup {

struct Words {
  uint32_t a, b, c, d;
};

XMIXUP_INLINE Words philox(Words counter, uint64_t key) {
  auto key_low = static_cast<uint32_t>(key), key_high = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t first = uint64_t{0xD2511F53} * counter.a, second = uint64_t{0xCD9E8D57} * counter.c;
    counter = {static_cast<uint32_t>(second >> 32) ^ counter.b ^ key_low, static_cast<uint32_t>(second),
               static_cast<uint32_t>(first >> 32) ^ counter.d ^ key_high, static_cast<uint32_t>(first)};
    key_low += 0x9E3779B9;
    key_high += 0xBB67AE85;
  }
  return counter;
}

// A random integer from 0 to n - 1, for n from 1 to 2^31. Probabilities differ from 1 / n by less than 2^-32.
XMIXUP_INLINE int64_t uniform_below(int64_t n, uint32_t word) {
  return static_cast<int64_t>(static_cast<uint64_t>(n) * word >> 32);
}

}  // namespace xmixup
