// torchao's safetensors (0.15 to 0.18), as transformers saves and vLLM loads them: plain arrays under
// MODULE._weight_qdata .., and per tensor a JSON text in __metadata__ that names the class and its
// attributes (reference/fp8-torchao-quark-modelslim.md 3.3, 3.4).
//   Float8Tensor: E4M3 per row or tensor. Int8Tensor: INT8 per row. Int4Tensor: signed nibbles, scale
//   and float zero point transposed. IntxUnpackedToInt8Tensor: one code a byte.
#include <algorithm>
#include <cstring>
#include <map>

#include "formats/container/safetensors.h"
#include "formats/format.h"
#include "formats/hf/config.h"
#include "formats/hf/modules.h"
#include "formats/hf/linear_writer.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr std::string_view kRoot[] = {"_weight_qdata"};
constexpr std::string_view kParts[] = {"_weight_scale", "_weight_zero_point"};
// Integer zero points are not torchao's float ones (part_specs).
constexpr const char* kIntx = "torchao-intx";

QuantArgs dynamic_input(NumType type, Strategy strategy, bool symmetric = true) {
  return {.num_bits = 8, .type = type, .symmetric = symmetric, .strategy = strategy, .dynamic = Dynamic::yes, .scale_dtype = {}};
}

// ---- reading

