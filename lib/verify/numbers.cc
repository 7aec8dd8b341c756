#include "lib/verify/numbers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>

#include "lib/base/error.h"
#include "lib/kernels/kernels.h"
#include "lib/kernels/source.h"
#include "lib/tensor/ggml_type.h"
#include "lib/tensor/minifloat.h"
#include "lib/verify/ggml_blocks.h"

namespace qp {
namespace {

constexpr uint64_t kChunk = 4 << 20;

// Rules whose findings rows that were not read could add to, or undo. Scales are read whole, but in
// blocks of ggml.
bool depends_on_rows(std::string_view rule) {
  static constexpr std::string_view kRules[] = {"nan-code", "equal-codes", "narrow-codes", "saturated", "nan-weight", "all-zero", "nan-scale"};
  return std::ranges::find(kRules, rule) != std::end(kRules);
}

std::string count_of(uint64_t n, const char* one, const char* many) {
  return std::to_string(n) + " " + (n == 1 ? one : many);
}

class Checker {
 public:
  Checker(const Store& store, const Tensor& t, NumberStats& stats, const Sampling& sampling)
      : store_(store), t_(t), stats_(stats), sampling_(sampling) {}

  std::vector<Finding> run() {
    if (t_.scheme >= 0) {
      quantized();
    } else if (t_.ggml.empty() && is_float(t_.dtype)) {
      floats();
    } else if (!t_.ggml.empty()) {
      ggml();
    } else if (t_.dtype == DType::f8_e4m3 || t_.dtype == DType::f8_e5m2) {
      bytes();
    }
    return std::move(findings_);
  }
  // Whether rows that were left out could change what was found.
  bool sampled() const { return sampled_; }

 private:
  RowSample sample_of(const RowSource& source, uint64_t cols) {
    RowSample sample(sampling_, t_.name, source.rows(), cols);
    sampled_ = sampled_ || !sample.whole();
    return sample;
  }
  void add(Severity severity, const char* rule, std::string what, const char* hint = "") {
    findings_.push_back({severity, rule, t_.name, std::move(what), hint});
  }

