#include <algorithm>
#include <map>

#include "formats/container/safetensors.h"
#include "formats/hf/modules.h"
#include "formats/torchao/torchao.h"
#include "lib/base/error.h"

namespace qp::torchao {
namespace {

constexpr std::string_view kRoot[] = {"_weight_qdata"};
constexpr std::string_view kParts[] = {"_weight_scale", "_weight_zero_point"};

QuantArgs dynamic_input(NumType type, Strategy strategy, bool symmetric = true) {
  return {.num_bits = 8,
          .type = type,
          .symmetric = symmetric,
          .strategy = strategy,
          .dynamic = Dynamic::yes,
          .scale_dtype = {}};
}

std::string enum_value(const Json& object, const char* key) {
  auto it = object.find(key);
  return it != object.end() && it->is_object() ? json_string(*it, "_data", "") : "";
}

class Adopter {
 public:
  Adopter(Model& model, const Json& config, const LoadOptions& options)
      : m_(model), options_(options) {
    auto type = config.find("quant_type");
    if (type == config.end() || !(type->is_object() || type->is_string()))
      throw input_error("quantization_config has no 'quant_type'");
    for (const FileRef& file : m_.files) {
      if (!file.path.ends_with(".safetensors")) continue;
      auto mapped = MappedFile::open(file.path);
      metadata_.merge(parse_safetensors(mapped->bytes(), file.path).metadata);
    }
    for (const Tensor& t : m_.tensors) {
      if (t.name.ends_with(":qdata") || t.name.ends_with(":_data")) {
        throw limit_error("was written by torchao 0.14, whose names no later version reads")
            .tensor(t.name)
            .hint("save it again with torchao 0.15 or later");
      }
    }
  }

  void run() {
    assemble(m_, {kRoot, kParts}, [this](const RawModule& m) { return build(m); });
    for (const Tensor& t : m_.tensors) {
      auto dot = t.name.rfind('.');
      std::string_view last =
          std::string_view(t.name).substr(dot == std::string::npos ? 0 : dot + 1);
      bool orphan = std::ranges::find(kParts, last) != std::end(kParts);
      bool other = last.starts_with("_") && last.ends_with("_qdata");
      if (orphan) throw input_error("belongs to a _weight_qdata that is not there").tensor(t.name);
      if (other)
        throw limit_error("is no weight of a linear, the only torchao tensors that qpipe reads")
            .tensor(t.name);
    }
    m_.format = options_.dequantize ? "safetensors" : "torchao";
  }

 private:
  Tensor build(const RawModule& m) {
    auto it = metadata_.find(m.name + ".weight");
    if (it == metadata_.end())
      m.fail("has no entry in the file's metadata, which would say what its numbers mean");
    Json j = parse_json(it->second, m.name + ".weight (metadata)");
    std::string type = j.is_object() ? json_string(j, "_type", "") : "";
    if (type.empty() || !j.contains("_data") || !j["_data"].is_object())
      m.fail("its metadata names no class");
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
    bool pair = it != data.end() && it->is_array() && it->size() == 2 &&
                (*it)[0].is_number_unsigned() && (*it)[1].is_number_unsigned();
    uint64_t rows = pair ? (*it)[0].get<uint64_t>() : 0, cols = pair ? (*it)[1].get<uint64_t>() : 0;
    if (rows == 0 || cols == 0 || rows > shape[0] || cols > shape[1])
      m.fail("its metadata has no block_size that fits " + shape.str());
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
    if (raw.shape.rank() != 2 || raw.shape[0] == 0 || raw.shape[1] == 0)
      m.fail("its _weight_qdata is no matrix");
    return raw.shape;
  }
  // Weight-only, or activations quantized at run time.
  std::optional<QuantArgs> input(const RawModule& m, const Json& data, NumType type) const {
    auto it = data.find("act_quant_kwargs");
    if (it == data.end() || it->is_null()) return std::nullopt;
    Json kwargs = it->is_object() ? it->value("_data", Json::object()) : Json::object();
    auto granularity = kwargs.find("granularity");
    std::string name = granularity != kwargs.end() && granularity->is_object()
                           ? json_string(*granularity, "_type", "")
                           : "";
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
    if (!zeros(m))
      m.fail("has a _weight_zero_point that is not zero, which its class does not have");
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
    if (activation == "float8_e4m3fn")
      s.input_activations = dynamic_input(NumType::floating, Strategy::token);
    uint64_t groups = scale_shape(s.weights, t.shape).cols();
    t.parts.push_back(m.laid_out(
        "_weight_qdata", Role::codes, DType::i8, packed, dense_layout,
        {.rows = t.shape[0], .cols = t.shape[1], .bits = 4, .stored_bits = 4, .is_signed = true}));
    t.parts.push_back(m.transposed("_weight_scale", Role::scale, t.shape[0], groups));
    t.parts.push_back(m.transposed("_weight_zero_point", Role::offset, t.shape[0], groups));
    t.dtype = m.at("_weight_scale").dtype;
  }

  void intx(const RawModule& m, const Json& data, Tensor& t, Scheme& s) {
    t.shape = matrix(m);
    std::string target = enum_value(data, "target_dtype");
    bool known =
        target.size() == 4 && target.starts_with("int") && target[3] >= '2' && target[3] <= '8';
    if (!known)
      m.fail("its metadata has the target_dtype '" + printable(target) +
             "' (expected int2 to int8)");
    int bits = target[3] - '0';
    s.numerics = kIntx;
    s.name = "torchao-intx-" + target;
    s.weights = {.num_bits = bits, .symmetric = zeros(m), .scale_dtype = {}};
    set_strategy(m, data, t.shape, s.weights);
    std::string activation = enum_value(data, "activation_quantization");
    if (activation.empty()) activation = json_string(data, "activation_quantization", "");
    if (activation.starts_with("int8_asym"))
      s.input_activations = dynamic_input(NumType::integer, Strategy::token, false);
    Shape scales = scale_shape(s.weights, t.shape);
    t.parts.push_back(
        m.laid_out("_weight_qdata", Role::codes, DType::i8, t.shape, bytes_layout,
                   {.rows = t.shape[0], .cols = t.shape[1], .bits = bits, .is_signed = true}));
    t.parts.push_back(m.float_part("_weight_scale", Role::scale, scales));
    if (s.weights.symmetric) return;
    t.parts.push_back(m.laid_out(
        "_weight_zero_point", Role::zero_point, DType::i8, m.at("_weight_zero_point").shape,
        bytes_layout,
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

}  // namespace

void adopt(Model& model, const Json& config, const LoadOptions& options) {
  Adopter(model, config, options).run();
}

}  // namespace qp::torchao
