#include "lib/scheme/scheme.h"

#include <algorithm>
#include <array>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/scheme/numerics.h"
#include "lib/tensor/ggml_type.h"

namespace qp {
namespace {

constexpr std::array<std::string_view, 3> kTypes = {"int", "float", "codebook"};
constexpr std::array<std::string_view, 7> kStrategies = {"tensor",       "channel", "group", "block",
                                                         "tensor_group", "token",   "flat"};
constexpr std::array<std::string_view, 18> kRoles = {
    "data",     "codes",         "scale",           "zero_point",    "global_scale", "input_scale",
    "input_global_scale", "g_idx", "blocks",        "scale_2",       "offset",       "pre_scale",
    "input_zero_point",   "codebook", "nested_scale", "nested_codebook", "nested_offset", "requantize_scale"};

template <class Enum, size_t N>
std::optional<Enum> find_name(const std::array<std::string_view, N>& names, std::string_view name) {
  auto it = std::ranges::find(names, name);
  if (it == names.end()) return std::nullopt;
  return static_cast<Enum>(it - names.begin());
}

}  // namespace

std::string_view name_of(NumType type) { return kTypes[static_cast<size_t>(type)]; }
std::string_view name_of(Strategy strategy) { return kStrategies[static_cast<size_t>(strategy)]; }
std::optional<Strategy> strategy_from_name(std::string_view name) {
  return find_name<Strategy>(kStrategies, name);
}
std::string_view name_of(Role role) { return kRoles[static_cast<size_t>(role)]; }
std::optional<Role> role_from_name(std::string_view name) { return find_name<Role>(kRoles, name); }

CodeKind Scheme::code_kind() const {
  if (weights.type == NumType::integer) return CodeKind::integer;
  if (weights.type == NumType::codebook) return CodeKind::codebook;
  return weights.num_bits == 4 ? CodeKind::e2m1 : CodeKind::e4m3;
}

ScaleKind Scheme::scale_kind() const {
  if (weights.strategy == Strategy::tensor_group) return ScaleKind::e4m3_global;
  if (weights.scale_dtype == DType::f8_e8m0) return ScaleKind::e8m0;
  return ScaleKind::source;
}

uint64_t Scheme::group_of(uint64_t cols) const {
  switch (weights.strategy) {
    case Strategy::group:
    case Strategy::flat:
    case Strategy::tensor_group: return static_cast<uint64_t>(weights.group_size);
    case Strategy::block: return static_cast<uint64_t>(weights.block_cols);
    case Strategy::tensor:
    case Strategy::channel:
    case Strategy::token: break;
  }
  return std::max<uint64_t>(cols, 1);
}

double Scheme::bits_per_weight(const Shape& shape, DType source) const {
  double bits = 0;
  for (const PartSpec& part : part_specs(*this, shape, source)) {
    bits += 8.0 * static_cast<double>(byte_size(part.dtype, part.shape).value_or(0));
  }
  return bits / static_cast<double>(std::max<uint64_t>(shape.elements().value_or(1), 1));
}

Shape scale_shape(const QuantArgs& weights, const Shape& shape) {
  uint64_t rows = shape.rows(), cols = shape.cols();
  switch (weights.strategy) {
    case Strategy::tensor:
    case Strategy::token: return {1};
    case Strategy::channel: return {rows, 1};
    case Strategy::group:
    case Strategy::tensor_group:
      return {rows, ceil_div(cols, static_cast<uint64_t>(weights.group_size))};
    case Strategy::flat:
      return {ceil_div(shape.elements().value_or(0), static_cast<uint64_t>(weights.group_size))};
    case Strategy::block: break;
  }
  return {ceil_div(rows, static_cast<uint64_t>(weights.block_rows)),
          ceil_div(cols, static_cast<uint64_t>(weights.block_cols))};
}

std::vector<PartSpec> part_specs(const Scheme& scheme, const Shape& shape, DType source) {
  const QuantArgs& w = scheme.weights;
  uint64_t rows = shape.rows(), cols = shape.cols();
  if (const GgmlType* type = ggml_type(scheme.ggml)) {
    return {{Role::blocks, DType::u8, Shape{rows, cols / type->block * type->bytes}}};
  }
  auto bits = static_cast<uint64_t>(w.num_bits);
  const numerics::Rules* rules = numerics::find_rules(scheme.numerics);
  // torchao's int4 adds a float zero point, of the dtype of the weight; everybody else subtracts an
  // integer first.
  bool adds = scheme.numerics == "torchao" && w.type == NumType::integer && !w.symmetric;
  bool wide = source == DType::f64 || (rules != nullptr && numerics::in_f32(*rules, w) && !adds);
  DType scale_dtype = wide ? DType::f32 : source;
  if (scheme.scale_kind() == ScaleKind::e4m3_global) scale_dtype = DType::f8_e4m3;
  if (scheme.scale_kind() == ScaleKind::e8m0) scale_dtype = DType::f8_e8m0;
  if (w.nested_scale) scale_dtype = DType::u8;
  std::vector<PartSpec> parts = {
      {Role::codes, DType::u8, Shape{rows, ceil_div(cols * bits, 8)}},
      {Role::scale, scale_dtype, scale_shape(w, shape)}};
  if (!w.symmetric) {
    parts.push_back({adds ? Role::offset : Role::zero_point, adds ? scale_dtype : DType::u8, scale_shape(w, shape)});
  }
  if (scheme.scale_kind() == ScaleKind::e4m3_global) {
    parts.push_back({scheme.numerics == "compressed-tensors" ? Role::global_scale : Role::scale_2,
                     DType::f32, Shape{1}});
  }
  if (w.fp8_stage) parts.push_back({Role::scale_2, DType::f32, Shape{1}});
  if (scheme.code_kind() == CodeKind::codebook) {
    parts.push_back({Role::codebook, DType::f32, Shape{uint64_t{1} << bits}});
  }
  if (w.nested_scale) {
    uint64_t scales = scale_shape(w, shape).elements().value_or(0);
    parts.push_back({Role::nested_scale, DType::f32, Shape{ceil_div(scales, 256)}});
    parts.push_back({Role::nested_codebook, DType::f32, Shape{256}});
    parts.push_back({Role::nested_offset, DType::f32, Shape{1}});
  }
  return parts;
}

std::string why_not(const Scheme& scheme, const Shape& shape) {
  const QuantArgs& w = scheme.weights;
  if (shape.rank() < 2) return "it has fewer than two dimensions; leave it out with --ignore";
  if (shape.rows() == 0 || shape.cols() == 0) return "it is empty; leave it out with --ignore";
  if (const GgmlType* type = ggml_type(scheme.ggml)) {
    if (shape.cols() % type->block == 0) return "";
    return "its rows of " + std::to_string(shape.cols()) + " are no multiple of the " + std::to_string(type->block) +
           " elements of a block; name another type for it, or leave it out with --ignore";
  }
  if (w.strategy == Strategy::flat && w.num_bits == 4 && shape.cols() % 2 != 0) {
    return "its rows of " + std::to_string(shape.cols()) + " are odd: two of them would share a byte; leave it out with --ignore";
  }
  if (w.strategy != Strategy::group && w.strategy != Strategy::tensor_group) return "";
  uint64_t cols = shape.cols(), group = static_cast<uint64_t>(w.group_size);
  if (cols % group == 0) return "";
  std::string text = "its rows of " + std::to_string(cols) + " cannot be split into groups of " +
                     std::to_string(group) + " (" + std::to_string(cols) + " mod " +
                     std::to_string(group) + " = " + std::to_string(cols % group) + "); ";
  if (scheme.scale_kind() == ScaleKind::source) {
    for (uint64_t g : {256u, 128u, 64u, 32u}) {
      if (g < group && cols % g == 0) return text + "use --group-size " + std::to_string(g);
    }
    return text + "use --group-size channel";
  }
  return text + "the scheme fixes that size: leave the tensor out with --ignore";
}

Json to_json(const QuantArgs& a) {
  Json j = {{"num_bits", a.num_bits},
            {"type", name_of(a.type)},
            {"symmetric", a.symmetric},
            {"strategy", name_of(a.strategy)}};
  if (a.group_size > 0) j["group_size"] = a.group_size;
  if (a.block_rows > 0) j["block_structure"] = {a.block_rows, a.block_cols};
  if (a.dynamic == Dynamic::yes) j["dynamic"] = true;
  if (a.dynamic == Dynamic::local) j["dynamic"] = "local";
  if (a.scale_dtype) j["scale_dtype"] = dtype_name(*a.scale_dtype);
  if (a.amax_scale) j["amax_scale"] = true;
  if (a.nested_scale) j["nested_scale"] = true;
  if (a.fp8_stage) j["fp8_stage"] = true;
  return j;
}

Json to_json(const Scheme& s) {
  if (!s.ggml.empty()) return {{"name", s.name}, {"ggml", s.ggml}};
  Json j = {{"name", s.name}, {"numerics", s.numerics}, {"weights", to_json(s.weights)}};
  if (s.input_activations) j["input_activations"] = to_json(*s.input_activations);
  return j;
}

QuantArgs quant_args_from_json(const Json& j) {
  if (!j.is_object()) throw input_error("quantization arguments are no JSON object");
  QuantArgs a;
  a.num_bits = static_cast<int>(json_int(j, "num_bits", 8));
  std::string type = json_string(j, "type", "int");
  auto known = find_name<NumType>(kTypes, type);
  if (!known) throw input_error("unknown 'type' '" + printable(type) + "'");
  a.type = *known;
  if (a.type == NumType::integer ? (a.num_bits < 2 || a.num_bits > 8)
                                 : (a.num_bits != 4 && a.num_bits != 8)) {
    throw input_error("'num_bits' of type " + type +
                      (a.type == NumType::integer ? " (expected 2 to 8" : " (expected 4 or 8") +
                      ", found " + std::to_string(a.num_bits) + ")");
  }
  a.symmetric = json_bool(j, "symmetric", true);
  a.amax_scale = json_bool(j, "amax_scale", false);
  a.nested_scale = json_bool(j, "nested_scale", false);
  a.fp8_stage = json_bool(j, "fp8_stage", false);
  int64_t group = json_int(j, "group_size", 0);
  std::string strategy = json_string(
      j, "strategy", group > 0 ? "group" : group == -1 ? "channel" : "tensor");
  auto s = strategy_from_name(strategy);
  if (!s) throw input_error("unknown 'strategy' '" + printable(strategy) + "'");
  a.strategy = *s;
  bool grouped = a.strategy == Strategy::group || a.strategy == Strategy::tensor_group ||
                 a.strategy == Strategy::flat;
  if (grouped && (group <= 0 || group > (1 << 20))) {
    throw input_error("'group_size' of strategy " + strategy + " (expected a positive number, found " +
                      std::to_string(group) + ")");
  }
  a.group_size = grouped ? static_cast<int>(group) : 0;
  if (auto it = j.find("block_structure"); it != j.end() && it->is_array() && it->size() == 2 &&
                                           (*it)[0].is_number_integer() &&
                                           (*it)[1].is_number_integer()) {
    a.block_rows = static_cast<int>(std::clamp<int64_t>((*it)[0].get<int64_t>(), 0, 1 << 20));
    a.block_cols = static_cast<int>(std::clamp<int64_t>((*it)[1].get<int64_t>(), 0, 1 << 20));
  }
  if (a.strategy == Strategy::block && (a.block_rows <= 0 || a.block_cols <= 0)) {
    throw input_error("strategy block needs 'block_structure' of two positive numbers");
  }
  if (auto it = j.find("dynamic"); it != j.end() && !it->is_null()) {
    if (it->is_boolean()) a.dynamic = it->get<bool>() ? Dynamic::yes : Dynamic::no;
    if (it->is_string() && it->get<std::string>() == "local") a.dynamic = Dynamic::local;
  }
  std::string scale = json_string(j, "scale_dtype", "");
  if (!scale.empty()) {
    a.scale_dtype = dtype_from_name(scale);
    if (!a.scale_dtype) a.scale_dtype = dtype_from_torch(scale);
    if (!a.scale_dtype) throw input_error("unknown 'scale_dtype' '" + printable(scale) + "'");
    // compressed-tensors spells E8M0 as the byte that holds it.
    if (a.scale_dtype == DType::u8) a.scale_dtype = DType::f8_e8m0;
  }
  return a;
}

Scheme scheme_from_json(const Json& j) {
  Scheme s;
  s.name = json_string(j, "name", "");
  if (s.ggml = json_string(j, "ggml", ""); !s.ggml.empty()) {
    const GgmlType* type = ggml_type(s.ggml);
    if (type == nullptr || (type->block == 1 && !type->is_float())) throw input_error("unknown ggml type '" + printable(s.ggml) + "'");
    s.ggml = type->name;
    return s;
  }
  s.numerics = json_string(j, "numerics", "compressed-tensors");
  auto weights = j.find("weights");
  if (weights == j.end()) throw input_error("scheme without 'weights'");
  s.weights = quant_args_from_json(*weights);
  auto input = j.find("input_activations");
  if (input != j.end() && !input->is_null()) s.input_activations = quant_args_from_json(*input);
  return s;
}

}  // namespace qp
