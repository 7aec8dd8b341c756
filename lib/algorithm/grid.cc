#include "lib/algorithm/grid.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "lib/base/checked.h"
#include "lib/base/parallel.h"
#include "lib/kernels/kernels.h"
#include "lib/kernels/source.h"

namespace qp {
namespace {

using kernels::kStrip;

constexpr int kSearchSteps = 80;  // the range goes down to a fifth
constexpr int kShrinkSteps = 20;
constexpr size_t kMomentGroup = 256;  // columns: the work grows with their square

kernels::Rounding rounding_of(const Scheme& scheme) {
  kernels::Rounding r;
  if (scheme.code_kind() == CodeKind::e4m3) r.levels = kernels::Levels::e4m3;
  if (scheme.code_kind() == CodeKind::e2m1) r.levels = kernels::Levels::e2m1;
  auto half = static_cast<float>(1 << (scheme.weights.num_bits - 1));
  r.lo = -half;
  r.hi = half - 1;
  return r;
}

bool may_be_negative(const Scheme& s) {
  const QuantArgs& w = s.weights;
  return s.code_kind() == CodeKind::integer && s.scale_kind() == ScaleKind::source && w.symmetric &&
         w.num_bits < 8 && !s.input_activations && !w.fp8_stage && !w.amax_scale &&
         (w.strategy == Strategy::group || w.strategy == Strategy::channel);
}

}  // namespace

Grid::Grid(const Scheme& scheme, DType source, size_t rows, size_t cols, float range)
    : scheme_(scheme), args_(scheme.weights), rules_(numerics::rules(scheme.numerics)),
      source_(source), rows_(rows), cols_(cols), group_(scheme.group_of(cols)),
      groups_(ceil_div(cols, group_)), rounding_(rounding_of(scheme)) {
  size_t scales = *scale_shape(args_, Shape{rows, cols}).elements();
  scale_.resize(scales);
  if (!args_.symmetric) zero_.resize(scales);
  if (scheme.scale_kind() != ScaleKind::source) small_codes_.resize(scales);
  if (scheme.scale_kind() == ScaleKind::e4m3_global) {
    second_stage_ = numerics::second_stage_of(rules_, source, range);
  }
}

void Grid::allow(ScaleSign sign) {
  either_sign_ = sign == ScaleSign::either && may_be_negative(scheme_);
}

std::string Grid::why_not(const Scheme& scheme) {
  if (!scheme.ggml.empty()) return "ggml's types have searches of their own";
  const QuantArgs& w = scheme.weights;
  if (scheme.code_kind() == CodeKind::codebook || w.strategy == Strategy::flat || w.amax_scale) {
    return "its codes are bitsandbytes' own";
  }
  if (scheme.numerics == "torchao" && !w.symmetric) return "its zero points are torchao's floats";
  if (w.fp8_stage) return "its scales stand under another one";
  if (w.strategy == Strategy::tensor && !w.symmetric) return "it has one zero point for a tensor";
  return "";
}

bool Grid::spans_rows() const {
  return args_.strategy == Strategy::tensor || args_.strategy == Strategy::block;
}

bool Grid::fixed() const { return spans_rows() || groups_ == 1; }

size_t Grid::at(size_t row, size_t g) const {
  if (args_.strategy == Strategy::tensor) return 0;
  if (args_.strategy == Strategy::block)
    return row / static_cast<size_t>(args_.block_rows) * groups_ + g;
  return row * groups_ + g;
}

void Grid::set(size_t row, size_t count, size_t g, const float* lo, const float* hi) {
  float amax[kStrip] = {}, scale[kStrip];
  uint8_t code[kStrip] = {};
  for (size_t i = 0; i < count; ++i) amax[i] = std::max(-lo[i], hi[i]);
  if (!args_.symmetric) {
    for (size_t i = 0; i < count; ++i) {
      auto sz = numerics::scale_zero_of(rules_, args_, source_, lo[i], hi[i]);
      scale_[at(row + i, g)] = sz.scale;
      zero_[at(row + i, g)] = sz.zero_point;
    }
    return;
  }
  std::span<const float> ranges(amax, count);
  const auto& k = kernels::active();
  kernels::Src src = numerics::in_f32(rules_, args_) ? kernels::Src::f32 : *kernel_source(source_);
  if (scheme_.scale_kind() == ScaleKind::source) {
    numerics::scales_of(rules_, args_, source_, ranges, scale);
  } else if (scheme_.scale_kind() == ScaleKind::e8m0) {
    int emax = args_.num_bits == 4 ? 2 : 8;
    for (float& a : amax)
      a = numerics::round_to(numerics::in_f32(rules_, args_) ? DType::f32 : source_, a);
    if (rules_.mx == numerics::MxScale::carry)
      k.mx_scales(src, amax, count, emax, code, scale);
    else
      numerics::mx_scales(rules_, ranges, emax, code, scale);
  } else if (rules_.f32) {
    numerics::nvfp4_scales(ranges, second_stage_, code, scale);
  } else {
    k.nvfp4_scales(src, amax, count, second_stage_, code, scale);
  }
  for (size_t i = 0; i < count; ++i) {
    scale_[at(row + i, g)] = either_sign_ && hi[i] > -lo[i] ? -scale[i] : scale[i];
    if (!small_codes_.empty()) small_codes_[at(row + i, g)] = code[i];
  }
}

// A scale in the dtype that scales are stored in, of ScaleKind::source.
float Grid::stored(float scale) const {
  bool f32 = numerics::in_f32(rules_, args_) && !(rules_.scale_in_source && args_.symmetric);
  return numerics::round_to(f32 ? DType::f32 : source_, scale);
}

bool Grid::free_scales() const {
  return scheme_.scale_kind() == ScaleKind::source && !spans_rows();
}

void Grid::rescale(size_t row, size_t count, size_t g, float* scale) {
  for (size_t i = 0; i < count; ++i) {
    float& now = scale_[at(row + i, g)];
    float s = stored(scale[i]);
    if (std::isfinite(s) && s != 0 && now != 0 && std::signbit(s) == std::signbit(now)) now = s;
    scale[i] = now;
  }
}

void Grid::lanes(size_t row, size_t g, float* scale, float* zero) const {
  for (size_t i = 0; i < kStrip; ++i) {
    size_t index = at(std::min(row + i, rows_ - 1), g);
    scale[i] = scale_[index];
    if (zero != nullptr) zero[i] = zero_.empty() ? 0.0f : zero_[index];
  }
}

void Grid::fit(const float* w, size_t n, size_t row, size_t count, size_t g, const float* weight,
               Fit how) {
  if (how == Fit::shrink) return shrink(w, n, row, count, g);
  float lo[kStrip], hi[kStrip];
  fit(w, n, row, count, g, weight, how, lo, hi);
}

void Grid::fit(const float* w, size_t n, size_t row, size_t count, size_t g, const float* weight,
               Fit how, float* lo, float* hi) {
  if (how == Fit::search) return search(w, n, row, count, g, weight, lo, hi);
  kernels::lanes().range(w, n, lo, hi);
  set(row, count, g, lo, hi);
}

void Grid::search(const float* w, size_t n, size_t row, size_t count, size_t g, const float* weight,
                  float* lo, float* hi) {
  search_by(
      [&](const float* scale, const float* zero, float* error) {
        kernels::lanes().error(rounding_, w, n, scale, zero, weight, error);
      },
      w, n, row, count, g, lo, hi);
}

template <class Error>
void Grid::search_by(const Error& error_of, const float* w, size_t n, size_t row, size_t count,
                     size_t g, float* lo, float* hi) {
  float scale[kStrip], zero[kStrip], error[kStrip];
  float best[kStrip] = {}, kept[kStrip] = {};
  kernels::lanes().range(w, n, lo, hi);
  for (int step = 0; step < kSearchSteps; ++step) {
    float factor = 1 - 0.01f * static_cast<float>(step), a[kStrip], b[kStrip];
    for (size_t i = 0; i < kStrip; ++i) {
      a[i] = lo[i] * factor;
      b[i] = hi[i] * factor;
    }
    set(row, count, g, a, b);
    lanes(row, g, scale, zero);
    error_of(scale, args_.symmetric ? nullptr : zero, error);
    for (size_t i = 0; i < kStrip; ++i) {
      if (step > 0 && !(error[i] < best[i])) continue;
      best[i] = error[i];
      kept[i] = factor;
    }
  }
  for (size_t i = 0; i < kStrip; ++i) {
    lo[i] *= kept[i];
    hi[i] *= kept[i];
  }
  set(row, count, g, lo, hi);
}

void Grid::shrink(const float* w, size_t n, size_t row, size_t count, size_t g) {
  float lo[kStrip], hi[kStrip], scale[kStrip], zero[kStrip], num[kStrip], den[kStrip],
      error[kStrip];
  float best_scale[kStrip], best_zero[kStrip], best[kStrip];
  kernels::lanes().range(w, n, lo, hi);
  set(row, count, g, lo, hi);
  std::fill_n(best, kStrip, std::numeric_limits<float>::infinity());
  lanes(row, g, scale, zero);
  std::copy_n(scale, kStrip, best_scale);  // stays where no error is finite: overflow() sees it
  std::copy_n(zero, kStrip, best_zero);
  float beta = 10;
  for (int step = 0; step < kShrinkSteps; ++step, beta *= 1.01f) {
    bool better = false;
    kernels::lanes().shrink(rounding_, w, n, scale, zero, beta, !args_.symmetric, num, den, error);
    for (size_t i = 0; i < count; ++i) {
      if (!(error[i] < best[i])) continue;
      better = true;
      best[i] = error[i];
      best_scale[i] = scale[i];
      best_zero[i] = zero[i];
    }
    if (!better) break;
    for (size_t i = 0; i < count; ++i) {
      if (!args_.symmetric) {
        zero[i] =
            std::clamp(std::nearbyint(num[i] / static_cast<float>(n)), rounding_.lo, rounding_.hi);
      } else if (den[i] > 0 && num[i] * scale[i] > 0) {
        scale[i] = stored(num[i] / den[i]);
      }
    }
  }
  for (size_t i = 0; i < count; ++i) {
    scale_[at(row + i, g)] = best_scale[i];
    if (!zero_.empty()) zero_[at(row + i, g)] = best_zero[i];
  }
}

// Squared error of a block of rows under the scale that it has now.
float Grid::block_error(const float* w, size_t cols, size_t n, size_t count, size_t row,
                        size_t g) const {
  const kernels::LaneTable& k = kernels::lanes();
  std::vector<float> strip(n * kStrip);
  float scale[kStrip], error[kStrip];
  double sum = 0;
  lanes(row, g, scale, nullptr);
  std::fill_n(scale, kStrip, scale[0]);
  for (size_t r = 0; r < count; r += kStrip) {
    k.to_strip(w + r * cols, cols, std::min(kStrip, count - r), n, strip.data());
    k.error(rounding_, strip.data(), n, scale, nullptr, nullptr, error);
    for (float e : error) sum += static_cast<double>(e);
  }
  return static_cast<float>(sum);
}

void Grid::fit_blocks(const float* w, size_t first, size_t count, Fit how) {
  size_t height = rows_unit(), width = args_.strategy == Strategy::tensor ? cols_ : group_;
  float zero = 0;
  for (size_t row = 0; row < count; row += height) {
    size_t end = std::min(count, row + height);
    for (size_t g = 0; g * width < cols_; ++g) {
      size_t begin = g * width, n = std::min(width, cols_ - begin);
      float amax = 0, best = 0, kept = 1;
      for (size_t r = row; r < end; ++r) {
        for (size_t c = begin; c < begin + n; ++c)
          amax = std::max(amax, std::fabs(w[r * cols_ + c]));
      }
      for (int step = 0; how == Fit::search && step < kSearchSteps; ++step) {
        float factor = 1 - 0.01f * static_cast<float>(step), range = amax * factor;
        set(first + row, 1, g, &zero, &range);
        float error = block_error(w + row * cols_ + begin, cols_, n, end - row, first + row, g);
        if (step > 0 && !(error < best)) continue;
        best = error;
        kept = factor;
      }
      amax *= kept;
      set(first + row, 1, g, &zero, &amax);
    }
  }
}

void Grid::fit_by_moments(const float* w, const float* h) {
  if (spans_rows() || group_ > kMomentGroup) {
    std::vector<float> diagonal(cols_);
    for (size_t c = 0; c < cols_; ++c) diagonal[c] = h[c * cols_ + c];
    return fit_all(w, diagonal, Fit::search);
  }
  std::vector<std::vector<float>> rooms(static_cast<size_t>(threads()));
  parallel_for(ceil_div(rows_, kStrip), [&](size_t s, int worker) {
    std::vector<float>& room = rooms[static_cast<size_t>(worker)];
    room.resize(2 * group_ * kStrip);
    size_t row = s * kStrip, count = std::min(kStrip, rows_ - row);
    float *strip = room.data(), *rest = strip + group_ * kStrip;
    for (size_t g = 0; g < groups_; ++g) {
      size_t begin = g * group_, n = std::min(group_, cols_ - begin);
      kernels::lanes().to_strip(w + row * cols_ + begin, cols_, count, n, strip);
      float lo[kStrip], hi[kStrip];
      search_by(
          [&](const float* scale, const float* zero, float* error) {
            kernels::lanes().quadratic(rounding_, strip, n, scale, zero, h + begin * cols_ + begin,
                                       cols_, rest, error);
          },
          strip, n, row, count, g, lo, hi);
    }
  });
}

size_t Grid::rows_unit() const {
  if (args_.strategy == Strategy::tensor) return rows_;
  return args_.strategy == Strategy::block ? static_cast<size_t>(args_.block_rows) : kStrip;
}

void Grid::fit_rows(const float* w, size_t first, size_t count, std::span<const float> weight,
                    Fit how, std::vector<float>& room) {
  if (spans_rows()) return fit_blocks(w, first, count, how);
  room.resize(group_ * kStrip);
  for (size_t r = 0; r < count; r += kStrip) {
    size_t lanes = std::min(kStrip, count - r);
    for (size_t g = 0; g < groups_; ++g) {
      size_t begin = g * group_, n = std::min(group_, cols_ - begin);
      kernels::lanes().to_strip(w + r * cols_ + begin, cols_, lanes, n, room.data());
      fit(room.data(), n, first + r, lanes, g, weight.empty() ? nullptr : &weight[begin], how);
    }
  }
}

void Grid::round_rows(const float* w, size_t first, size_t count, float* q,
                      std::vector<float>& room) const {
  room.resize(2 * group_ * kStrip);
  float *strip = room.data(), *out = strip + group_ * kStrip, scale[kStrip], zero[kStrip];
  for (size_t r = 0; r < count; r += kStrip) {
    size_t rows = std::min(kStrip, count - r);
    for (size_t g = 0; g < groups_; ++g) {
      size_t at = r * cols_ + g * group_, n = std::min(group_, cols_ - g * group_);
      kernels::lanes().to_strip(w + at, cols_, rows, n, strip);
      lanes(first + r, g, scale, zero);
      kernels::lanes().round(rounding_, strip, n, scale, zero, out);
      kernels::lanes().from_strip(out, rows, n, q + at, cols_);
    }
  }
}

void Grid::fit_all(const float* w, std::span<const float> weight, Fit how) {
  std::vector<std::vector<float>> room(static_cast<size_t>(threads()));
  size_t unit = rows_unit();
  parallel_for(ceil_div(rows_, unit), [&](size_t i, int worker) {
    size_t row = i * unit;
    fit_rows(w + row * cols_, row, std::min(unit, rows_ - row), weight, how,
             room[static_cast<size_t>(worker)]);
  });
}

void Grid::round_all(const float* w, float* q) const {
  std::vector<std::vector<float>> room(static_cast<size_t>(threads()));
  parallel_for(ceil_div(rows_, kStrip), [&](size_t i, int worker) {
    size_t row = i * kStrip;
    round_rows(w + row * cols_, row, std::min(kStrip, rows_ - row), q + row * cols_,
               room[static_cast<size_t>(worker)]);
  });
}

std::optional<size_t> Grid::overflow() const {
  for (size_t i = 0; i < scale_.size(); ++i) {
    if (!std::isfinite(scale_[i])) return i * rows_ / scale_.size();
  }
  return std::nullopt;
}

size_t Grid::code_bytes() const { return ceil_div(cols_ * static_cast<size_t>(args_.num_bits), 8); }

// Quotients are exact codes: a scale of 1 encodes them.
void Grid::encode(const float* q, size_t count, uint8_t* codes) const {
  const auto& k = kernels::active();
  float one = 1;
  for (size_t r = 0; r < count; ++r, q += cols_, codes += code_bytes()) {
    switch (rounding_.levels) {
      case kernels::Levels::integer:
        k.int_codes(kernels::Src::f32, q, cols_, cols_, &one, nullptr, args_.num_bits, codes);
        break;
      case kernels::Levels::e4m3:
        k.e4m3_codes(kernels::Src::f32, q, cols_, cols_, &one, rules_.drop_negative_zero, codes);
        break;
      case kernels::Levels::e2m1:
        k.e2m1_codes(kernels::Src::f32, q, cols_, cols_, &one, false, codes);
        break;
    }
  }
}

void Grid::values(const float* q, size_t row, float* out) const {
  for (size_t c = 0; c < cols_; ++c) {
    size_t index = at(row, group_of(c));
    out[c] = (q[c] - (zero_.empty() ? 0.0f : zero_[index])) * scale_[index];
  }
}

SmallParts Grid::finish() const {
  SmallParts parts =
      encode_small_parts(scheme_, rules_, source_, scale_, zero_, small_codes_, second_stage_);
  if (!g_idx_.empty()) {
    auto bytes = std::as_bytes(std::span(g_idx_));
    parts.others.emplace_back(Role::g_idx, std::vector<std::byte>(bytes.begin(), bytes.end()));
  }
  return parts;
}

}  // namespace qp
