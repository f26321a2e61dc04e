// The memory of `mix`'s and `mix_plan`'s outputs on the CPU: blocks of its own, each used again once no tensor refers
// to it. The system gives new memory page by page, when each is first written, which takes several times as long as
// mixing does.
#pragma once

#include <cstdint>

namespace xmixup {

// Smaller outputs take torch's memory, which malloc keeps by itself.
constexpr int64_t kCacheOutputsFromBytes = 1 << 20;

// False where the environment variable XMIXUP_OUTPUT_CACHE is 0; read once. Throws std::runtime_error where it is
// neither 0, 1 nor empty.
bool output_cache_is_on();

// A block for an output of so many bytes, at a page's beginning, with any content. Throws std::runtime_error, which
// names the operator `op`, where the system has no memory.
void* take_output_block(const char* op, int64_t bytes);

// Takes a block back that take_output_block gave for as many bytes. May be called by any thread, with or without
// Python's lock, and while the process exits.
void give_back_output_block(void* block, int64_t bytes) noexcept;

// Unmaps the free blocks. Returns their bytes.
int64_t free_output_blocks();

struct OutputCacheBytes {
  int64_t in_use;  // in blocks that tensors refer to
  int64_t free;    // in blocks kept for the next outputs
};

OutputCacheBytes output_cache_bytes();

}  // namespace xmixup