std::string enum_value(const Json& object, const char* key) {
  auto it = object.find(key);
  return it != object.end() && it->is_object() ? json_string(*it, "_data", "") : "";
}

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options) : m_(model), options_(options) {
    auto type = config.find("quant_type");
    if (type == config.end() || !(type->is_object() || type->is_string())) throw input_error("quantization_config has no 'quant_type'");
    for (const FileRef& file : m_.files) {
      if (!file.path.ends_with(".safetensors")) continue;
      auto mapped = MappedFile::open(file.path);
      metadata_.merge(parse_safetensors(mapped->bytes(), file.path).metadata);
    }
    for (const Tensor& t : m_.tensors) {
      if (t.name.ends_with(":qdata") || t.name.ends_with(":_data")) {
        throw limit_error("was written by torchao 0.14, whose names no later version reads")
            .tensor(t.name).hint("save it again with torchao 0.15 or later");
      }
    }
  }

  void run() {
    assemble(m_, {kRoot, kParts}, [this](const RawModule& m) { return build(m); });
    for (const Tensor& t : m_.tensors) {
      auto dot = t.name.rfind('.');
      std::string_view last = std::string_view(t.name).substr(dot == std::string::npos ? 0 : dot + 1);
      bool orphan = std::ranges::find(kParts, last) != std::end(kParts);
      bool other = last.starts_with("_") && last.ends_with("_qdata");
      if (orphan) throw input_error("belongs to a _weight_qdata that is not there").tensor(t.name);
      if (other) throw limit_error("is no weight of a linear, the only torchao tensors that qpipe reads").tensor(t.name);
    }
    m_.format = options_.dequantize ? "safetensors" : "torchao";
  }

 private:
  Tensor build(const RawModule& m) {
    auto it = metadata_.find(m.name + ".weight");
    if (it == metadata_.end()) m.fail("has no entry in the file's metadata, which would say what its numbers mean");
    Json j = parse_json(it->second, m.name + ".weight (metadata)");
    std::string type = j.is_object() ? json_string(j, "_type", "") : "";
    if (type.empty() || !j.contains("_data") || !j["_data"].is_object()) m.fail("its metadata names no class");
    const Json& data = j["_data"];
    Tensor t;
    t.dtype = model_dtype(m_);
    if (auto dtype = dtype_from_torch(enum_value(data, "dtype"))) t.dtype = *dtype;
    Scheme s;
    s.numerics = "torchao";
    if (type == "Float8Tensor") {
      float8(m, data, t, s);
    } else if (type == "Int8Tensor") {
      int8(m, data, t, s);
    } else if (type == "Int4Tensor") {
      int4(m, data, t, s);
    } else if (type == "IntxUnpackedToInt8Tensor") {
      intx(m, data, t, s);
    } else {
      throw limit_error("is a " + printable(type) + ", whose layout belongs to one GPU kernel")
          .hint("save it with a PLAIN packing format, or dequantize it with torchao");
    }
    t.scheme = m_.scheme_index(s);
    finish_quantized(t, options_, s.name);
    return t;
  }

  // block_size against the shape: what shares a scale.
  void set_strategy(const RawModule& m, const Json& data, const Shape& shape, QuantArgs& w) {
    auto it = data.find("block_size");
    bool pair = it != data.end() && it->is_array() && it->size() == 2 && (*it)[0].is_number_unsigned() && (*it)[1].is_number_unsigned();
    uint64_t rows = pair ? (*it)[0].get<uint64_t>() : 0, cols = pair ? (*it)[1].get<uint64_t>() : 0;
    if (rows == 0 || cols == 0 || rows > shape[0] || cols > shape[1]) m.fail("its metadata has no block_size that fits " + shape.str());
    if (rows == shape[0] && cols == shape[1] && rows > 1) {
      w.strategy = Strategy::tensor;
    } else if (rows == 1 && cols == shape[1]) {
      w.strategy = Strategy::channel;
    } else if (rows == 1 && shape[1] % cols == 0) {
      w.strategy = Strategy::group;
      w.group_size = static_cast<int>(std::min<uint64_t>(cols, 1 << 20));
    } else if (rows <= 1 << 20 && cols <= 1 << 20) {
      w.strategy = Strategy::block;
      w.block_rows = static_cast<int>(rows);
      w.block_cols = static_cast<int>(cols);
    } else {
      m.fail("its metadata has an unknown block_size");
    }
  }

  Shape matrix(const RawModule& m) const {
    const Tensor& raw = m.at("_weight_qdata");
    if (raw.shape.rank() != 2 || raw.shape[0] == 0 || raw.shape[1] == 0) m.fail("its _weight_qdata is no matrix");
    return raw.shape;
  }
  // Weight-only, or activations quantized at run time.
  std::optional<QuantArgs> input(const RawModule& m, const Json& data, NumType type) const {
    auto it = data.find("act_quant_kwargs");
    if (it == data.end() || it->is_null()) return std::nullopt;
    Json kwargs = it->is_object() ? it->value("_data", Json::object()) : Json::object();
    auto granularity = kwargs.find("granularity");
    std::string name = granularity != kwargs.end() && granularity->is_object() ? json_string(*granularity, "_type", "") : "";
    if (name == "PerRow") return dynamic_input(type, Strategy::token);
    if (name == "PerTensor") return dynamic_input(type, Strategy::tensor);
    m.fail("its activations have an unknown granularity '" + printable(name) + "'");
  }

  void float8(const RawModule& m, const Json& data, Tensor& t, Scheme& s) {
    t.shape = matrix(m);
    s.weights = {.num_bits = 8, .type = NumType::floating, .scale_dtype = {}};
    set_strategy(m, data, t.shape, s.weights);
    s.input_activations = input(m, data, NumType::floating);
    s.name = s.input_activations ? "torchao-fp8dq" : "torchao-fp8wo";
    Part codes = m.part("_weight_qdata", Role::codes, DType::f8_e4m3, t.shape);
    codes.dtype = DType::u8;
    t.parts.push_back(std::move(codes));
    t.parts.push_back(m.float_part("_weight_scale", Role::scale, scale_shape(s.weights, t.shape)));
  }

  void int8(const RawModule& m, const Json& data, Tensor& t, Scheme& s) {
    t.shape = matrix(m);
    s.weights = {.num_bits = 8, .scale_dtype = {}};
    set_strategy(m, data, t.shape, s.weights);
    s.input_activations = input(m, data, NumType::integer);
    s.name = s.input_activations ? "torchao-int8dq" : "torchao-int8wo";
    t.parts.push_back(m.laid_out("_weight_qdata", Role::codes, DType::i8, t.shape, dense_layout,
                                 {.rows = t.shape[0], .cols = t.shape[1], .is_signed = true}));
    t.parts.push_back(m.float_part("_weight_scale", Role::scale, scale_shape(s.weights, t.shape)));
    if (!zeros(m)) m.fail("has a _weight_zero_point that is not zero, which its class does not have");
  }

  void int4(const RawModule& m, const Json& data, Tensor& t, Scheme& s) {
    Shape packed = matrix(m);
    t.shape = Shape{packed[0], packed[1] * 2};
    s.name = "torchao-int4wo";
    s.weights = {.num_bits = 4, .symmetric = false, .scale_dtype = {}};
    set_strategy(m, data, t.shape, s.weights);
    if (s.weights.strategy == Strategy::channel) {
      s.weights.strategy = Strategy::group;
      s.weights.group_size = static_cast<int>(std::min<uint64_t>(t.shape[1], 1 << 20));
    }
    if (s.weights.strategy != Strategy::group) m.fail("its block_size is not of one row");
    std::string activation = enum_value(data, "activation_dtype");
    if (activation == "float8_e4m3fn") s.input_activations = dynamic_input(NumType::floating, Strategy::token);
    uint64_t groups = scale_shape(s.weights, t.shape).cols();
    t.parts.push_back(m.laid_out("_weight_qdata", Role::codes, DType::i8, packed, dense_layout,
                                 {.rows = t.shape[0], .cols = t.shape[1], .bits = 4, .stored_bits = 4, .is_signed = true}));
    t.parts.push_back(m.transposed("_weight_scale", Role::scale, t.shape[0], groups));
    t.parts.push_back(m.transposed("_weight_zero_point", Role::offset, t.shape[0], groups));
    t.dtype = m.at("_weight_scale").dtype;
  }

  void intx(const RawModule& m, const Json& data, Tensor& t, Scheme& s) {
    t.shape = matrix(m);
    std::string target = enum_value(data, "target_dtype");
    bool known = target.size() == 4 && target.starts_with("int") && target[3] >= '2' && target[3] <= '8';
    if (!known) m.fail("its metadata has the target_dtype '" + printable(target) + "' (expected int2 to int8)");
    int bits = target[3] - '0';
    s.numerics = kIntx;
    s.name = "torchao-intx-" + target;
    s.weights = {.num_bits = bits, .symmetric = zeros(m), .scale_dtype = {}};
    set_strategy(m, data, t.shape, s.weights);
    std::string activation = enum_value(data, "activation_quantization");
    if (activation.empty()) activation = json_string(data, "activation_quantization", "");
    if (activation.starts_with("int8_asym")) s.input_activations = dynamic_input(NumType::integer, Strategy::token, false);
    Shape scales = scale_shape(s.weights, t.shape);
    t.parts.push_back(m.laid_out("_weight_qdata", Role::codes, DType::i8, t.shape, bytes_layout,
                                 {.rows = t.shape[0], .cols = t.shape[1], .bits = bits, .is_signed = true}));
    t.parts.push_back(m.float_part("_weight_scale", Role::scale, scales));
    if (s.weights.symmetric) return;
    t.parts.push_back(m.laid_out("_weight_zero_point", Role::zero_point, DType::i8, m.at("_weight_zero_point").shape, bytes_layout,
                                 {.rows = scales.rows(), .cols = scales.cols(), .bias = uint64_t{1} << (bits - 1)}));
  }

  // The classes store zero points even when they have none.
  bool zeros(const RawModule& m) {
    if (!m.has("_weight_zero_point")) m.fail("has no _weight_zero_point");
    std::vector<std::byte> bytes = read_small(m_, m, "_weight_zero_point");
    return std::ranges::all_of(bytes, [](std::byte b) { return b == std::byte{0}; });
  }

  Model& m_;
  const LoadOptions& options_;
  std::map<std::string, std::string> metadata_;
};

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  Adopter(model, config, options).run();
}

