#include <algorithm>

#include "formats/hf/kv_cache.h"
#include "formats/hf/modules.h"
#include "formats/quark/quark.h"
#include "lib/base/error.h"

namespace qp::quark {
namespace {

constexpr std::string_view kRoot[] = {"weight"};
constexpr std::string_view kParts[] = {"weight_scale",        "weight_scale_2", "weight_zero_point",
                                       "weight_zero_point_2", "input_scale",    "input_zero_point"};

// Symmetric kinds store zero points all the same.
void check_zeros(const Model& model, const RawModule& m) {
  for (const char* suffix : {"weight_zero_point", "weight_zero_point_2", "input_zero_point"}) {
    if (!m.has(suffix)) continue;
    auto bytes = read_small(model, m, suffix);
    if (std::ranges::any_of(bytes, [](std::byte b) { return b != std::byte{0}; })) {
      m.fail("its " + std::string(suffix) + " is not zero, but its scheme is symmetric");
    }
  }
}

Part codes(const RawModule& m, Kind kind, bool reorder, Shape& shape) {
  Shape stored = shape;
  switch (kind) {
    case Kind::int8_tensor:
    case Kind::int8_channel:
      return m.laid_out("weight", Role::codes, DType::i8, stored, dense_layout,
                        {.rows = shape[0], .cols = shape[1], .is_signed = true});
    case Kind::int4_channel:
    case Kind::int4_fp8:
      shape[1] *= 8;
      return m.laid_out(
          "weight", Role::codes, DType::i32, stored, reorder ? reordered_layout : dense_layout,
          {.rows = shape[0], .cols = shape[1], .bits = 4, .stored_bits = 4, .is_signed = true});
    case Kind::mxfp4: shape[1] *= 2; return m.part("weight", Role::codes, DType::u8, stored);
    default: break;
  }
  Part p = m.part("weight", Role::codes, DType::f8_e4m3, stored);
  p.dtype = DType::u8;
  return p;
}

// INT4 in groups lies as AWQ's does: [K, N / 8] words along N; scales and zero points [K / g, N].
void int4_group(const RawModule& m, Layer& layer, bool reorder, Tensor& t) {
  bool zeros = layer.kind == Kind::uint4_group;
  auto group = static_cast<uint64_t>(layer.scheme.weights.group_size);
  Shape stored = t.shape;
  if (!reorder) m.fail("is packed in plain order (pack_method 'order'), which qpipe does not read");
  if (stored[1] > uint64_t{1} << 40) m.fail("its weight is too large");
  uint64_t rows = stored[1] * 8, cols = stored[0], groups = cols / group;
  if (cols % group != 0) {
    m.fail("has " + std::to_string(cols) + " columns, no whole number of groups of " +
           std::to_string(group));
  }
  t.shape = Shape{rows, cols};
  t.parts.push_back(
      m.laid_out("weight", Role::codes, DType::i32, stored, awq_layout,
                 {.rows = rows, .cols = cols, .bits = 4, .stored_bits = 4, .is_signed = !zeros}));
  t.parts.push_back(m.transposed("weight_scale", Role::scale, rows, groups));
  if (!zeros) return;
  t.parts.push_back(m.laid_out("weight_zero_point", Role::zero_point, DType::i32,
                               Shape{groups, stored[1]}, awq_zeros_layout,
                               {.rows = rows, .cols = groups, .stored_bits = 4}));
}

Tensor build(Model& model, const Json& config, const RawModule& m, const LoadOptions& options,
             bool reorder) {
  const Tensor& w = m.at("weight");
  if (!m.has("weight_scale")) {
    if (!is_float(w.dtype)) m.fail("has no weight_scale");
    return {};
  }
  if (w.shape.rank() != 2) m.fail("its weight is no matrix");
  Layer layer = layer_of(config, m.name);
  Tensor t;
  t.dtype = model_dtype(model);
  t.shape = w.shape;
  bool grouped = layer.kind == Kind::int4_group || layer.kind == Kind::uint4_group;
  if (!grouped) t.parts.push_back(codes(m, layer.kind, reorder, t.shape));
  Shape want = scale_shape(layer.scheme.weights, t.shape);
  if (grouped) {
    int4_group(m, layer, reorder, t);
  } else if (layer.kind == Kind::mxfp4) {
    t.parts.push_back(m.part("weight_scale", Role::scale, DType::u8, want));
    t.parts.back().dtype = DType::f8_e8m0;
  } else if (layer.kind == Kind::int4_fp8) {
    t.parts.push_back(m.float_part("weight_scale_2", Role::scale, want));
    t.parts.push_back(m.float_part("weight_scale", Role::scale_2, Shape{1}));
  } else {
    t.parts.push_back(m.float_part("weight_scale", Role::scale, want));
  }
  if (layer.kind != Kind::int4_fp8 && m.has("weight_scale_2")) {
    m.fail("has a weight_scale_2, which its scheme does not have");
  }
  const auto& in = layer.scheme.input_activations;
  if (in && in->dynamic == Dynamic::no) {
    t.parts.push_back(m.float_part("input_scale", Role::input_scale, Shape{1}));
  }
  if (layer.scheme.weights.symmetric) check_zeros(model, m);
  t.scheme = model.scheme_index(layer.scheme);
  finish_quantized(t, options, "quark");
  return t;
}

}  // namespace

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  bool reorder = true;
  if (auto it = config.find("export"); it != config.end() && it->is_object()) {
    std::string method = json_string(*it, "pack_method", "reorder");
    if (method != "reorder" && method != "order") {
      throw input_error("quantization_config: unknown 'pack_method' '" + printable(method) + "'");
    }
    reorder = method == "reorder";
  }
  if (adopt_kv_scales(model, "output_scale", "output_scale", options) && !options.dequantize) {
    model.kv_cache = fp8_kv_cache();
  }
  assemble(model, {kRoot, kParts},
           [&](const RawModule& m) { return build(model, config, m, options, reorder); });
  model.format = options.dequantize ? "safetensors" : "quark";
}

}  // namespace qp::quark
