// Reading: what the description says of each tensor, in the canonical form. What the NPU's kernels
// need besides (deq_scale, quant_bias, scale_bias) follows from it and is made again on writing.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <set>

#include "formats/hf/modules.h"
#include "formats/modelslim/modelslim.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/tensor/minifloat.h"

namespace qp::modelslim {
namespace {

constexpr std::string_view kRoot[] = {"weight"};
constexpr std::string_view kParts[] = {"weight_scale", "weight_offset", "quant_bias", "input_scale",
                                       "input_offset", "deq_scale",     "scale_bias"};

class Adopter {
 public:
  Adopter(Model& model, const Json& description, const LoadOptions& options)
      : m_(model), description_(description), options_(options) {
    if (!description.is_object())
      throw input_error("quant_model_description.json is no JSON object");
    for (const char* key : {"kv_quant_type", "kv_cache_type", "fa_quant_type"}) {
      if (!json_string(description, key, "").empty()) {
        throw limit_error("quant_model_description.json quantizes the KV cache or attention (" +
                          std::string(key) + "), with scales that qpipe cannot hold");
      }
    }
  }

  void run() {
    std::set<std::string_view> names;
    for (const Tensor& t : m_.tensors) names.insert(t.name);
    for (const auto& [name, label] : description_.items()) {
      bool weight = label.is_string() && name.ends_with(".weight");
      if (weight) labels_[name] = label.get<std::string>();
      if (weight && !names.contains(name))
        throw input_error("is in quant_model_description.json, but not in the weights")
            .tensor(name);
    }
    assemble(m_, {kRoot, kParts}, [this](const RawModule& m) { return build(m); });
    for (const Tensor& t : m_.tensors) {
      auto dot = t.name.rfind('.');
      std::string_view last =
          std::string_view(t.name).substr(dot == std::string::npos ? 0 : dot + 1);
      if (std::ranges::find(kParts, last) != std::end(kParts))
        throw input_error("belongs to no quantized weight").tensor(t.name);
    }
    m_.format = options_.dequantize ? "safetensors" : "modelslim";
  }

 private:
  Tensor build(const RawModule& m) {
    auto it = labels_.find(m.name + ".weight");
    std::string name = it == labels_.end() ? "" : it->second;
    const Tensor& raw = m.at("weight");
    if (name.empty()) {
      if (raw.dtype == DType::i8 || raw.dtype == DType::u8)
        m.fail("is not in quant_model_description.json");
      return {};
    }
    if (name == "FLOAT") {
      if (!is_float(raw.dtype))
        m.fail("is FLOAT by quant_model_description.json, but its weight is " +
               std::string(dtype_name(raw.dtype)));
      return {};
    }
    const Label* label = find_label(name);
    if (label == nullptr) {
      throw limit_error("is " + printable(name) +
                        " (quant_model_description.json), which qpipe cannot read")
          .hint(
              "expected FLOAT, W8A8, W8A8_DYNAMIC, W8A16, W4A8_DYNAMIC, W4A4_DYNAMIC, "
              "WFP8AFP8_DYNAMIC or an MXFP label");
    }
    if (raw.shape.rank() != 2) m.fail("its weight is no matrix");
    Tensor t;
    t.dtype = model_dtype(m_);
    codes(m, *label, t);
    Scheme s = scales(m, *label, t);
    t.scheme = m_.scheme_index(s);
    finish_quantized(t, options_, name);
    return t;
  }

  void codes(const RawModule& m, const Label& l, Tensor& t) {
    Shape shape = m.at("weight").shape;
    LayoutArgs a{.rows = shape[0], .cols = shape[1]};
    switch (l.codes) {
      case Codes::bytes8:
        a.is_signed = true;
        t.parts.push_back(m.laid_out("weight", Role::codes, DType::i8, shape, dense_layout, a));
        break;
      case Codes::bytes4:
        a.bits = 4;
        a.is_signed = true;
        t.parts.push_back(m.laid_out("weight", Role::codes, DType::i8, shape, bytes_layout, a));
        break;
      case Codes::pairs4:
        a = {
            .rows = shape[0] * 2, .cols = shape[1], .bits = 4, .stored_bits = 4, .is_signed = true};
        t.parts.push_back(m.laid_out("weight", Role::codes, DType::i8, shape, row_pairs_layout, a));
        break;
      case Codes::fp8:
      case Codes::fp4: {
        Part p = m.part("weight", Role::codes, l.codes == Codes::fp8 ? DType::f8_e4m3 : DType::u8,
                        shape);
        p.dtype = DType::u8;
        t.parts.push_back(std::move(p));
        if (l.codes == Codes::fp4) a.cols *= 2;
        break;
      }
    }
    t.shape = Shape{a.rows, a.cols};
  }

