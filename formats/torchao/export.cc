#include <algorithm>
#include <cstring>

#include "formats/hf/config.h"
#include "formats/hf/linear_writer.h"
#include "formats/torchao/torchao.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/store.h"

namespace qp::torchao {
namespace {

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
  return in_config ? versioned(row ? "PerRow" : "PerTensor", 1, data)
                   : typed(row ? "PerRow" : "PerTensor", data);
}
Json mm_config(bool in_config) {
  Json data = {{"emulate", false}, {"use_fast_accum", true}, {"pad_inner_dim", false}};
  return in_config ? versioned("Float8MMConfig", 1, data) : typed("Float8MMConfig", data);
}

class Writer {
 public:
  explicit Writer(const Store& store) : store_(store), m_(store.model()) {}

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
    finish_plan(store_, options, first_ == nullptr ? Json() : quantization_config(), out_);
    return std::move(out_);
  }

 private:
  [[noreturn]] static void refuse(const LinearWriter& w, const std::string& why) {
    w.refuse(why + ", which torchao's plain tensors cannot hold",
             "quantize it with torchao-int8wo, -int8dq, -int4wo-32, -fp8wo or -fp8dq-per_row");
  }

  static Class class_of(const LinearWriter& t) {
    const Scheme& s = t.scheme;
    const QuantArgs& w = s.weights;
    const auto& in = s.input_activations;
    for (Role role :
         {Role::scale_2, Role::global_scale, Role::pre_scale, Role::g_idx, Role::nested_scale}) {
      if (t.has(role)) refuse(t, "has a " + std::string(name_of(role)));
    }
    if (w.amax_scale || s.code_kind() == CodeKind::codebook || s.code_kind() == CodeKind::e2m1 ||
        s.scale_kind() != ScaleKind::source) {
      refuse(t, "is " + s.name);
    }
    bool row = w.strategy == Strategy::channel, tensor = w.strategy == Strategy::tensor;
    bool token = in && in->dynamic == Dynamic::yes && in->strategy == Strategy::token &&
                 in->num_bits == 8 && in->symmetric;
    bool whole = in && in->dynamic == Dynamic::yes && in->strategy == Strategy::tensor &&
                 in->num_bits == 8 && in->symmetric;
    if (s.code_kind() == CodeKind::e4m3) {
      bool fits = w.symmetric && ((row && (!in || token)) || (tensor && whole));
      if (!fits || (in && in->type != NumType::floating))
        refuse(t, "has FP8 codes other than per row, or per tensor with activations alike");
      return Class::float8;
    }
    if (t.has(Role::offset)) {
      if (in || w.num_bits != 4 || w.strategy != Strategy::group)
        refuse(t, "has float zero points of another kind than int4 groups");
      return Class::int4;
    }
    if (w.num_bits == 8 && w.symmetric && row && s.numerics != kIntx &&
        (!in || (token && in->type == NumType::integer)))
      return Class::int8;
    if (in) refuse(t, "has quantized activations");
    if (!row && w.strategy != Strategy::group)
      refuse(t, "has scales of a whole tensor or of blocks");
    return Class::intx;
  }

  void add(const Tensor& t) {
    refuse_ggml(store_, t, "torchao");
    LinearWriter w(store_, t, out_);
    const Scheme& s = w.scheme;
    if (t.shape.rank() != 2 || !t.name.ends_with(".weight")) refuse(w, "is no weight of a linear");
    Class c = class_of(w);
    ModuleInfo info = classify(t.name, DType::bf16, t.shape, m_.config);
    if (info.kind == ModuleKind::embedding) refuse(w, "is an embedding");
    if (first_ == nullptr) {
      first_ = &t;
      class_ = c;
    }
    const Scheme& other = m_.schemes[static_cast<size_t>(first_->scheme)];
    bool alike =
        c == class_ && (c == Class::intx ? other.weights.num_bits == s.weights.num_bits &&
                                               other.weights.strategy == s.weights.strategy &&
                                               other.weights.group_size == s.weights.group_size
                                         : other.weights == s.weights &&
                                               other.input_activations == s.input_activations);
    if (!alike)
      refuse(w, "is quantized in another way than '" + first_->name +
                    "', while the config names one way for all");
    Json data = c == Class::float8 ? float8(w)
                : c == Class::int8 ? int8(w)
                : c == Class::int4 ? int4(w)
                                   : intx(w);
    out_.metadata.emplace_back(t.name, python_text(data));
    w.finish();
  }

