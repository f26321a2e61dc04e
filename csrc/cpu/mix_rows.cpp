// Compiled once per CPU level (see simd.h for what that forbids).
//
// Where both windows of a sample have the output's size and are shown as they are, rows are blended straight from the
// images' bytes. Otherwise both are first made into floats, row by row.
#include "mix_rows.h"

#include "blend.h"
#include "float_rows.h"

namespace xmixup::XMIXUP_LEVEL {
namespace {

// --- samples ---

// Mixes rows [begin, end) of sample b. `target_row(y)` and `aux_row(y)` return row y of the two images.
template <bool planar, typename Out, typename TargetRow, typename AuxRow>
void mix_sample_rows(const MixArgs& args, int64_t b, int32_t begin, int32_t end, bool stream,
                     const TargetRow& target_row, const AuxRow& aux_row) {
  const Rectangle* box = box_of(args, b);
  const float lam = box == nullptr ? at(args.lam, b) : 1.0f;
  const Weights weights(lam, args);
  const int32_t width = args.width;
  const int64_t plane = static_cast<int64_t>(args.height) * width;
  Out* out = static_cast<Out*>(args.out) + 3 * plane * b + (planar ? 1 : 3) * static_cast<int64_t>(begin) * width;
  for (int32_t y = begin; y < end; ++y, out += (planar ? 1 : 3) * static_cast<int64_t>(width)) {
    const bool crosses_box = box != nullptr && y >= box->top && y < box->top + box->height && box->width > 0;
    if (crosses_box && box->width == width) {  // nothing of the target shows, so its row need not be made
      const auto aux = aux_row(y);
      mix_row<false, planar>(aux, aux, weights, 0, width, out, plane, stream);
      continue;
    }
    const auto target = target_row(y);
    if (lam != 1.0f) {
      mix_row<true, planar>(target, aux_row(y), weights, 0, width, out, plane, stream);
    } else if (!crosses_box) {
      mix_row<false, planar>(target, target, weights, 0, width, out, plane, stream);
    } else {  // in the box the auxiliary image takes the place of the target, with a weight of 1
      const int32_t left = box->left, right = box->left + box->width;
      const auto aux = aux_row(y);
      mix_row<false, planar>(target, target, weights, 0, left, out, plane, stream);
      mix_row<false, planar>(aux, aux, weights, left, right, out, plane, stream);
      mix_row<false, planar>(target, target, weights, right, width, out, plane, stream);
    }
  }
}

// Whether a side of a sample is shown as its bytes are.
bool shows_bytes(const MixArgs& args, const CropBatch& crops, int64_t b) {
  return args.color == nullptr && is_crop(crops, b, args) && erased_of(crops, b) == nullptr;
}

template <bool planar, typename Out>
void mix_sample(const MixArgs& args, int64_t b, int32_t begin, int32_t end, bool stream, int64_t widest_window,
                float* scratch) {
  const Rectangle* box = box_of(args, b);
  const bool uses_aux = box == nullptr ? at(args.lam, b) != 1.0f : box->height > 0 && box->width > 0;
  const CropBatch& second = uses_aux ? args.aux : args.target;  // else no row is asked for
  if (shows_bytes(args, args.target, b) && shows_bytes(args, second, b)) {
    const auto byte_row = [&](const CropBatch& crops) {
      return [window = Window(crops, b), end](int32_t y) {
        if (y + kRowsAhead < end) prefetch(window.row(y + kRowsAhead), 3 * window.width);
        return ByteRow{window.row(y), window};
      };
    };
    mix_sample_rows<planar, Out>(args, b, begin, end, stream, byte_row(args.target), byte_row(second));
    return;
  }
  FloatRows target, aux;
  target.start(args, args.target, 0, b, widest_window, scratch);
  float* const aux_scratch = scratch + mix_scratch_floats(args, widest_window) / 2;
  if (uses_aux) aux.start(args, args.aux, 1, b, widest_window, aux_scratch);
  mix_sample_rows<planar, Out>(
      args, b, begin, end, stream, [&](int32_t y) { return target.row(y); }, [&](int32_t y) { return aux.row(y); });
}

template <typename Out>
void mix_rows_as(const MixArgs& args, int64_t begin, int64_t end, bool stream, int64_t widest_window, float* scratch) {
  while (begin < end) {
    const int64_t b = begin / args.height;
    const int64_t sample_begin = b * args.height;
    const int64_t stop = sample_begin + args.height < end ? sample_begin + args.height : end;
    const auto first = static_cast<int32_t>(begin - sample_begin), last = static_cast<int32_t>(stop - sample_begin);
    if (args.channels_last) {
      mix_sample<false, Out>(args, b, first, last, stream, widest_window, scratch);
    } else {
      mix_sample<true, Out>(args, b, first, last, stream, widest_window, scratch);
    }
    begin = stop;
  }
}

}  // namespace

void mix_rows(const MixArgs& args, int64_t begin, int64_t end, bool stream, int64_t widest_window, float* scratch) {
  switch (args.out_type) {
    case OutType::float32: mix_rows_as<float>(args, begin, end, stream, widest_window, scratch); break;
    case OutType::bfloat16: mix_rows_as<BFloat16>(args, begin, end, stream, widest_window, scratch); break;
    case OutType::float16: mix_rows_as<Float16>(args, begin, end, stream, widest_window, scratch); break;
  }
  if (stream) finish_streaming();
}

}  // namespace xmixup::XMIXUP_LEVEL