  Scheme scales(const RawModule& m, const Label& l, Tensor& t) {
    uint64_t rows = t.shape[0], cols = t.shape[1];
    if (l.mx) {
      Part p = m.part("weight_scale", Role::scale, DType::u8, Shape{rows, ceil_div(cols, 32)});
      p.dtype = DType::f8_e8m0;
      t.parts.push_back(std::move(p));
      return scheme_of(l, true, true, 0);
    }
    std::vector<float> input;
    if (l.is_static) input = floats(m, "input_scale", 1);
    uint64_t groups = 1;
    if (m.has("weight_scale")) {
      groups = std::max<uint64_t>(m.at("weight_scale").shape.cols(), 1);
      if (m.at("weight_scale").shape.rank() < 2) groups = 1;
      t.parts.push_back(m.float_part("weight_scale", Role::scale, Shape{rows, groups}));
    } else if (l.is_static) {
      t.parts.push_back(derived_scale(m, rows, input[0]));
    } else {
      m.fail("has no weight_scale");
    }
    if (groups > 1 && cols % groups != 0)
      m.fail("has " + std::to_string(groups) + " scales for rows of " + std::to_string(cols));
    bool symmetric = offsets(m, l, t, rows, groups);
    bool symmetric_input = true;
    if (l.is_static) {
      t.parts.push_back(m.float_part("input_scale", Role::input_scale, Shape{1}));
      symmetric_input = floats(m, "input_offset", 1)[0] == 0;
      if (!symmetric_input)
        t.parts.push_back(m.float_part("input_offset", Role::input_zero_point, Shape{1}));
    }
    int group = groups > 1 ? static_cast<int>(std::min<uint64_t>(cols / groups, 1 << 20)) : 0;
    return scheme_of(l, symmetric, symmetric_input, group);
  }

  // Adds zero points when there are any; says whether there are none.
  bool offsets(const RawModule& m, const Label& l, Tensor& t, uint64_t rows, uint64_t groups) {
    if (!m.has("weight_offset")) {
      if (l.is_static) return true;
      m.fail("has no weight_offset");
    }
    std::vector<float> values = floats(m, "weight_offset", rows * groups);
    if (std::ranges::all_of(values, [](float v) { return v == 0; })) return true;
    if (!l.asymmetric)
      m.fail("has a weight_offset that is not zero, which " + std::string(l.name) +
             " does not have");
    float half = l.codes == Codes::bytes8 ? 128 : 8;
    std::vector<std::byte> bytes;
    for (float v : values) {
      if (v != std::nearbyint(v) || v < -half || v >= half)
        m.fail("its weight_offset holds " + std::to_string(v) + ", which is no zero point");
      bytes.push_back(static_cast<std::byte>(static_cast<int>(v + half)));
    }
    t.parts.push_back(blob_part(m_, Role::zero_point, DType::u8, Shape{rows, groups}, bytes));
    return false;
  }

  // s_w = deq_scale / s_x, or a neighbour: the one whose product with s_x is deq_scale again.
  Part derived_scale(const RawModule& m, uint64_t rows, float input) {
    const Tensor& raw = m.at("deq_scale");
    std::vector<std::byte> bytes = read_small(m_, m, "deq_scale");
    bool wide = raw.dtype == DType::i64;
    if ((!wide && raw.dtype != DType::f32) || raw.shape.elements() != rows) {
      m.fail("its deq_scale does not fit (expected F32 or I64 [" + std::to_string(rows) + "])");
    }
    std::vector<float> scale(rows);
    for (uint64_t r = 0; r < rows; ++r) {
      uint64_t bits = 0;
      std::memcpy(&bits, &bytes[r * (wide ? 8 : 4)], wide ? 8 : 4);
      if (bits >> 32 != 0)
        m.fail("its deq_scale is no bit pattern of an F32 in row " + std::to_string(r));
      auto deq = std::bit_cast<float>(static_cast<uint32_t>(bits));
      float s = deq / input;
      for (float candidate : {s, std::nextafterf(s, 0), std::nextafterf(s, INFINITY)}) {
        if (candidate * input == deq && std::isfinite(candidate)) scale[r] = candidate;
      }
      if (scale[r] <= 0)
        m.fail("its deq_scale is no product of its input_scale and a scale, in row " +
               std::to_string(r));
    }
    return blob_part(m_, Role::scale, DType::f32, Shape{rows, 1}, std::as_bytes(std::span(scale)));
  }

  std::vector<float> floats(const RawModule& m, std::string_view suffix, uint64_t n) {
    m.float_part(suffix, Role::data, Shape{n});
    DType dtype = m.at(suffix).dtype;
    std::vector<std::byte> bytes = read_small(m_, m, suffix);
    std::vector<float> out(n);
    for (uint64_t i = 0; i < n; ++i) {
      uint32_t v = 0;
      std::memcpy(&v, &bytes[i * dtype_bits(dtype) / 8], dtype_bits(dtype) / 8);
      out[i] = dtype == DType::f32    ? std::bit_cast<float>(v)
               : dtype == DType::bf16 ? bf16_to_f32(static_cast<uint16_t>(v))
                                      : f16_to_f32(static_cast<uint16_t>(v));
      if (!std::isfinite(out[i])) m.fail("its " + std::string(suffix) + " is not finite");
    }
    return out;
  }

  Model& m_;
  const Json& description_;
  std::map<std::string, std::string> labels_;  // of weights
  const LoadOptions& options_;
};

}  // namespace

void adopt(Model& model, const Json& description, const LoadOptions& options) {
  Adopter(model, description, options).run();
}

}  // namespace qp::modelslim
