// Reading: tensors as stored become the canonical form; nothing is copied, decoding is by row.
#include <cstring>

#include "formats/compressed_tensors/compressed_tensors.h"
#include "formats/compressed_tensors/targets.h"
#include "formats/hf/modules.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"

namespace qp::ct {
namespace {

constexpr std::string_view kRoot[] = {"weight_packed", "weight"};
constexpr std::string_view kParts[] = {"weight_scale", "weight_shape", "weight_zero_point", "weight_global_scale"};

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options)
      : m_(model), options_(options), groups_(read_groups(config)), targets_(groups_) {
    for (const ConfigGroup& g : groups_) m_.schemes.push_back(g.scheme);
  }

  void run() {
    assemble(m_, {kRoot, kParts}, [this](const RawModule& m) { return build(m); });
    m_.format = options_.dequantize ? "safetensors" : "compressed-tensors";
  }

 private:
  Tensor build(const RawModule& m) {
    if (!m.has("weight_scale")) {
      if (m.has("weight_packed")) m.fail("has no weight_scale");
      return {};
    }
    const ConfigGroup& g = group_of(m);
    const Scheme& s = g.scheme;
    bool packed = format_of(s).find("pack") != std::string_view::npos;
    if (m.has("weight_packed") != packed) {
      m.fail("does not fit format " + g.format + " (expected " + (packed ? "weight_packed" : "weight") + ")");
    }
    Tensor t;
    t.scheme = static_cast<int32_t>(&g - groups_.data()) + static_cast<int32_t>(m_.schemes.size() - groups_.size());
    const Tensor& scale = m.at("weight_scale");
    t.dtype = s.scale_kind() == ScaleKind::source && is_float(scale.dtype) ? scale.dtype : model_dtype(m_);
    set_codes(t, s, m);
    for (const PartSpec& spec : part_specs(s, t.shape, t.dtype)) {
      if (spec.role == Role::scale) t.parts.push_back(scale_part(m, s, spec));
      if (spec.role == Role::zero_point) t.parts.push_back(zero_point(m, s, spec));
      if (spec.role == Role::global_scale) {
        t.parts.push_back(m.float_part("weight_global_scale", Role::global_scale, spec.shape));
      }
    }
    finish_quantized(t, options_, g.format);
    return t;
  }

  const ConfigGroup& group_of(const RawModule& m) {
    const Tensor& w = m.has("weight") ? m.at("weight") : m.at("weight_packed");
    ModuleInfo info = classify(m.name + ".weight", DType::bf16, w.shape, m_.config);
    auto found = targets_.find(m.name, info);
    if (!found) m.fail("has a weight_scale but no group of quantization_config targets it");
    return groups_[*found];
  }

  void set_codes(Tensor& t, const Scheme& s, const RawModule& m) {
    std::string_view root = m.has("weight") ? "weight" : "weight_packed";
    const Tensor& raw = m.at(root);
    if (raw.shape.rank() != 2) m.fail("its " + std::string(root) + " is no matrix");
    uint64_t rows = raw.shape[0], cols = raw.shape[1];
    int bits = s.weights.num_bits;
    Part p = raw.parts.front();
    if (format_of(s) == "pack-quantized") {
      cols = packed_cols(m, rows, cols, static_cast<uint64_t>(bits));
      p = m.laid_out(root, Role::codes, DType::i32, raw.shape, words_layout,
                     {.rows = rows, .cols = cols, .bits = bits, .stored_bits = bits});
      if (p.shape[1] % 4 == 0) p.decode = nullptr;  // no padding: rows as they are
    } else if (format_of(s) == "int-quantized") {
      if (bits != 8) m.fail("has " + std::to_string(bits) + "-bit codes in int-quantized, which this version does not read");
      p = m.laid_out(root, Role::codes, DType::i8, raw.shape, dense_layout,
                     {.rows = rows, .cols = cols, .is_signed = true});
    } else {
      DType stored = root == "weight" ? DType::f8_e4m3 : DType::u8;
      p = m.part(root, Role::codes, stored, raw.shape);
      if (root == "weight_packed") cols *= 2;
    }
    t.shape = Shape{rows, cols};
    p.role = Role::codes;
    p.dtype = DType::u8;
    p.shape = Shape{rows, ceil_div(cols * static_cast<uint64_t>(bits), 8)};
    t.parts.push_back(std::move(p));
  }

  // weight_shape tells the true width.
  uint64_t packed_cols(const RawModule& m, uint64_t rows, uint64_t words, uint64_t bits) {
    m.part("weight_shape", Role::data, DType::i64, Shape{2});
    std::vector<std::byte> bytes = read_small(m_, m, "weight_shape", 16);
    uint64_t shape[2];
    std::memcpy(shape, bytes.data(), 16);
    if (shape[0] != rows || shape[1] > (uint64_t{1} << 40) || ceil_div(shape[1] * bits, 32) != words) {
      m.fail("its weight_shape [" + std::to_string(shape[0]) + ", " + std::to_string(shape[1]) +
             "] does not fit weight_packed [" + std::to_string(rows) + ", " + std::to_string(words) + "]");
    }
    return shape[1];
  }

  Part scale_part(const RawModule& m, const Scheme& s, const PartSpec& spec) {
    if (s.scale_kind() == ScaleKind::source) return m.float_part("weight_scale", Role::scale, spec.shape);
    const Tensor& raw = m.at("weight_scale");
    bool byte = raw.dtype == spec.dtype || (spec.dtype == DType::f8_e8m0 && raw.dtype == DType::u8);
    Part p = m.part("weight_scale", Role::scale, byte ? raw.dtype : spec.dtype, spec.shape);
    p.dtype = spec.dtype;
    return p;
  }

  Part zero_point(const RawModule& m, const Scheme& s, const PartSpec& spec) {
    uint64_t rows = spec.shape.rows(), cols = spec.shape.cols();
    auto bits = static_cast<uint64_t>(s.weights.num_bits);
    return m.laid_out("weight_zero_point", Role::zero_point, DType::i32, Shape{ceil_div(rows * bits, 32), cols},
                      packed_rows_layout, {.rows = rows, .cols = cols, .stored_bits = s.weights.num_bits});
  }

  Model& m_;
  const LoadOptions& options_;
  std::vector<ConfigGroup> groups_;
  Targets targets_;
};

}  // namespace

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  Adopter(model, config, options).run();
}

}  // namespace qp::ct
