#include "output_cache.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

// AddressSanitizer then reports who uses a free block.
#if defined(__SANITIZE_ADDRESS__)
#define XMIXUP_HAS_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define XMIXUP_HAS_ASAN
#endif
#endif
#ifdef XMIXUP_HAS_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) static_cast<void>(0)
#define ASAN_UNPOISON_MEMORY_REGION(address, size) static_cast<void>(0)
#endif

namespace xmixup {
namespace {

// With one output read by a backward pass and one being written, the next one to be written is free. Two, for loops
// that make two batches a step.
constexpr size_t kMaxFreeBlocks = 2;

// A free block that as many calls have passed by has the size of outputs that are made no more, such as validation's.
constexpr uint64_t kIdleCalls = 16;

bool read_switch() {
  const char* value = std::getenv("XMIXUP_OUTPUT_CACHE");
  const std::string wanted = value == nullptr ? "" : value;
  if (!wanted.empty() && wanted != "0" && wanted != "1") {
    throw std::runtime_error("XMIXUP_OUTPUT_CACHE: expected 0 (off) or 1 (on), got '" + wanted + "'");
  }
  return wanted != "0";
}

struct FreeBlock {
  void* data;
  size_t bytes;
  uint64_t freed_at;  // in calls of take()
};

class OutputCache {
 public:
  // Never destroyed: tensors that live until the process exits give their blocks back after static destructors ran.
  static OutputCache& instance() {
    static OutputCache& cache = *new OutputCache;
    return cache;
  }

  bool is_on() const { return is_on_; }

  void* take(const char* op, size_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    ++calls_;
    while (!free_.empty() && calls_ - free_.front().freed_at > kIdleCalls) unmap_oldest();
    void* data = find(bytes);
    if (data == nullptr) data = map(op, bytes);
    in_use_ += bytes;
    return data;
  }

  void give_back(void* data, size_t bytes) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= bytes;
    if (free_.size() == kMaxFreeBlocks) unmap_oldest();
    ASAN_POISON_MEMORY_REGION(data, bytes);
    free_.push_back({data, bytes, calls_});  // reserved: allocates nothing
  }

  size_t unmap_free() noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    return unmap_all();
  }

  OutputCacheBytes bytes() {
    const std::lock_guard<std::mutex> lock(mutex_);
    size_t free = 0;
    for (const FreeBlock& block : free_) free += block.bytes;
    return {static_cast<int64_t>(in_use_), static_cast<int64_t>(free)};
  }

 private:
  OutputCache() : is_on_(read_switch()) {
    free_.reserve(kMaxFreeBlocks);
    const int error = pthread_atfork([] { instance().mutex_.lock(); }, [] { instance().mutex_.unlock(); },
                                     [] { instance().in_child(); });
    if (error != 0) throw std::runtime_error(std::string("xmixup_fast: pthread_atfork: ") + std::strerror(error));
  }

  // The free blocks are the parent's, which will write to them: the child would keep copies of the pages.
  void in_child() noexcept {
    unmap_all();
    mutex_.unlock();
  }

  // The block of this size that was freed last, whose pages are likeliest in the CPU's caches; or null.
  void* find(size_t bytes) noexcept {
    for (size_t i = free_.size(); i-- > 0;) {
      if (free_[i].bytes != bytes) continue;
      void* const data = free_[i].data;
      ASAN_UNPOISON_MEMORY_REGION(data, bytes);
      free_.erase(free_.begin() + i);
      return data;
    }
    return nullptr;
  }

  void* map(const char* op, size_t bytes) {
    const auto map_once = [bytes] {
      return mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    };
    void* data = map_once();
    if (data == MAP_FAILED && unmap_all() > 0) data = map_once();
    if (data == MAP_FAILED) {
      const int error = errno;
      throw std::runtime_error(std::string("xmixup_fast.") + op + ": can't allocate memory: you tried to allocate " +
                               std::to_string(bytes) + " bytes for the output. Error code " + std::to_string(error) +
                               " (" + std::strerror(error) + ")");
    }
    return data;
  }

  size_t unmap_all() noexcept {
    size_t bytes = 0;
    while (!free_.empty()) bytes += unmap_oldest();
    return bytes;
  }

  size_t unmap_oldest() noexcept {
    const FreeBlock block = free_.front();
    free_.erase(free_.begin());
    ASAN_UNPOISON_MEMORY_REGION(block.data, block.bytes);  // the addresses are the system's again
    munmap(block.data, block.bytes);
    return block.bytes;
  }

  const bool is_on_;
  std::mutex mutex_;
  std::vector<FreeBlock> free_;  // in the order in which they were freed
  size_t in_use_ = 0;            // bytes
  uint64_t calls_ = 0;
};

size_t whole_pages(int64_t bytes) {
  static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return (static_cast<size_t>(bytes) + page - 1) / page * page;
}

}  // namespace

bool output_cache_is_on() { return OutputCache::instance().is_on(); }

void* take_output_block(const char* op, int64_t bytes) { return OutputCache::instance().take(op, whole_pages(bytes)); }

void give_back_output_block(void* block, int64_t bytes) noexcept {
  OutputCache::instance().give_back(block, whole_pages(bytes));
}

int64_t free_output_blocks() { return static_cast<int64_t>(OutputCache::instance().unmap_free()); }

OutputCacheBytes output_cache_bytes() { return OutputCache::instance().bytes(); }

}  // namespace xmixup
