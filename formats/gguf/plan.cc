#include "formats/gguf/plan.h"

#include <map>

#include "lib/base/error.h"
#include "lib/config/mixes.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

// general.file_type of the types that no mix is named after (reference/gguf.md 7.2).
constexpr std::pair<std::string_view, uint32_t> kFileTypes[] = {
    {"f32", 0}, {"f16", 1}, {"bf16", 32}, {"mxfp4", 38}, {"nvfp4", 39}};
constexpr uint32_t kQuantizationVersion = 2;  // of ggml's blocks

const GgmlType& type_named(std::string_view name) { return *ggml_type(name); }

// The type of a tensor whose values are floats.
const GgmlType& float_type(const Tensor& t, const std::string& gguf, const Shape& shape) {
  if (ggml::always_f32(gguf, shape)) return type_named("f32");
  switch (t.dtype) {
    case DType::f16: return type_named("f16");
    case DType::bf16: return type_named("bf16");
    case DType::f32:
    case DType::f64: return type_named("f32");
    default: break;
  }
  throw limit_error("is " + std::string(dtype_name(t.dtype)) + ", which is no weight of llama.cpp")
      .tensor(t.name);
}

const GgmlType& type_of(const Store& store, const ggml::MappedTensor& mapped) {
  const Model& m = store.model();
  const Tensor& t = m.tensors[mapped.pieces.front().tensor];
  if (!t.quantized()) return float_type(t, mapped.name, mapped.shape);
  if (is_mxfp4(m, t)) return type_named("mxfp4");
  if (t.ggml.empty()) {
    throw limit_error("is quantized (" + m.schemes[static_cast<size_t>(t.scheme)].name +
                      "), which GGUF cannot hold")
        .tensor(t.name)
        .hint(
            "load it with qload --dequantize, or quantize the base model with qquantize -s q4_k_m");
  }
  const GgmlType* type = ggml_type(t.ggml);
  if (type == nullptr || mapped.plus_one) {
    throw input_error("has ggml type '" + printable(t.ggml) + "', which does not fit")
        .tensor(t.name);
  }
  return *type;
}

// The file type that qquantize was asked for: types are mixed, so they do not tell.
const Mix* asked_mix(const Model& m) {
  for (size_t i = m.provenance.size(); i-- > 0;) {
    const Json& entry = m.provenance[i];
    if (!entry.is_object() || !entry.contains("options") || !entry["options"].is_object()) continue;
    auto rules = entry["options"].find("rules");
    if (rules == entry["options"].end() || !rules->is_array()) continue;
    for (const Json& rule : *rules) {
      auto mix = rule.is_object() ? rule.find("mix") : rule.end();
      if (!rule.is_object() || mix == rule.end() || !mix->is_object()) continue;
      if (const Mix* found = find_mix(json_string(*mix, "name", ""))) return found;
    }
  }
  return nullptr;
}

uint32_t file_type(const Model& m, const std::vector<GgufOut>& tensors) {
  if (const Mix* mix = asked_mix(m)) return mix->file_type;
  std::map<std::string_view, double> bytes;
  for (const GgufOut& t : tensors) {
    if (!ggml::always_f32(t.entry.name, t.entry.shape)) {
      bytes[t.entry.type->name] +=
          static_cast<double>(t.entry.bytes) / t.entry.type->bytes * t.entry.type->block;
    }
  }
  std::string_view most = "f32";
  double best = 0;
  for (auto [name, n] : bytes) {
    if (n > best) most = name, best = n;
  }
  for (auto [name, id] : kFileTypes) {
    if (name == most) return id;
  }
  const Mix* mix = find_mix(most);
  return mix != nullptr ? mix->file_type : 0;
}

uint64_t vocabulary_of(const std::vector<GgufOut>& tensors, const std::string& label) {
  for (const GgufOut& t : tensors) {
    if (t.entry.name == "token_embd.weight" && t.entry.shape.rank() == 2) return t.entry.shape[0];
  }
  throw input_error("has no embedding of tokens, so no model of llama.cpp").file(label);
}

std::vector<GgufOut> plan_tensors(const Store& store, const ggml::Family& family) {
  std::vector<GgufOut> out;
  const Model& m = store.model();
  if (family.compute != nullptr) {
    for (ggml::Computed& c : family.compute(ggml::Config(m.config))) {
      GgufOut& t = out.emplace_back();
      Shape shape{c.values.size()};
      t.entry = {c.name, &type_named("f32"), shape, gguf_bytes(c.name, type_named("f32"), shape)};
      t.values = std::move(c.values);
    }
  }
  for (ggml::MappedTensor& mapped : ggml::map_tensors(m, family).tensors) {
    GgufOut& t = out.emplace_back();
    const GgmlType& type = type_of(store, mapped);
    uint64_t bytes = gguf_bytes(mapped.name, type, mapped.shape);
    t.entry = {std::move(mapped.name), &type, mapped.shape, bytes};
    t.pieces = std::move(mapped.pieces);
    t.plus_one = mapped.plus_one;
  }
  return out;
}

// Windows that llama.cpp does not have: within them its results are the same.
void warn_of_window(const ggml::Config& config, const ggml::Metadata& metadata,
                    std::string_view arch, const ExportOptions& options) {
  auto window = config.count({"sliding_window"});
  auto context = config.count({"max_position_embeddings"});
  if (!window || *window == 0 || (context && *window >= *context)) return;
  if (!config.flag("use_sliding_window", true)) return;
  bool known = metadata.find(std::string(arch) + ".attention.sliding_window") != nullptr;
  if (known && arch != "phi3") return;
  options.warn(
      "llama.cpp ignores this model's sliding window: it computes something else for texts of more "
      "than " +
      std::to_string(*window) + " tokens");
}

}  // namespace

bool is_mxfp4(const Model& m, const Tensor& t) {
  if (t.scheme < 0 || t.dequantize || !t.ggml.empty()) return false;
  const Scheme& s = m.schemes[static_cast<size_t>(t.scheme)];
  bool plain =
      t.parts.size() == 2 && t.part(Role::codes) != nullptr && t.part(Role::scale) != nullptr;
  return plain && s.code_kind() == CodeKind::e2m1 && s.scale_kind() == ScaleKind::e8m0 &&
         !s.input_activations && s.weights.strategy == Strategy::group &&
         s.weights.group_size == 32;
}

GgufPlan plan_gguf(const Store& store, const ExportOptions& options) {
  const Model& m = store.model();
  const ggml::Family& family = ggml::family_of(m);
  GgufPlan plan;
  plan.tensors = plan_tensors(store, family);
  plan.metadata = ggml::Metadata(std::string(family.arch));
  plan.metadata.set("general.architecture", std::string(family.arch));
  describe_model(store, options, plan.tensors, plan.metadata);
  ggml::Config config(m.config);
  family.describe(config, plan.metadata);
  warn_of_window(config, plan.metadata, family.arch, options);
  plan.metadata.set("general.file_type", file_type(m, plan.tensors));
  plan.metadata.set("general.quantization_version", kQuantizationVersion);
  describe_tokenizer(store, options, vocabulary_of(plan.tensors, store.label()), plan.metadata);
  return plan;
}

}  // namespace qp
