#include "lib/verify/numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "lib/base/error.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/rows.h"
#include "lib/tensor/minifloat.h"

namespace qp {
namespace {

constexpr uint64_t kChunk = 4 << 20;

std::string count_of(uint64_t n, const char* one, const char* many) {
  return std::to_string(n) + " " + (n == 1 ? one : many);
}

class Checker {
 public:
  Checker(const Store& store, const Tensor& t, NumberStats& stats)
      : store_(store), t_(t), stats_(stats) {}

  std::vector<Finding> run() {
    if (t_.scheme >= 0) {
      quantized();
    } else if (t_.ggml.empty() && is_float(t_.dtype)) {
      floats();
    } else if (!t_.ggml.empty()) {
      ggml();
    }
    return std::move(findings_);
  }

 private:
  void add(Severity severity, const char* rule, std::string what) {
    findings_.push_back({severity, rule, t_.name, std::move(what)});
  }

  void quantized() {
    const Scheme& s = store_.model().schemes[static_cast<size_t>(t_.scheme)];
    codes(s);
    scales(s);
    if (const Part* z = t_.part(Role::zero_point)) zero_points(*z, s);
    if (const Part* g = t_.part(Role::global_scale)) {
      float v = 0;
      std::vector<std::byte> bytes = store_.read(*g);
      std::memcpy(&v, bytes.data(), 4);
      if (!std::isfinite(v) || v <= 0) add(Severity::error, "global-scale", "its global scale is " + std::to_string(v));
    }
    for (Role role : {Role::input_scale, Role::input_global_scale}) {
      if (const Part* p = t_.part(role)) calibrated(*p);
    }
  }

  void codes(const Scheme& s) {
    const Part& p = *t_.part(Role::codes);
    int bits = s.weights.num_bits;
    size_t n = size_t{1} << bits;
    stats_.histogram.assign(n, 0);
    stats_.count = t_.shape.elements().value_or(0);
    uint64_t cols = t_.shape.cols();
    RowSource source(store_, p);
    std::mutex mutex;
    for_row_chunks(
        source, kChunk,
        [&](uint64_t, uint64_t count, std::span<const std::byte> rows) {
          std::vector<uint64_t> mine(n, 0);
          for (uint64_t i = 0; i < count; ++i) {
            kernels::active().histogram(
                reinterpret_cast<const uint8_t*>(rows.data() + i * source.row_bytes()), cols, bits,
                mine.data());
          }
          std::lock_guard lock(mutex);
          for (size_t k = 0; k < n; ++k) stats_.histogram[k] += mine[k];
        },
        nullptr);
    const auto& h = stats_.histogram;
    if (s.code_kind() == CodeKind::e4m3) {
      if (uint64_t nan = h[0x7f] + h[0xff]) {
        add(Severity::error, "nan-code", count_of(nan, "code is", "codes are") + " NaN");
      }
      stats_.saturated = h[0x7e] + h[0xfe];
    } else if (s.code_kind() == CodeKind::e2m1) {
      stats_.saturated = h[7] + h[15];
    } else {
      stats_.saturated = h.front() + h.back();
    }
    auto different = std::ranges::count_if(h, [](uint64_t c) { return c > 0; });
    if (different == 1 && stats_.count > 1) {
      add(Severity::warning, "equal-codes", "all " + std::to_string(stats_.count) + " codes are equal");
    } else if (bits >= 3 && stats_.saturated * 4 > stats_.count && stats_.count >= 256) {
      add(Severity::warning, "saturated",
          std::to_string(stats_.saturated * 100 / stats_.count) + " % of the codes are at the ends of the range");
    }
  }

  // A scale as f32, and whether its family gives zero or this byte a meaning.
  void scales(const Scheme& s) {
    const Part& p = *t_.part(Role::scale);
    std::vector<std::byte> bytes = store_.read(p);
    uint64_t n = p.shape.elements().value_or(0), bad = 0, small = 0, ones = 0;
    uint64_t first_bad = 0, first_small = 0;
    bool mx = s.scale_kind() == ScaleKind::e8m0;
    for (uint64_t i = 0; i < n; ++i) {
      float v = value(p.dtype, bytes.data(), i);
      if (!std::isfinite(v)) {
        if (bad++ == 0) first_bad = i;
        continue;
      }
      if (v <= 0 && small++ == 0) first_small = i;
      ones += v == 1.0f && !mx;
      stats_.scale_min = i == 0 ? v : std::min(stats_.scale_min, v);
      stats_.scale_max = i == 0 ? v : std::max(stats_.scale_max, v);
    }
    uint64_t per_row = std::max<uint64_t>(p.shape.cols(), 1);
    if (bad > 0) {
      add(Severity::error, "nan-scale", count_of(bad, "scale is", "scales are") +
                                            " NaN or infinite (first in row " + std::to_string(first_bad / per_row) + ")");
    }
    if (small > 0) {
      add(Severity::error, "zero-scale", count_of(small, "scale is", "scales are") +
                                             " zero or negative (first in row " + std::to_string(first_small / per_row) + ")");
    }
    if (n >= 4 && ones == n) add(Severity::warning, "unit-scale", "every scale is exactly 1.0: was it ever computed?");
  }

