// Test only: as much of CUDA as the kernels use, on the CPU. A launch runs every thread of every block, one after the
// other, and refuses what a GPU would refuse. Kernels that let threads wait for one another cannot run this way.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#define XMIXUP_DEVICE_KEY CPU
#define XMIXUP_DEVICE_ASSERT(condition, message) \
  if (!(condition)) throw std::runtime_error(std::string("device-side assert triggered: ") + (message))

#define __global__
#define __device__
#define __launch_bounds__(threads)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

inline thread_local dim3 gridDim, blockDim, blockIdx, threadIdx;

namespace xmixup {

class Launcher {
 public:
  explicit Launcher(int32_t /*device_index*/) {}

  template <typename Kernel, typename... Args>
  void operator()(Kernel* kernel, dim3 grid, dim3 block, const Args&... args) const {
    const bool grid_fits =
        grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= 0x7fffffffu && grid.y <= 65535 && grid.z <= 65535;
    const unsigned threads = block.x * block.y * block.z;
    if (!grid_fits || threads == 0 || threads > 1024) {
      throw std::runtime_error("a GPU refuses this launch: grid " + spell(grid) + ", block " + spell(block));
    }
    gridDim = grid;
    blockDim = block;
    for (unsigned z = 0; z < grid.z; ++z) {
      for (unsigned y = 0; y < grid.y; ++y) {
        for (unsigned x = 0; x < grid.x; ++x) {
          blockIdx = dim3(x, y, z);
          run_block(kernel, block, args...);
        }
      }
    }
  }

 private:
  template <typename Kernel, typename... Args>
  static void run_block(Kernel* kernel, dim3 block, const Args&... args) {
    for (unsigned z = 0; z < block.z; ++z) {
      for (unsigned y = 0; y < block.y; ++y) {
        for (unsigned x = 0; x < block.x; ++x) {
          threadIdx = dim3(x, y, z);
          kernel(args...);
        }
      }
    }
  }

  static std::string spell(dim3 d) {
    return std::to_string(d.x) + " x " + std::to_string(d.y) + " x " + std::to_string(d.z);
  }
};

}  // namespace xmixup
