// What the memory allows `mix` at best: each byte of the windows is read once and each byte of the output written once,
// past the caches, with the widest vectors of the CPU that this is compiled on. Nothing is computed but a checksum.
#include <immintrin.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstdint>
#include <cstring>

namespace {

using torch::stable::Tensor;

#if defined(__AVX512BW__)
struct Bytes {
  __m512i value;
  static constexpr int kSize = 64;
  static Bytes load(const uint8_t* p) { return {_mm512_loadu_si512(p)}; }
  static Bytes fill(char byte) { return {_mm512_set1_epi8(byte)}; }
  void stream(uint8_t* p) const { _mm512_stream_si512(reinterpret_cast<__m512i*>(p), value); }
  Bytes sums() const { return {_mm512_sad_epu8(value, _mm512_setzero_si512())}; }
  Bytes add(Bytes other) const { return {_mm512_add_epi64(value, other.value)}; }
};
#elif defined(__AVX2__)
struct Bytes {
  __m256i value;
  static constexpr int kSize = 32;
  static Bytes load(const uint8_t* p) { return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))}; }
  static Bytes fill(char byte) { return {_mm256_set1_epi8(byte)}; }
  void stream(uint8_t* p) const { _mm256_stream_si256(reinterpret_cast<__m256i*>(p), value); }
  Bytes sums() const { return {_mm256_sad_epu8(value, _mm256_setzero_si256())}; }
  Bytes add(Bytes other) const { return {_mm256_add_epi64(value, other.value)}; }
};
#else
struct Bytes {
  __m128i value;
  static constexpr int kSize = 16;
  static Bytes load(const uint8_t* p) { return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))}; }
  static Bytes fill(char byte) { return {_mm_set1_epi8(byte)}; }
  void stream(uint8_t* p) const { _mm_stream_si128(reinterpret_cast<__m128i*>(p), value); }
  Bytes sums() const { return {_mm_sad_epu8(value, _mm_setzero_si128())}; }
  Bytes add(Bytes other) const { return {_mm_add_epi64(value, other.value)}; }
};
#endif

// A sum of bytes, as it is added up in vectors.
struct Sum {
  Bytes wide = Bytes::fill(0);
  __m128i narrow = _mm_setzero_si128();
  uint64_t single = 0;

  void add(const uint8_t* p, int64_t bytes) {
    int64_t i = 0;
    for (; i + Bytes::kSize <= bytes; i += Bytes::kSize) wide = wide.add(Bytes::load(p + i).sums());
    for (; i + 16 <= bytes; i += 16) {
      const __m128i loaded = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + i));
      narrow = _mm_add_epi64(narrow, _mm_sad_epu8(loaded, _mm_setzero_si128()));
    }
    for (; i < bytes; ++i) single += p[i];
  }

  int64_t total() const {
    uint64_t parts[Bytes::kSize / 8 + 2], sum = single;
    std::memcpy(parts, &wide.value, Bytes::kSize);
    std::memcpy(parts + Bytes::kSize / 8, &narrow, 16);
    for (const uint64_t part : parts) sum += part;
    return static_cast<int64_t>(sum);
  }
};

// How many rows before they are read the CPU is told to load them: it does not foresee the jump to the next row.
constexpr int64_t kRowsAhead = 2;

// One side's windows: an ImagePool and its Crops.
struct Windows {
  const uint8_t* pixels;
  const int64_t* offsets;
  const int32_t* sizes;
  const int64_t* index;
  const int32_t* window;

  Windows(const Tensor& pixels, const Tensor& offsets, const Tensor& sizes, const Tensor& index, const Tensor& window)
      : pixels(static_cast<const uint8_t*>(pixels.const_data_ptr())),
        offsets(static_cast<const int64_t*>(offsets.const_data_ptr())),
        sizes(static_cast<const int32_t*>(sizes.const_data_ptr())),
        index(static_cast<const int64_t*>(index.const_data_ptr())),
        window(static_cast<const int32_t*>(window.const_data_ptr())) {}

  // Adds up the window's rows that fall to row y of an output of `height` rows: each row falls to one.
  void read(int64_t b, int64_t y, int64_t height, Sum& sum) const {
    const int32_t* w = window + 4 * b;
    const int64_t row_bytes = 3 * int64_t{sizes[2 * index[b] + 1]};
    const uint8_t* corner = pixels + offsets[index[b]] + w[0] * row_bytes + 3 * int64_t{w[1]};
    for (int64_t row = y * w[2] / height; row < (y + 1) * w[2] / height; ++row) {
      const uint8_t* const p = corner + row * row_bytes;
      for (int64_t i = 0; i < 3 * int64_t{w[3]}; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(p + kRowsAhead * row_bytes + i), _MM_HINT_T0);
      }
      sum.add(p, 3 * int64_t{w[3]});
    }
  }
};

// Fills `out`, channels_last with rows of whole vectors, with the byte `value`. Returns the sum of all bytes read.
int64_t ceiling(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index,
                Tensor target_window, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, Tensor aux_index,
                Tensor aux_window, int64_t value, Tensor out) {
  const Windows target(target_pixels, target_offsets, target_sizes, target_index, target_window);
  const Windows aux(aux_pixels, aux_offsets, aux_sizes, aux_index, aux_window);
  const int64_t height = out.size(2), rows = out.size(0) * height;
  const int64_t row_bytes = out.numel() / rows * out.element_size();
  auto* const begin = static_cast<uint8_t*>(out.mutable_data_ptr());
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(begin) % Bytes::kSize == 0 && row_bytes % Bytes::kSize == 0,
                  "ceiling: expected an aligned output with rows of whole vectors");
  std::atomic<int64_t> total{0};
  torch::stable::parallel_for(0, rows, 128, [&](int64_t first, int64_t last) {
    const Bytes filled = Bytes::fill(static_cast<char>(value));
    Sum sum;
    for (int64_t row = first; row < last; ++row) {
      target.read(row / height, row % height, height, sum);
      aux.read(row / height, row % height, height, sum);
      uint8_t* const p = begin + row * row_bytes;
      for (int64_t i = 0; i < row_bytes; i += Bytes::kSize) filled.stream(p + i);
    }
    _mm_sfence();
    total += sum.total();
  });
  return total;
}

}  // namespace

STABLE_TORCH_LIBRARY(xmixup_fast_bench, m) {
  m.def(
      "ceiling(Tensor target_pixels, Tensor target_offsets, Tensor target_sizes, Tensor target_index, "
      "Tensor target_window, Tensor aux_pixels, Tensor aux_offsets, Tensor aux_sizes, Tensor aux_index, "
      "Tensor aux_window, int value, Tensor(a!) out) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(xmixup_fast_bench, CPU, m) { m.impl("ceiling", TORCH_BOX(&ceiling)); }