  // Parts that are no codes have rows and columns of their own.
  static void lay_out(OutTensor& out, const Layout& layout, const LayoutArgs& args) {
    out.layout = &layout;
    out.layout_args = args;
  }
  // Zero points that are all zero, as many as there are scales.
  static void zero_points(LinearWriter& w, const Shape& shape) {
    OutTensor& out = w.part("_weight_zero_point", Role::scale, DType::i8, shape);
    uint64_t per_row = shape.cols();
    out.relaid_row_bytes = per_row;
    out.relay = [per_row](const std::byte*, uint64_t, uint64_t count, std::byte* to) {
      std::memset(to, 0, count * per_row);
    };
  }
  static Json class_json(const char* type, const Json& data,
                         const std::vector<std::string>& names) {
    Json j = typed(type, data);
    j["_tensor_data_names"] = names;
    return j;
  }

  static Json float8(LinearWriter& w) {
    const Tensor& t = w.tensor;
    const Scheme& s = w.scheme;
    bool row = s.weights.strategy == Strategy::channel, dynamic = s.input_activations.has_value();
    w.part("_weight_qdata", Role::codes, DType::f8_e4m3, t.shape);
    w.part("_weight_scale", Role::scale, DType::f32, row ? Shape{t.shape[0], 1} : Shape{1, 1});
    Json preference = typed("KernelPreference", "AUTO"), kwargs;
    if (dynamic) {
      kwargs = typed("QuantizeTensorToFloat8Kwargs",
                     {{"float8_dtype", dtype_json("float8_e4m3fn")},
                      {"granularity", granularity(s.weights.strategy, false)},
                      {"mm_config", nullptr},
                      {"hp_value_lb", nullptr},
                      {"hp_value_ub", nullptr},
                      {"kernel_preference", preference}});
    }
    Json data = {{"block_size", {row ? 1 : t.shape[0], t.shape[1]}},
                 {"mm_config", dynamic ? mm_config(false) : Json()},
                 {"act_quant_kwargs", kwargs},
                 {"kernel_preference", preference},
                 {"dtype", dtype_json(torch_name(t.dtype))}};
    return class_json("Float8Tensor", data, {"qdata", "scale"});
  }

  static Json int8(LinearWriter& w) {
    const Tensor& t = w.tensor;
    const Scheme& s = w.scheme;
    Shape scales{t.shape[0], 1};
    w.laid_out("_weight_qdata", Role::codes, DType::i8, t.shape, dense_layout, {.is_signed = true});
    w.part("_weight_scale", Role::scale, DType::f32, scales);
    zero_points(w, scales);
    Json kwargs;
    if (s.input_activations) {
      kwargs = typed("QuantizeTensorToInt8Kwargs",
                     {{"granularity", granularity(Strategy::channel, false)},
                      {"mapping_type", typed("MappingType", "SYMMETRIC")},
                      {"reduce_range", false}});
    }
    Json data = {{"act_quant_kwargs", kwargs},
                 {"reduce_range", false},
                 {"block_size", {1, t.shape[1]}},
                 {"dtype", dtype_json(torch_name(t.dtype))}};
    return class_json("Int8Tensor", data, {"zero_point", "qdata", "scale"});
  }

  static Json int4(LinearWriter& w) {
    const Tensor& t = w.tensor;
    const Scheme& s = w.scheme;
    uint64_t rows = t.shape[0], groups = scale_shape(s.weights, t.shape).cols();
    w.laid_out("_weight_qdata", Role::codes, DType::i8, Shape{rows, t.shape[1] / 2}, dense_layout,
               {.is_signed = true});
    for (auto [name, role] :
         {std::pair{"_weight_scale", Role::scale}, {"_weight_zero_point", Role::offset}}) {
      DType dtype = t.part(role)->dtype;
      auto bits = static_cast<int>(dtype_bits(dtype));
      lay_out(w.part(name, role, dtype, Shape{groups, rows}), transposed_layout,
              {.rows = rows, .cols = groups, .bits = bits, .stored_bits = bits});
    }
    Json data = {{"block_size", {1, s.weights.group_size}},
                 {"shape", {rows, t.shape[1]}},
                 {"activation_dtype", dtype_json(torch_name(t.dtype))}};
    return class_json("Int4Tensor", data, {"qdata", "scale", "zero_point"});
  }

