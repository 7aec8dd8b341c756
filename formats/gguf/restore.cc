#include "formats/gguf/restore.h"

#include <charconv>
#include <cstring>
#include <set>
#include <unordered_map>

#include "lib/base/error.h"

namespace qp {
namespace {

constexpr size_t kMaxArray = 4096;
constexpr uint64_t kMaxLayers = 100000, kMaxExperts = 65536;

using Tensors = std::unordered_map<std::string_view, std::pair<const GgufFile*, const GgufTensor*>>;

Json json_of(const GgufFile& meta, std::string_view key, const GgufValue& value) {
  switch (value.type) {
    case GgufType::string: return std::string(*meta.string_at(key));
    case GgufType::boolean: return *meta.bool_at(key);
    case GgufType::f32:
    case GgufType::f64: return *meta.real_at(key);
    case GgufType::array: break;
    default: return meta.ints_at(key)->front();
  }
  bool numbers = value.element != GgufType::string && value.element != GgufType::f32 &&
                 value.element != GgufType::f64 && value.element != GgufType::boolean;
  if (!numbers || value.count > kMaxArray) return Json();
  return Json(*meta.ints_at(key));
}

// "ARCH." keys without "ARCH.".
Json keys_of(const GgufFile& meta, const std::string& architecture) {
  Json keys = Json::object();
  for (const auto& [key, value] : meta.metadata) {
    if (!key.starts_with(architecture + ".")) continue;
    std::string name(key.substr(architecture.size() + 1));
    if (Json json = json_of(meta, key, value); !json.is_null()) keys[name] = std::move(json);
  }
  return keys;
}

std::vector<float> values_of(const Tensors& tensors, std::string_view name) {
  auto it = tensors.find(name);
  if (it == tensors.end() || it->second.second->type->name != "f32") {
    throw input_error("has no values in F32").tensor(name);
  }
  const auto& [file, t] = it->second;
  std::vector<float> out(t->bytes / 4);
  std::memcpy(out.data(), file->bytes.data() + t->offset, out.size() * 4);
  return out;
}

// Mixtral's files say "llama", as Llama's do.
const ggml::Family* choose(const std::string& architecture, const Json& keys) {
  bool experts = keys.contains("expert_count") && keys["expert_count"] != 0;
  for (const ggml::Family* f : ggml::families_of(architecture)) {
    if (architecture != "llama" || (f->model_type == "mixtral") == experts) return f;
  }
  return nullptr;
}

void find_targets(const Tensors& tensors, uint64_t experts, RestoredModel& out) {
  ggml::HfNames names(*out.family);
  uint64_t layers = out.config.contains("text_config")
                        ? out.config["text_config"]["num_hidden_layers"].get<uint64_t>()
                    : out.config.contains("n_layer")
                        ? out.config["n_layer"].get<uint64_t>()
                        : out.config["num_hidden_layers"].get<uint64_t>();
  if (layers > kMaxLayers || layers > tensors.size()) throw input_error("tensors are missing");
  std::set<uint64_t> seen;
  for (const auto& [name, tensor] : tensors) {
    if (name == "rope_freqs.weight" || name.starts_with("rope_factors_")) {
      out.targets[name] = std::nullopt;
      continue;
    }
    auto target = names.find(name);
    if (!target) throw input_error("tensor '" + printable(name) + "' is unexpected");
    if (target->layer && *target->layer >= layers) {
      throw input_error("it has more layers than 'block_count' says");
    }
    if (target->layer) seen.insert(*target->layer);
    const Shape& shape = tensor.second->shape;
    bool stack = shape.rank() >= 2 && shape[0] == experts && experts > 0 && experts <= kMaxExperts;
    if (target->experts && (!stack || tensor.second->bytes == 0)) {
      throw input_error("tensor '" + printable(name) + "' has shape " + shape.str());
    }
    out.targets[name] = std::move(target);
  }
  if (seen.size() != layers || !tensors.contains("output_norm.weight"))
    throw input_error("tensors are missing");
}

void read(std::span<const GgufFile> shards, RestoredModel& out) {
  const GgufFile& meta = shards.front();
  std::string architecture(meta.string_at("general.architecture").value_or(""));
  if (architecture.empty()) throw input_error("it names no architecture");
  Json keys = keys_of(meta, architecture);
  out.family = choose(architecture, keys);
  if (out.family == nullptr || out.family->restore == nullptr) {
    throw input_error("its architecture is '" + printable(architecture) + "'");
  }
  Tensors tensors;
  for (const GgufFile& shard : shards) {
    for (const GgufTensor& t : shard.tensors) tensors.emplace(t.name, std::pair(&shard, &t));
  }
  out.config = Json::object();
  out.family->restore({keys, [&](std::string_view name) { return tensors.contains(name); },
                       [&](std::string_view name) { return values_of(tensors, name); }},
                      out.config);
  auto embedding = tensors.find("token_embd.weight");
  if (embedding == tensors.end() || embedding->second.second->shape.rank() != 2) {
    throw input_error("tensor 'token_embd.weight' is missing");
  }
  out.vocab = embedding->second.second->shape[0];
  uint64_t experts = keys.contains("expert_count") && keys["expert_count"].is_number_integer()
                         ? keys["expert_count"].get<uint64_t>()
                         : 0;
  find_targets(tensors, experts, out);
  Json& model = out.config.contains("text_config") ? out.config["text_config"] : out.config;
  model["vocab_size"] = out.vocab;
  model["tie_word_embeddings"] = !tensors.contains("output.weight");
  out.config["tie_word_embeddings"] = model["tie_word_embeddings"];
  if (!out.config.contains("attention_bias") && !out.config.contains("n_embd")) {
    out.config["attention_bias"] = tensors.contains("blk.0.attn_q.bias");
  }
  set_token_ids(out.config, meta, out.vocab);
  if (!out.config.contains("architectures")) {
    out.config["architectures"] = Json::array({std::string(out.family->architectures.front())});
    out.config["model_type"] = std::string(out.family->model_type);
  }
}

}  // namespace

void set_token_ids(Json& config, const GgufFile& metadata, uint64_t vocab) {
  for (auto [name, key] : {std::pair("bos_token_id", "tokenizer.ggml.bos_token_id"),
                           std::pair("eos_token_id", "tokenizer.ggml.eos_token_id"),
                           std::pair("pad_token_id", "tokenizer.ggml.padding_token_id")}) {
    config[name] = nullptr;  // said, or a class would take its own, which may be out of range
    if (auto id = metadata.uint_at(key); id && *id < vocab) config[name] = *id;
  }
}

RestoredModel restore_model(std::span<const GgufFile> shards) {
  RestoredModel out;
  try {
    read(shards, out);
  } catch (const Error& e) {
    out = {};
    out.why = e.reason();
  }
  return out;
}

}  // namespace qp