// ---- writing

enum class Class : uint8_t { float8, int8, int4, intx };

// Python's separators, as torchao writes its metadata: ", " and ": ".
std::string python_text(const Json& j) {
  std::string text = j.dump(), out;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    char c = text[i];
    if (c == '"' && (i == 0 || text[i - 1] != '\\')) quoted = !quoted;
    out += c;
    if (!quoted && (c == ',' || c == ':')) out += ' ';
  }
  return out;
}

Json typed(const char* type, const Json& data) { return {{"_type", type}, {"_data", data}}; }
Json dtype_json(std::string_view name) { return typed("torch.dtype", name); }
Json versioned(const char* type, int version, const Json& data) {
  return {{"_type", type}, {"_version", version}, {"_data", data}};
}
// PerRow, PerTensor: with a version in configs, without in metadata.
Json granularity(Strategy s, bool in_config) {
  bool row = s == Strategy::channel || s == Strategy::token;
  Json data = row ? Json{{"dim", -1}} : Json::object();
  return in_config ? versioned(row ? "PerRow" : "PerTensor", 1, data) : typed(row ? "PerRow" : "PerTensor", data);
}
Json mm_config(bool in_config) {
  Json data = {{"emulate", false}, {"use_fast_accum", true}, {"pad_inner_dim", false}};
  return in_config ? versioned("Float8MMConfig", 1, data) : typed("Float8MMConfig", data);
}

class Writer {
 public:
  explicit Writer(const Store& store) : m_(store.model()) {}