  Json intx(LinearWriter& w) {
    const Tensor& t = w.tensor;
    const Scheme& s = w.scheme;
    int bits = s.weights.num_bits;
    Shape scales = scale_shape(s.weights, t.shape);
    lay_out(w.part("_weight_qdata", Role::codes, DType::i8, t.shape), bytes_layout,
            {.rows = w.rows, .cols = w.cols, .bits = bits, .is_signed = true});
    w.part("_weight_scale", Role::scale, t.part(Role::scale)->dtype, scales);
    if (s.weights.symmetric) {
      zero_points(w, scales);
    } else {
      lay_out(w.part("_weight_zero_point", Role::zero_point, DType::i8, scales), bytes_layout,
              {.rows = scales.rows(), .cols = scales.cols(), .bias = uint64_t{1} << (bits - 1)});
      asymmetric_ = true;
    }
    uint64_t group = s.group_of(t.shape[1]);
    Json data = {{"target_dtype", dtype_json("int" + std::to_string(bits))},
                 {"block_size", {1, group}},
                 {"dtype", dtype_json(torch_name(t.dtype))},
                 {"activation_quantization", nullptr}};
    return class_json("IntxUnpackedToInt8Tensor", data, {"qdata", "scale", "zero_point"});
  }

  // Fields as 0.18 has them; those at their defaults that older versions do not know are left out.
  Json config() const {
    const Scheme& s = m_.schemes[static_cast<size_t>(first_->scheme)];
    Json fp8 = dtype_json("float8_e4m3fn"), row = granularity(Strategy::channel, true);
    switch (class_) {
      case Class::float8: {
        if (!s.input_activations)
          return versioned("Float8WeightOnlyConfig", 2, {{"weight_dtype", fp8}});
        Json g = granularity(s.weights.strategy, true);
        return versioned(
            "Float8DynamicActivationFloat8WeightConfig", 2,
            {{"activation_dtype", fp8}, {"weight_dtype", fp8}, {"granularity", {g, g}}});
      }
      case Class::int8:
        if (!s.input_activations)
          return versioned("Int8WeightOnlyConfig", 2, {{"granularity", row}});
        return versioned(
            "Int8DynamicActivationInt8WeightConfig", 2,
            {{"act_mapping_type", typed("MappingType", "SYMMETRIC")}, {"granularity", row}});
      case Class::int4:
        return versioned("Int4WeightOnlyConfig", 2,
                         {{"group_size", s.weights.group_size},
                          {"int4_packing_format", typed("Int4PackingFormat", "PLAIN")}});
      case Class::intx: break;
    }
    Json g = s.weights.strategy == Strategy::group
                 ? versioned("PerGroup", 1, {{"group_size", s.weights.group_size}})
                 : versioned("PerAxis", 1, {{"axis", 0}});
    return versioned(
        "IntxWeightOnlyConfig", 2,
        {{"weight_dtype", dtype_json("int" + std::to_string(s.weights.num_bits))},
         {"granularity", g},
         {"mapping_type", typed("MappingType", asymmetric_ ? "ASYMMETRIC" : "SYMMETRIC")},
         {"intx_packing_format", typed("IntxPackingFormat", "UNPACKED_TO_INT8")}});
  }

  Json quantization_config() const {
    std::vector<std::string> plain = unquantized_linears(m_);
    bool only_head =
        std::ranges::all_of(plain, [](const std::string& name) { return name == "lm_head"; });
    Json q;
    q["include_input_output_embeddings"] = false;
    q["modules_to_not_convert"] = only_head ? Json() : Json(plain);
    q["quant_method"] = "torchao";
    q["quant_type"] = {{"default", config()}};
    q["quant_type_kwargs"] = Json::object();
    q["untie_embedding_weights"] = false;
    return q;
  }

  const Store& store_;
  const Model& m_;
  ExportPlan out_;
  const Tensor* first_ = nullptr;
  Class class_ = Class::int8;
  bool asymmetric_ = false;
};

}  // namespace

ExportPlan plan(const Store& store, const ExportOptions& options) {
  return Writer(store).run(options);
}

}  // namespace qp::torchao

namespace qp {

const Format& torchao_format() {
  static const Format format = {
      "torchao",
      "torchao 0.15 to 0.18 through transformers, vLLM: INT8, FP8, INT4, one code a byte",
      torchao::plan, "torchao", torchao::adopt, torchao::check};
  return format;
}

}  // namespace qp
