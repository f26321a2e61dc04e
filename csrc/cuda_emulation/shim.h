// For tests alone: as much of CUDA as the kernels use, on the CPU. A launch refuses grids and blocks that a GPU would
// refuse. It runs the threads of all blocks one after the other; where threads wait for one another, each thread of a
// block is run by a thread of the CPU. A device-side assert ends its thread, and the launch once all other threads have
// run: on a GPU, too, some may go on.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "../device_asserts.h"

#define XMIXUP_DEVICE_KEY CPU

#define __global__
#define __device__
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

struct alignas(8) uint2 {
  uint32_t x, y;
};

struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }

inline void __stwb(uint2* p, uint2 value) { *p = value; }
inline void __stwb(uint4* p, uint4 value) { *p = value; }

template <typename T>
T __ldg(const T* p) {
  return *p;
}

inline uint32_t atomicExch(uint32_t* p, uint32_t value) { return __atomic_exchange_n(p, value, __ATOMIC_RELAXED); }
inline void __threadfence_system() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }

inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace xmixup {

// --- device-side asserts ---

struct ThreadStopped {};

// The messages that the threads of a launch have printed.
class Messages {
 public:
  void add(const char* message) {
    const std::lock_guard<std::mutex> lock(mutex_);
    text_ += text_.empty() ? message : std::string("\n") + message;
  }

  void throw_if_any() const {
    if (!text_.empty()) throw std::runtime_error("device-side assert triggered: " + text_);
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

inline thread_local Messages* launch_messages = nullptr;

inline void device_assert_failed(const char* message) {
  launch_messages->add(message);
  throw ThreadStopped{};
}

// The record for the kernels of a call, which begins with zeros, as the process goes on after an assert. Its address is
// that of a tensor, like all that kernels reach, and asked for as one of memory that holds something already.
inline AssertRecord* assert_record(int32_t device_index) {
  AssertRecord* const record = kept_assert_record(device_index, [] { return new AssertRecord; });
  *record = AssertRecord{};
  const torch::stable::Tensor memory =
      torch::stable::from_blob(record, {sizeof(AssertRecord)}, {1}, torch::stable::Device(torch::headeronly::kCPU),
                               torch::headeronly::ScalarType::Byte);
  memory.const_data_ptr();
  return static_cast<AssertRecord*>(memory.mutable_data_ptr());
}

// --- barriers ---

// Where the threads of a block wait for one another. The first error that one of them meets ends the waiting for all.
class Barrier {
 public:
  explicit Barrier(unsigned threads) : threads_(threads) {}

  // `at_end`: the thread has come to the end of the block's work.
  void wait(bool at_end = false) {
    std::unique_lock<std::mutex> lock(mutex_);
    if (waiting_ == 0) at_end_ = at_end;
    if (at_end != at_end_ && !error_) {
      const char* what = "a thread waits at __syncthreads for one that has ended";
      error_ = std::make_exception_ptr(std::runtime_error(what));
      all_here_.notify_all();
    }
    const unsigned round = round_;
    if (++waiting_ == threads_) {
      waiting_ = 0;
      ++round_;
      all_here_.notify_all();
    }
    all_here_.wait(lock, [&] { return round_ != round || error_; });
    if (error_) std::rethrow_exception(error_);
  }

  void fail(const std::exception_ptr& error) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!error_) error_ = error;
    all_here_.notify_all();
  }

  std::exception_ptr error() const { return error_; }

 private:
  const unsigned threads_;
  unsigned waiting_ = 0, round_ = 0;
  bool at_end_ = false;
  std::exception_ptr error_;
  std::mutex mutex_;
  std::condition_variable all_here_;
};

inline thread_local Barrier* block_barrier = nullptr;

class Launcher {
 public:
  explicit Launcher(int32_t /*device_index*/) {}

  template <typename Kernel, typename... Args>
  void operator()(Kernel* kernel, dim3 grid, dim3 block, const Args&... args) const {
    check(grid, block);
    Messages messages;
    gridDim = grid;
    blockDim = block;
    launch_messages = &messages;
    for_each(grid, [&](dim3 at) {
      blockIdx = at;
      for_each(block, [&](dim3 thread) {
        threadIdx = thread;
        run_thread(kernel, args...);
      });
    });
    messages.throw_if_any();
  }

  // For kernels that call __syncthreads: runs each thread of a block by a thread of the CPU.
  template <typename Kernel, typename... Args>
  void with_barriers(Kernel* kernel, dim3 grid, dim3 block, const Args&... args) const {
    check(grid, block);
    Barrier barrier(block.x * block.y * block.z);
    Messages messages;
    std::vector<std::thread> threads;
    for_each(block, [&](dim3 thread) {
      threads.emplace_back([&, thread] {
        gridDim = grid;
        blockDim = block;
        threadIdx = thread;
        block_barrier = &barrier;
        launch_messages = &messages;
        try {
          for_each(grid, [&](dim3 at) {
            blockIdx = at;
            run_thread(kernel, args...);
            barrier.wait(true);  // the next block uses the same shared memory
          });
        } catch (...) {
          barrier.fail(std::current_exception());
        }
      });
    });
    for (std::thread& thread : threads) thread.join();
    if (barrier.error()) std::rethrow_exception(barrier.error());
    messages.throw_if_any();
  }

 private:
  template <typename Kernel, typename... Args>
  static void run_thread(Kernel* kernel, const Args&... args) {
    try {
      kernel(args...);
    } catch (const ThreadStopped&) {
    }
  }

  static void check(dim3 grid, dim3 block) {
    const bool grid_fits =
        grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
    const unsigned threads = block.x * block.y * block.z;
    if (!grid_fits || threads == 0 || threads > 1024) {
      throw std::runtime_error("a GPU refuses this launch: grid " + to_string(grid) + ", block " + to_string(block));
    }
  }

  template <typename Visit>
  static void for_each(dim3 extent, const Visit& visit) {
    for (unsigned z = 0; z < extent.z; ++z) {
      for (unsigned y = 0; y < extent.y; ++y) {
        for (unsigned x = 0; x < extent.x; ++x) visit(dim3(x, y, z));
      }
    }
  }

  static std::string to_string(dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  }
};

}  // namespace xmixup

inline void __syncthreads() {
  if (!xmixup::block_barrier) throw std::runtime_error("__syncthreads in a kernel that was not launched with_barriers");
  xmixup::block_barrier->wait();
}