  ExportPlan run(const ExportOptions& options) {
    std::vector<std::string> names;
    for (const Tensor& t : m_.tensors) {
      names.push_back(t.name);
      if (t.quantized()) {
        add(t);
      } else {
        keep_tensor(t, out_);
        out_.metadata.emplace_back(t.name, python_text({{"_type", "Tensor"}}));
      }
    }
    out_.metadata.emplace_back("tensor_names", python_text(Json(names)));
    keep_companions(m_, out_);
    Json config = unquantized_config_json(m_);
    if (first_ == nullptr) {
      options.warn("nothing is quantized; -f safetensors writes the same without quantization_config");
    } else {
      config["quantization_config"] = quantization_config();
    }
    out_.config = config_text(config);
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const Tensor& t, const std::string& why) const {
    throw limit_error(why + ", which torchao's plain tensors cannot hold")
        .tensor(t.name)
        .hint("quantize it with --numerics torchao and int8wo, int8dq, int4wo-32, fp8wo or fp8dq-per_row");
  }

  Class class_of(const Tensor& t, const Scheme& s) const {
    const QuantArgs& w = s.weights;
    const auto& in = s.input_activations;
    for (Role role : {Role::scale_2, Role::global_scale, Role::pre_scale, Role::g_idx, Role::nested_scale}) {
      if (t.part(role) != nullptr) refuse(t, "has a " + std::string(name_of(role)));
    }
    if (w.amax_scale || s.code_kind() == CodeKind::codebook || s.code_kind() == CodeKind::e2m1 || s.scale_kind() != ScaleKind::source) {
      refuse(t, "is " + s.name);
    }
    bool row = w.strategy == Strategy::channel, tensor = w.strategy == Strategy::tensor;
    bool token = in && in->dynamic == Dynamic::yes && in->strategy == Strategy::token && in->num_bits == 8 && in->symmetric;
    bool whole = in && in->dynamic == Dynamic::yes && in->strategy == Strategy::tensor && in->num_bits == 8 && in->symmetric;
    if (s.code_kind() == CodeKind::e4m3) {
      bool fits = w.symmetric && ((row && (!in || token)) || (tensor && whole));
      if (!fits || (in && in->type != NumType::floating)) refuse(t, "has FP8 codes other than per row, or per tensor with activations alike");
      return Class::float8;
    }
    if (t.part(Role::offset) != nullptr) {
      if (in || w.num_bits != 4 || w.strategy != Strategy::group) refuse(t, "has float zero points of another kind than int4 groups");
      return Class::int4;
    }
    if (w.num_bits == 8 && w.symmetric && row && s.numerics != kIntx && (!in || (token && in->type == NumType::integer))) return Class::int8;
    if (in) refuse(t, "has quantized activations");
    if (!row && w.strategy != Strategy::group) refuse(t, "has scales of a whole tensor or of blocks");
    return Class::intx;
  }

  void add(const Tensor& t) {
    if (!t.ggml.empty()) refuse(t, "is " + t.ggml);
    const Scheme& s = m_.schemes[static_cast<size_t>(t.scheme)];
    if (t.shape.rank() != 2 || !t.name.ends_with(".weight")) refuse(t, "is no weight of a linear");
    Class c = class_of(t, s);
    ModuleInfo info = classify(t.name, DType::bf16, t.shape, m_.config);
    if (info.kind == ModuleKind::embedding) refuse(t, "is an embedding");
    if (first_ == nullptr) {
      first_ = &t;
      class_ = c;
    }
    const Scheme& other = m_.schemes[static_cast<size_t>(first_->scheme)];
    bool alike = c == class_ && (c == Class::intx ? other.weights.num_bits == s.weights.num_bits &&
                                                        other.weights.strategy == s.weights.strategy &&
                                                        other.weights.group_size == s.weights.group_size
                                                  : other.weights == s.weights && other.input_activations == s.input_activations);
    if (!alike) refuse(t, "is quantized in another way than '" + first_->name + "', while the config names one way for all");
    size_t before = out_.tensors.size();
    prefix_ = t.name.substr(0, t.name.size() - 7);
    Json data = c == Class::float8 ? float8(t, s) : c == Class::int8 ? int8(t, s) : c == Class::int4 ? int4(t, s) : intx(t, s);
    out_.metadata.emplace_back(t.name, python_text(data));
    std::string names;
    for (size_t i = before; i < out_.tensors.size(); ++i) names += (names.empty() ? "" : " ") + out_.tensors[i].name;
    out_.ledger.push_back({t.name, "quantized", names});
  }

