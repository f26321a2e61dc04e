// Whether the kernels of this build run on a GPU.
#pragma once

#include <string>
#include <utility>

namespace xmixup {

// What CUDA says of loading a kernel on the current GPU: the name and the text of its error, both empty where it loads.
std::pair<std::string, std::string> kernel_error();

}  // namespace xmixup