  void quantized() {
    const Scheme& s = store_.model().schemes[static_cast<size_t>(t_.scheme)];
    codes(s);
    scales(s);
    if (const Part* z = t_.part(Role::zero_point)) zero_points(*z, s);
    if (const Part* g = t_.part(Role::global_scale)) {
      std::vector<float> values = floats_of(*g);
      float v = values.empty() ? NAN : values.front();
      if (!std::isfinite(v) || v <= 0) add(Severity::error, "global-scale", "its global scale is " + std::to_string(v));
    }
    if (const Part* p = t_.part(Role::scale_2)) {
      for (float v : floats_of(*p)) {
        if (std::isfinite(v) && v >= 0) continue;
        add(Severity::error, "global-scale", "its second scale is " + std::to_string(v), "quantize the tensor again");
        break;
      }
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
    uint64_t cols = t_.coded_shape().cols();
    RowSource source(store_, p);
    RowSample sample = sample_of(source, cols);
    stats_.count = sample.rows() * cols;
    std::mutex mutex;
    for_sampled_rows(
        source, sample, kChunk,
        [&](const RowChunk& c) {
          std::vector<uint64_t> mine(n, 0);
          // Rows without unused bits are one row: a histogram has a price per call.
          bool dense = cols * static_cast<uint64_t>(bits) == source.row_bytes() * 8;
          uint64_t calls = dense ? 1 : c.count, each = dense ? c.count * cols : cols;
          for (uint64_t i = 0; i < calls; ++i) {
            kernels::active().histogram(
                reinterpret_cast<const uint8_t*>(c.rows.data() + i * source.row_bytes()), each, bits,
                mine.data());
          }
          std::lock_guard lock(mutex);
          for (size_t k = 0; k < n; ++k) stats_.histogram[k] += mine[k];
        });
    const auto& h = stats_.histogram;
    if (s.code_kind() == CodeKind::e4m3) {
      if (uint64_t nan = h[0x7f] + h[0xff]) {
        add(Severity::error, "nan-code", count_of(nan, "code is", "codes are") + " NaN",
            "quantize the tensor again");
      }
      stats_.saturated = h[0x7e] + h[0xfe];
    } else if (s.code_kind() == CodeKind::e2m1) {
      stats_.saturated = h[7] + h[15];
    } else {
      stats_.saturated = h.front() + h.back();
    }
    auto different = std::ranges::count_if(h, [](uint64_t c) { return c > 0; });
    if (different == 1 && stats_.count > 1) {
      add(Severity::warning, "equal-codes", "all " + std::to_string(stats_.count) + " codes are equal",
          "was the tensor ever written?");
    } else if (bits >= 3 && stats_.saturated * 4 > stats_.count && stats_.count >= 256) {
      add(Severity::warning, "saturated",
          std::to_string(stats_.saturated * 100 / stats_.count) + " % of the codes are at the ends of the range",
          "its scales are too small");
    } else if (bits == 8 && s.code_kind() == CodeKind::integer && stats_.count >= 1024 && is_narrow(h)) {
      add(Severity::warning, "narrow-codes", "its codes of 8 bits all lie between -8 and 7",
          "does the config's number of bits lie? engines choose kernels by it");
    }
  }
  // Scales by the largest value use the whole range.
  static bool is_narrow(const std::vector<uint64_t>& h) {
    auto none = [](uint64_t n) { return n == 0; };
    return std::all_of(h.begin(), h.begin() + 120, none) && std::all_of(h.begin() + 136, h.end(), none);
  }

  void scales(const Scheme& s) {
    if (s.weights.nested_scale) return;  // codes
    const Part& p = *t_.part(Role::scale);
    std::vector<float> values = floats_of(p);
    bool zero_is_meant = s.weights.amax_scale || s.code_kind() == CodeKind::codebook;  // a range of zeros
    uint64_t bad = 0, small = 0, tiny = 0, ones = 0, first_bad = 0, first_small = 0, first_tiny = 0;
    uint64_t negative = 0, first_negative = 0;
    std::vector<uint64_t> zeros;
    bool mx = s.scale_kind() == ScaleKind::e8m0, seen = false;
    // Below this the stored dtype is subnormal. The 8-bit scales define their whole range.
    float normal = p.dtype == DType::f16                                 ? 0x1p-14f
                   : p.dtype == DType::bf16 || p.dtype == DType::f32 ? 0x1p-126f
                                                                         : 0.0f;
    for (uint64_t i = 0; i < values.size(); ++i) {
      float v = values[i];
      if (!std::isfinite(v)) {
        if (bad++ == 0) first_bad = i;
        continue;
      }
      if (v == 0 && zero_is_meant) {
        zeros.push_back(i);
        continue;
      }
      // Symmetric ranges are full by negative scales: auto-round's and ours.
      if (v < 0 && s.code_kind() == CodeKind::integer) {
        if (negative++ == 0) first_negative = i;
      } else if (v <= 0) {
        if (small++ == 0) first_small = i;
      } else if (std::fabs(v) < normal) {
        if (tiny++ == 0) first_tiny = i;
      }
      ones += v == 1.0f && !mx;
      stats_.scale_min = seen ? std::min(stats_.scale_min, v) : v;
      stats_.scale_max = seen ? std::max(stats_.scale_max, v) : v;
      seen = true;
    }
    uint64_t per_row = std::max<uint64_t>(p.shape.cols(), 1);
    auto where = [&](uint64_t i) { return " (first in row " + std::to_string(i / per_row) + ")"; };
    // Where the largest weight of each group decides (lib/algorithm/scale_sign.h) about half are.
    bool never = s.numerics == "compressed-tensors" && s.weights.num_bits == 8;
    if (negative > 0 && (never || negative < values.size() / 20)) {
      add(Severity::warning, "negative-scale",
          count_of(negative, "scale is", "scales are") + " negative, of " +
              std::to_string(values.size()) + where(first_negative),
          "damage, unless auto-round made it");
    }
    if (bad > 0) {
      add(Severity::error, "nan-scale",
          count_of(bad, "scale is", "scales are") + " NaN or infinite" + where(first_bad),
          "quantize the tensor again");
    }
    if (small > 0) {
      add(Severity::error, "zero-scale",
          count_of(small, "scale is", "scales are") + " zero or negative" + where(first_small),
          "quantize the tensor again");
    }
    if (uint64_t lost = blocks_that_differ(zeros, values.size(), s); lost > 0) {
      add(Severity::error, "zero-scale",
          count_of(lost, "scale is", "scales are") + " zero, but the codes under it are not all alike",
          "quantize the tensor again");
    }
    if (tiny > 0) {
      add(Severity::warning, "tiny-scale",
          count_of(tiny, "scale is", "scales are") + " subnormal in " +
              std::string(dtype_name(p.dtype)) + where(first_tiny),
          "engines that flush subnormal numbers read zero; store the scales in BF16 or F32");
    }
    if (values.size() >= 4 && ones == values.size()) {
      add(Severity::warning, "unit-scale", "every scale is exactly 1.0",
          "was it ever computed? quantize the tensor again");
    }
  }

  // Of scales that are zero, those whose block was none of zeros: its codes differ. Blocks of bitsandbytes
  // lie one after another.
  uint64_t blocks_that_differ(const std::vector<uint64_t>& zeros, uint64_t scales, const Scheme& s) const {
    if (zeros.empty()) return 0;
    std::vector<std::byte> codes = store_.read(*t_.part(Role::codes));
    bool flat = s.weights.strategy == Strategy::flat;  // the last block may be short
    if (!flat && codes.size() % scales != 0) return 0;
    uint64_t size = flat ? static_cast<uint64_t>(s.weights.group_size * s.weights.num_bits) / 8
                         : codes.size() / scales;
    return static_cast<uint64_t>(std::ranges::count_if(zeros, [&](uint64_t i) {
      if (size == 0 || i * size >= codes.size()) return false;
      auto block = std::span(codes).subspan(i * size, std::min(size, codes.size() - i * size));
      std::byte first = block[0], low = first & std::byte{15};
      bool halves = s.weights.num_bits != 4 || (first >> 4) == low;
      return !halves || std::ranges::any_of(block, [&](std::byte b) { return b != first; });
    }));
  }

  // Small float parts (scales) as f32; an E8M0 of 255 is NaN.
  std::vector<float> floats_of(const Part& p) const {
    std::vector<std::byte> bytes = store_.read(p);
    std::vector<float> out(p.shape.elements().value_or(0));
    switch (p.dtype) {
      case DType::bf16: kernels::active().to_f32(kernels::Src::bf16, bytes.data(), out.size(), out.data()); break;
      case DType::f16: kernels::active().to_f32(kernels::Src::f16, bytes.data(), out.size(), out.data()); break;
      case DType::f32: std::memcpy(out.data(), bytes.data(), out.size() * 4); break;
      case DType::f8_e4m3:
        for (size_t i = 0; i < out.size(); ++i) out[i] = e4m3_to_f32(std::to_integer<uint8_t>(bytes[i]));
        break;
      default:
        for (size_t i = 0; i < out.size(); ++i) {
          auto e = std::to_integer<uint8_t>(bytes[i]);
          out[i] = e == 255 ? NAN : e8m0_to_f32(e);
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
    std::string name(name_of(p.role));
    std::vector<float> values = floats_of(p);
    auto bad = std::ranges::find_if(values, [](float v) { return !std::isfinite(v) || v <= 0; });
    if (bad != values.end()) {
      add(Severity::error, "nan-scale", "its " + name + " is " + std::to_string(*bad), "calibrate again");
    } else if (!values.empty() && std::ranges::all_of(values, [](float v) { return v == 1.0f; })) {
      add(Severity::warning, "unit-scale", "its " + name + " is exactly 1.0", "was it ever calibrated?");
    }
  }

  void floats() {
    RowSource source(store_, t_);
    bool any = false;
    float largest = 0;
    uint64_t first_bad = ~uint64_t{0};
    std::mutex mutex;
    kernels::Src src = kernel_source(t_.dtype).value_or(kernels::Src::f32);  // F64 has a way of its own
    RowSample sample = sample_of(source, source.cols());
    for_sampled_rows(
        source, sample, kChunk,
        [&](const RowChunk& c) {
          if (t_.dtype == DType::f64) return f64_rows(c.first, c.rows, mutex, any);
          uint64_t n = c.count * source.cols();
          float m = 0;
          kernels::active().group_absmax(src, c.rows.data(), n, std::max<uint64_t>(n, 1), &m);
          uint64_t bad = 0, row = 0;
          if (!std::isfinite(m)) bad = nonfinite(src, c.rows, source, row);
          std::lock_guard lock(mutex);
          any = any || m != 0;
          stats_.nonfinite += bad;
          if (bad > 0) first_bad = std::min(first_bad, c.first + row);
          if (std::isfinite(m)) largest = std::max(largest, m);
        });
    stats_.scale_max = largest;
    stats_.count = sample.rows() * source.cols();
    if (stats_.nonfinite > 0) {
      std::string where = first_bad == ~uint64_t{0} ? "" : " (first in row " + std::to_string(first_bad) + ")";
      add(Severity::error, "nan-weight",
          count_of(stats_.nonfinite, "value is", "values are") + " NaN or infinite" + where,
          "fetch or make the tensor again");
    }
    if (!any && t_.shape.rank() >= 2 && stats_.count > 1) {
      add(Severity::warning, "all-zero", "every value is zero", "was it ever written?");
    }
  }
  // NaN and infinite elements of some rows, and the first row that has one. Only for bad chunks.
  static uint64_t nonfinite(kernels::Src src, std::span<const std::byte> rows, const RowSource& source,
                            uint64_t& first_row) {
    std::vector<float> row(source.cols());
    uint64_t bad = 0;
    for (size_t at = 0; at + source.row_bytes() <= rows.size(); at += source.row_bytes()) {
      kernels::active().to_f32(src, rows.data() + at, row.size(), row.data());
      auto here = std::ranges::count_if(row, [](float v) { return !std::isfinite(v); });
      if (bad == 0 && here > 0) first_row = at / source.row_bytes();
      bad += static_cast<uint64_t>(here);
    }
    return bad;
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

  // Blocks as they are stored: nothing is decoded.
  void ggml() {
    stats_.count = t_.shape.elements().value_or(0);
    const Part* blocks = t_.part(Role::blocks);
    const GgmlType* type = ggml_type(t_.ggml);
    if (blocks == nullptr || type == nullptr || !has_block_scales(t_.ggml)) return;
    RowSource source(store_, *blocks);
    RowSample sample = sample_of(source, t_.shape.cols());
    stats_.count = sample.rows() * t_.shape.cols();
    uint64_t per_row = std::max<uint64_t>(source.row_bytes() / type->bytes, 1);
    uint64_t bad = 0, first_bad = ~uint64_t{0};
    bool any = false;
    std::mutex mutex;
    for_sampled_rows(
        source, sample, kChunk,
        [&](const RowChunk& c) {
          BlockScales found = check_block_scales(t_.ggml, c.rows);
          std::lock_guard lock(mutex);
          any = any || found.any;
          bad += found.bad;
          if (found.bad > 0) first_bad = std::min(first_bad, c.first * per_row + found.first_bad);
        });
    if (bad > 0) {
      add(Severity::error, "nan-scale",
          count_of(bad, "block has", "blocks have") + " a NaN or infinite scale (first in row " +
              std::to_string(first_bad / per_row) + ", block " + std::to_string(first_bad % per_row) + ")",
          "fetch or make the tensor again");
    }
    if (!any && stats_.count > 1) {
      add(Severity::warning, "all-zero", "every scale is zero, and so is every value", "was it ever written?");
    }
  }

  // FP8 bytes without a scheme: no scale gives them a value, but NaN is NaN.
  void bytes() {
    RowSource source(store_, t_);
    std::vector<uint64_t> h(256, 0);
    std::mutex mutex;
    RowSample sample = sample_of(source, source.cols());
    for_sampled_rows(
        source, sample, kChunk,
        [&](const RowChunk& c) {
          std::vector<uint64_t> mine(256, 0);
          kernels::active().histogram(reinterpret_cast<const uint8_t*>(c.rows.data()), c.rows.size(), 8, mine.data());
          std::lock_guard lock(mutex);
          for (size_t k = 0; k < 256; ++k) h[k] += mine[k];
        });
    stats_.count = sample.rows() * source.cols();
    uint64_t first = t_.dtype == DType::f8_e4m3 ? 0x7f : 0x7c, bad = 0;
    for (uint64_t k = first; k < 128; ++k) bad += h[k] + h[k + 128];
    if (bad > 0) add(Severity::error, "nan-code", count_of(bad, "code is", "codes are") + " NaN or infinite");
  }

  const Store& store_;
  const Tensor& t_;
  NumberStats& stats_;
  const Sampling& sampling_;
  bool sampled_ = false;
  std::vector<Finding> findings_;
};

}  // namespace

std::string_view name_of(Severity s) {
  return s == Severity::error ? "error" : s == Severity::warning ? "warning" : "note";
}

std::vector<Finding> check_numbers(const Store& store, const Tensor& tensor, NumberStats* stats,
                                   const Sampling& sampling) {
  NumberStats local;
  NumberStats& out = stats ? *stats : local;
  Checker checker(store, tensor, out, sampling);
  std::vector<Finding> findings = checker.run();
  bool of_rows = std::ranges::any_of(findings, [](const Finding& f) { return depends_on_rows(f.rule); });
  if (!of_rows || !checker.sampled()) return findings;
  const Sampling whole;
  out = {};
  return Checker(store, tensor, out, whole).run();
}

}  // namespace qp