  OutTensor& part(const Tensor& t, const char* attribute, Role role, DType dtype, const Shape& shape) {
    OutTensor& out = out_.tensors.emplace_back();
    out.name = prefix_ + "._weight_" + attribute;
    out.dtype = dtype;
    out.shape = shape;
    out.part = t.part(role);
    if (out.part == nullptr) refuse(t, "has no " + std::string(name_of(role)));
    return out;
  }
  static void lay_out(OutTensor& out, const Layout& layout, const LayoutArgs& args) {
    out.layout = &layout;
    out.layout_args = args;
  }
  // Zero points that are all zero, as many as there are scales.
  void zero_points(const Tensor& t, const Shape& shape) {
    OutTensor& out = part(t, "zero_point", Role::scale, DType::i8, shape);
    out.dtype = DType::i8;
    uint64_t per_row = shape.cols();
    out.relaid_row_bytes = per_row;
    out.relay = [per_row](const std::byte*, uint64_t, uint64_t count, std::byte* to) { std::memset(to, 0, count * per_row); };
  }
  static Json class_json(const char* type, const Json& data, const std::vector<std::string>& names) {
    Json j = typed(type, data);
    j["_tensor_data_names"] = names;
    return j;
  }

  Json float8(const Tensor& t, const Scheme& s) {
    bool row = s.weights.strategy == Strategy::channel, dynamic = s.input_activations.has_value();
    part(t, "qdata", Role::codes, DType::f8_e4m3, t.shape);
    part(t, "scale", Role::scale, DType::f32, row ? Shape{t.shape[0], 1} : Shape{1, 1});
    Json preference = typed("KernelPreference", "AUTO"), kwargs;
    if (dynamic) {
      kwargs = typed("QuantizeTensorToFloat8Kwargs",
                     {{"float8_dtype", dtype_json("float8_e4m3fn")}, {"granularity", granularity(s.weights.strategy, false)},
                      {"mm_config", nullptr}, {"hp_value_lb", nullptr}, {"hp_value_ub", nullptr}, {"kernel_preference", preference}});
    }
    Json data = {{"block_size", {row ? 1 : t.shape[0], t.shape[1]}}, {"mm_config", dynamic ? mm_config(false) : Json()},
                 {"act_quant_kwargs", kwargs}, {"kernel_preference", preference}, {"dtype", dtype_json(torch_name(t.dtype))}};
    return class_json("Float8Tensor", data, {"qdata", "scale"});
  }

  Json int8(const Tensor& t, const Scheme& s) {
    Shape scales{t.shape[0], 1};
    lay_out(part(t, "qdata", Role::codes, DType::i8, t.shape), dense_layout,
            {.rows = t.shape[0], .cols = t.shape[1], .is_signed = true});
    part(t, "scale", Role::scale, DType::f32, scales);
    zero_points(t, scales);
    Json kwargs;
    if (s.input_activations) {
      kwargs = typed("QuantizeTensorToInt8Kwargs", {{"granularity", granularity(Strategy::channel, false)},
                                                    {"mapping_type", typed("MappingType", "SYMMETRIC")}, {"reduce_range", false}});
    }
    Json data = {{"act_quant_kwargs", kwargs}, {"reduce_range", false}, {"block_size", {1, t.shape[1]}}, {"dtype", dtype_json(torch_name(t.dtype))}};
    return class_json("Int8Tensor", data, {"zero_point", "qdata", "scale"});
  }

  Json int4(const Tensor& t, const Scheme& s) {
    uint64_t rows = t.shape[0], groups = scale_shape(s.weights, t.shape).cols();
    lay_out(part(t, "qdata", Role::codes, DType::i8, Shape{rows, t.shape[1] / 2}), dense_layout,
            {.rows = rows, .cols = t.shape[1], .bits = 4, .stored_bits = 4, .is_signed = true});
    for (auto [name, role] : {std::pair{"scale", Role::scale}, {"zero_point", Role::offset}}) {
      DType dtype = t.part(role)->dtype;
      auto bits = static_cast<int>(dtype_bits(dtype));
      lay_out(part(t, name, role, dtype, Shape{groups, rows}), transposed_layout,
              {.rows = rows, .cols = groups, .bits = bits, .stored_bits = bits});
    }
    Json data = {{"block_size", {1, s.weights.group_size}}, {"shape", {rows, t.shape[1]}}, {"activation_dtype", dtype_json(torch_name(t.dtype))}};
    return class_json("Int4Tensor", data, {"qdata", "scale", "zero_point"});
  }

