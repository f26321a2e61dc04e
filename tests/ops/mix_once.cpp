// One call of `mix`'s CPU kernel for test_instructions.py, without torch: mix_once LEVEL CASE.
#include <cstdio>
#include <cstring>
#include <new>
#include <vector>

#include "../../csrc/cpu/mix_rows.h"

namespace {

constexpr int kBatch = 4, kSize = 224, kHeight = 512, kWidth = 640, kWidest = 2 * kSize;

// What happens to the images besides; combined by OR.
enum Extra { kNone = 0, kColor = 1, kErase = 2, kNoise = 4, kAntialias = 8 };

struct Case {
  const char* name;
  float lam;
  bool flip;
  int32_t window;  // height and width
  xmixup::OutType out_type;
  bool channels_last;
  int extra;
};

constexpr Case kCases[] = {
    {"crop", 0.75f, false, kSize, xmixup::OutType::float32, true, kNone},
    {"crop-unmixed", 1.0f, false, kSize, xmixup::OutType::float32, true, kNone},
    {"crop-flipped", 0.75f, true, kSize, xmixup::OutType::float32, true, kNone},
    {"crop-bf16", 0.75f, false, kSize, xmixup::OutType::bfloat16, true, kNone},
    {"crop-planar", 0.75f, false, kSize, xmixup::OutType::float32, false, kNone},
    {"crop-color", 0.75f, true, kSize, xmixup::OutType::float32, true, kColor},
    {"crop-erased", 0.75f, true, kSize, xmixup::OutType::float32, true, kErase},
    {"crop-noise", 0.75f, true, kSize, xmixup::OutType::float32, true, kErase | kNoise},
    {"enlarged", 0.75f, true, 180, xmixup::OutType::float32, true, kNone},
    {"enlarged-color", 0.75f, true, 180, xmixup::OutType::float32, true, kColor},
    {"reduced", 0.75f, true, 256, xmixup::OutType::float32, true, kNone},
    {"reduced-color", 0.75f, true, 256, xmixup::OutType::float32, true, kColor},
    {"reduced-antialias", 0.75f, true, 256, xmixup::OutType::float32, true, kAntialias},
    {"halved", 0.75f, true, kWidest, xmixup::OutType::float32, true, kNone},
    {"halved-antialias", 0.75f, true, kWidest, xmixup::OutType::float32, true, kAntialias},
};

xmixup::MixRows* find_kernel(const char* level) {
  if (std::strcmp(level, "baseline") == 0) return xmixup::baseline::mix_rows;
#if defined(__x86_64__)
  if (std::strcmp(level, "avx2") == 0) return xmixup::avx2::mix_rows;
#endif
  return nullptr;
}

const Case* find_case(const char* name) {
  for (const Case& c : kCases) {
    if (std::strcmp(name, c.name) == 0) return &c;
  }
  return nullptr;
}

// What colours, rectangles and noise of a case are made of.
struct Augmentation {
  float color[kBatch][2][3][4];
  xmixup::Rectangle erased[kBatch];
  uint64_t noise[kBatch];
  float quantiles[256];

  Augmentation() {
    for (int b = 0; b < kBatch; ++b) {
      for (auto& matrix : color[b]) {
        for (int c = 0; c < 3; ++c) {
          for (int k = 0; k < 4; ++k) matrix[c][k] = k == c ? 1.1f : k == 3 ? -20.0f : 0.05f;
        }
      }
      erased[b] = {40, 50, kSize / 2, kSize / 2};
      noise[b] = static_cast<uint64_t>(b);
    }
    for (int i = 0; i < 256; ++i) quantiles[i] = 0.01f * static_cast<float>(i - 128);
  }
};

float* cache_line_floats(int64_t n) {
  return static_cast<float*>(operator new(n * sizeof(float), std::align_val_t(64)));
}

}  // namespace

int main(int argc, char** argv) {
  xmixup::MixRows* mix_rows = argc == 3 ? find_kernel(argv[1]) : nullptr;
  const Case* chosen = argc == 3 ? find_case(argv[2]) : nullptr;
  if (mix_rows == nullptr || chosen == nullptr) {
    std::fprintf(stderr, "mix_once: expected a CPU level and a case\n");
    return 2;
  }
  const std::vector<uint8_t> pixels(3 * kHeight * kWidth, 7);
  const int64_t offset = 0, index[kBatch] = {};
  const int32_t size[2] = {kHeight, kWidth};
  uint8_t flip[kBatch];
  xmixup::Rectangle window[kBatch];
  float lam[kBatch];
  for (int b = 0; b < kBatch; ++b) {
    flip[b] = chosen->flip;
    lam[b] = chosen->lam;
    window[b] = {b, b, chosen->window, chosen->window};
  }
  float* const out = cache_line_floats(kBatch * 3 * kSize * kSize);

  const Augmentation augmentation;
  xmixup::MixArgs args{};
  args.target.pixels = pixels.data();
  args.target.pixel_bytes = static_cast<int64_t>(pixels.size());
  args.target.offsets = &offset;
  args.target.sizes = size;
  args.target.images = 1;
  args.target.index = {index, sizeof index[0]};
  args.target.window = {window, sizeof window[0]};
  args.target.flip = {flip, sizeof flip[0]};
  if ((chosen->extra & kErase) != 0) args.target.erased = {augmentation.erased, sizeof augmentation.erased[0]};
  args.aux = args.target;
  args.lam = {lam, sizeof lam[0]};
  for (int c = 0; c < 3; ++c) {
    args.scale[c] = 0.017f;
    args.bias[c] = -2.0f;
    args.fill[c] = 127.0f;
    args.noise_scale[c] = 60.0f;
  }
  if ((chosen->extra & kColor) != 0) args.color = &augmentation.color[0][0][0][0];
  args.noise = {augmentation.noise, sizeof augmentation.noise[0]};
  if ((chosen->extra & kNoise) != 0) args.noise_quantiles = augmentation.quantiles;
  args.antialias = (chosen->extra & kAntialias) != 0;
  args.out = out;
  args.out_type = chosen->out_type;
  args.batch = kBatch;
  args.height = args.width = kSize;
  args.channels_last = chosen->channels_last;
  mix_rows(args, 0, kBatch * kSize, true, kWidest, cache_line_floats(xmixup::mix_scratch_floats(args, kWidest)));
}
