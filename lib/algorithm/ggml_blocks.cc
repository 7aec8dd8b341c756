#include "lib/algorithm/ggml_blocks.h"

#include <algorithm>
#include <cmath>

#include "lib/base/error.h"
#include "lib/kernels/forward.h"
#include "lib/kernels/ggml.h"
#include "lib/kernels/source.h"

namespace qp {

namespace {

constexpr float kSafe = 60000;  // smaller weights overflow no scale of any type

}  // namespace

BlockQuantizer::BlockQuantizer(const Store& store, const Tensor& t, const Scheme& scheme,
                               std::vector<float> importance)
    : store_(store), t_(t), type_(*ggml_type(scheme.ggml)), kernel_(*ggml_quantizer(type_.id)),
      cols_(t.shape.cols()), row_bytes_(cols_ / type_.block * type_.bytes), expert_rows_(t.shape.rows()),
      importance_(std::move(importance)) {
  uint64_t experts = importance_.size() / cols_;
  if (experts > 1) {
    if (t.shape.rank() < 3 || t.shape[0] != experts || importance_.size() % cols_ != 0) {
      throw input_error("its importance is of " + std::to_string(experts) + " experts").file(store.label()).tensor(t.name);
    }
    expert_rows_ = t.shape.rows() / experts;
  }
  if (importance_.empty() && kernel_.needs_importance) {
    throw usage_error("ggml makes " + scheme.ggml + " with an importance matrix only, and nothing is known of its input")
        .file(store.label())
        .tensor(t.name)
        .hint("run qcalibrate first and use -a imatrix, or choose another type for it");
  }
}

// A tile of rows at a time, so that what is converted is still near when it is quantized: in the first
// cache for the simplest types, else of 16 rows, which kernels take side by side.
void BlockQuantizer::chunk(const std::byte* rows, uint64_t first, uint64_t count, RowsScratch& w) {
  const uint64_t elements = type_.block <= 32 ? 1 << 12 : 1 << 15, rows_of = type_.block <= 32 ? 1 : 16;
  const kernels::Table& k = kernels::active();
  kernels::Src src = *kernel_source(t_.dtype);
  uint64_t source_bytes = cols_ * dtype_bits(t_.dtype) / 8;
  uint64_t tile = std::max<uint64_t>(1, elements / cols_ / rows_of * rows_of);
  w.codes.resize(count * row_bytes_);
  auto* out = reinterpret_cast<uint8_t*>(w.codes.data());
  for (uint64_t r = 0; r < count;) {
    uint64_t expert = (first + r) / expert_rows_;
    uint64_t n = std::min({tile, count - r, (expert + 1) * expert_rows_ - first - r});
    w.values.resize(n * cols_);
    k.to_f32(src, rows + r * source_bytes, w.values.size(), w.values.data());
    float range = 0;
    k.group_absmax(kernels::Src::f32, w.values.data(), w.values.size(), w.values.size(), &range);
    if (!std::isfinite(range)) {
      uint64_t i = 0;
      while (kernels::forward().all_finite(w.values.data() + i * cols_, cols_)) ++i;
      refuse_nonfinite(store_, t_, first + r + i);
    }
    const float* importance = importance_.empty() ? nullptr : importance_.data() + expert * cols_;
    kernel_.quantize(w.values.data(), n, cols_, importance, out + r * row_bytes_);
    if (range > kSafe) check_scales(first + r, n, out + r * row_bytes_);
    r += n;
  }
}

// Scales are F16: of large weights they overflow, and engines then compute NaN.
void BlockQuantizer::check_scales(uint64_t first, uint64_t count, const uint8_t* blocks) const {
  std::vector<float> values(cols_);
  for (uint64_t r = 0; r < count; ++r) {
    ggml_decoder(type_.id)(blocks + r * row_bytes_, cols_, values.data());
    if (kernels::forward().all_finite(values.data(), cols_)) continue;
    throw limit_error("has weights so large that a scale overflows F16, in row " + std::to_string(first + r))
        .file(store_.label())
        .tensor(t_.name)
        .hint("--ignore it, so that it stays unquantized");
  }
}

}  // namespace qp