  Json intx(const Tensor& t, const Scheme& s) {
    int bits = s.weights.num_bits;
    Shape scales = scale_shape(s.weights, t.shape);
    lay_out(part(t, "qdata", Role::codes, DType::i8, t.shape), bytes_layout,
            {.rows = t.shape[0], .cols = t.shape[1], .bits = bits, .is_signed = true});
    part(t, "scale", Role::scale, t.part(Role::scale)->dtype, scales);
    if (s.weights.symmetric) {
      zero_points(t, scales);
    } else {
      lay_out(part(t, "zero_point", Role::zero_point, DType::i8, scales), bytes_layout,
              {.rows = scales.rows(), .cols = scales.cols(), .bias = uint64_t{1} << (bits - 1)});
      asymmetric_ = true;
    }
    uint64_t group = s.group_of(t.shape[1]);
    Json data = {{"target_dtype", dtype_json("int" + std::to_string(bits))}, {"block_size", {1, group}},
                 {"dtype", dtype_json(torch_name(t.dtype))}, {"activation_quantization", nullptr}};
    return class_json("IntxUnpackedToInt8Tensor", data, {"qdata", "scale", "zero_point"});
  }

  // Fields as 0.18 has them; those at their defaults that older versions do not know are left out.
  Json config() const {
    const Scheme& s = m_.schemes[static_cast<size_t>(first_->scheme)];
    Json fp8 = dtype_json("float8_e4m3fn"), row = granularity(Strategy::channel, true);
    switch (class_) {
      case Class::float8: {
        if (!s.input_activations) return versioned("Float8WeightOnlyConfig", 2, {{"weight_dtype", fp8}});
        Json g = granularity(s.weights.strategy, true);
        return versioned("Float8DynamicActivationFloat8WeightConfig", 2,
                         {{"activation_dtype", fp8}, {"weight_dtype", fp8}, {"granularity", {g, g}}});
      }
      case Class::int8:
        if (!s.input_activations) return versioned("Int8WeightOnlyConfig", 2, {{"granularity", row}});
        return versioned("Int8DynamicActivationInt8WeightConfig", 2,
                         {{"act_mapping_type", typed("MappingType", "SYMMETRIC")}, {"granularity", row}});
      case Class::int4:
        return versioned("Int4WeightOnlyConfig", 2, {{"group_size", s.weights.group_size}, {"int4_packing_format", typed("Int4PackingFormat", "PLAIN")}});
      case Class::intx: break;
    }
    Json g = s.weights.strategy == Strategy::group ? versioned("PerGroup", 1, {{"group_size", s.weights.group_size}})
                                                   : versioned("PerAxis", 1, {{"axis", 0}});
    return versioned("IntxWeightOnlyConfig", 2,
                     {{"weight_dtype", dtype_json("int" + std::to_string(s.weights.num_bits))}, {"granularity", g},
                      {"mapping_type", typed("MappingType", asymmetric_ ? "ASYMMETRIC" : "SYMMETRIC")},
                      {"intx_packing_format", typed("IntxPackingFormat", "UNPACKED_TO_INT8")}});
  }

  Json quantization_config() const {
    std::vector<std::string> plain = unquantized_linears(m_);
    bool only_head = std::ranges::all_of(plain, [](const std::string& name) { return name == "lm_head"; });
    Json q;
    q["include_input_output_embeddings"] = false;
    q["modules_to_not_convert"] = only_head ? Json() : Json(plain);
    q["quant_method"] = "torchao";
    q["quant_type"] = {{"default", config()}};
    q["quant_type_kwargs"] = Json::object();
    q["untie_embedding_weights"] = false;
    return q;
  }

  const Model& m_;
  ExportPlan out_;
  std::string prefix_;
  const Tensor* first_ = nullptr;
  Class class_ = Class::int8;
  bool asymmetric_ = false;
};

ExportPlan plan(const Store& store, const ExportOptions& options) {
  refuse_quantized_tied_head(store);
  return Writer(store).run(options);
}

}  // namespace

const Format& torchao_format() {
  static const Format format = {"torchao", "torchao 0.15 to 0.18 through transformers, vLLM: INT8, FP8, INT4, one code a byte",
                                plan, "torchao", adopt};
  return format;
}

}  // namespace qp