  float value(DType dtype, const std::byte* in, uint64_t i) const {
    float out = 0;
    switch (dtype) {
      case DType::bf16: kernels::active().to_f32(kernels::Src::bf16, in + 2 * i, 1, &out); break;
      case DType::f16: kernels::active().to_f32(kernels::Src::f16, in + 2 * i, 1, &out); break;
      case DType::f32: std::memcpy(&out, in + 4 * i, 4); break;
      case DType::f8_e4m3: out = e4m3_to_f32(std::to_integer<uint8_t>(in[i])); break;
      default: {
        int e = std::to_integer<int>(in[i]);
        out = e == 255 ? NAN : std::ldexp(1.0f, e - 127);
      }
    }
    return out;
  }

  void zero_points(const Part& p, const Scheme& s) {
    uint64_t bad = 0;
    for (std::byte b : store_.read(p)) bad += std::to_integer<int>(b) >= (1 << s.weights.num_bits);
    if (bad > 0) add(Severity::error, "zero-point", count_of(bad, "zero point is", "zero points are") + " out of range");
  }

  void calibrated(const Part& p) {
    std::vector<std::byte> bytes = store_.read(p);
    float v = value(p.dtype, bytes.data(), 0);
    std::string name(name_of(p.role));
    if (!std::isfinite(v) || v <= 0) {
      add(Severity::error, "nan-scale", "its " + name + " is " + std::to_string(v));
    } else if (v == 1.0f) {
      add(Severity::warning, "unit-scale", "its " + name + " is exactly 1.0: was it ever calibrated?");
    }
  }

  void floats() {
    RowSource source(store_, t_);
    std::mutex mutex;
    bool any = false;
    for_row_chunks(
        source, kChunk,
        [&](uint64_t first, uint64_t count, std::span<const std::byte> rows) {
          kernels::Src src = t_.dtype == DType::bf16  ? kernels::Src::bf16
                             : t_.dtype == DType::f16 ? kernels::Src::f16
                                                      : kernels::Src::f32;
          if (t_.dtype == DType::f64) return f64_rows(first, rows, mutex, any);
          uint64_t n = count * source.cols();
          float m = 0;
          kernels::active().group_absmax(src, rows.data(), n, std::max<uint64_t>(n, 1), &m);
          std::lock_guard lock(mutex);
          any = any || m != 0;
          if (!std::isfinite(m)) ++stats_.nonfinite;
          stats_.scale_max = std::max(stats_.scale_max, std::isfinite(m) ? m : 0.0f);
        },
        nullptr);
    stats_.count = t_.shape.elements().value_or(0);
    if (stats_.nonfinite > 0) add(Severity::error, "nan-weight", "holds NaN or infinite values");
    if (!any && t_.shape.rank() >= 2 && stats_.count > 1) add(Severity::warning, "all-zero", "every value is zero");
  }
  void f64_rows(uint64_t, std::span<const std::byte> rows, std::mutex& mutex, bool& any) {
    uint64_t bad = 0;
    bool nonzero = false;
    for (size_t i = 0; i + 8 <= rows.size(); i += 8) {
      double v;
      std::memcpy(&v, rows.data() + i, 8);
      bad += !std::isfinite(v);
      nonzero = nonzero || v != 0;
    }
    std::lock_guard lock(mutex);
    any = any || nonzero;
    stats_.nonfinite += bad;
  }

  void ggml() {
    RowSource source(store_, t_);
    uint64_t bad = 0;
    std::mutex mutex;
    for_row_chunks(
        source, kChunk,
        [&](uint64_t, uint64_t, std::span<const std::byte> rows) {
          float m = 0;
          uint64_t n = rows.size() / 4;
          kernels::active().group_absmax(kernels::Src::f32, rows.data(), n, std::max<uint64_t>(n, 1), &m);
          std::lock_guard lock(mutex);
          bad += !std::isfinite(m);
        },
        nullptr);
    stats_.count = t_.shape.elements().value_or(0);
    if (bad > 0) add(Severity::error, "nan-scale", "a block decodes to NaN or infinity");
  }

  const Store& store_;
  const Tensor& t_;
  NumberStats& stats_;
  std::vector<Finding> findings_;
};

}  // namespace

std::vector<Finding> check_numbers(const Store& store, const Tensor& tensor, NumberStats* stats) {
  NumberStats local;
  return Checker(store, tensor, stats ? *stats : local).run();
}

}  // namespace qp
