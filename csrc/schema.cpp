// Every operator's schema, once for all devices. Its argument checks are in the file with its name.
#include "schema.h"

XMIXUP_DEFINE_LIBRARY(XMIXUP_LIBRARY, m) {
  m.def(
      "mix(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index, "
      "Tensor target_window, Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, "
      "Tensor aux_index, Tensor aux_window, Tensor aux_flip, Tensor lam, Tensor? box, float[] mean, float[] std, "
      "int[] size, ScalarType dtype, bool channels_last) -> Tensor");
  m.def(
      "mix_out(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index, "
      "Tensor target_window, Tensor target_flip, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, "
      "Tensor aux_index, Tensor aux_window, Tensor aux_flip, Tensor lam, Tensor? box, float[] mean, float[] std, "
      "int[] size, bool channels_last, Tensor(a!) out) -> ()");
}
