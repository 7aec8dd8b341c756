#include "lib/target/layers.h"

#include <algorithm>
#include <charconv>
#include <map>

#include "lib/arch/arch.h"
#include "lib/base/error.h"

namespace qp::target {
namespace {

// Sizes that config.json gives by name. Facts: reference/architectures.md 4.
enum class Size : uint8_t {
  unknown,
  hidden,
  query,
  key,
  inner,
  q_rank,
  kv_rank_rope,
  mla_query,
  kv_rank,
  mla_kv
};

// Linears of a decoder layer: how tensor parallelism cuts them, and their sizes.
struct Slot {
  std::string_view member;
  Split split;
  Size out, in;
};
constexpr Slot kSlots[] = {
    {"q_proj", Split::column, Size::query, Size::hidden},
    {"k_proj", Split::column, Size::key, Size::hidden},
    {"v_proj", Split::column, Size::key, Size::hidden},
    {"o_proj", Split::row, Size::hidden, Size::query},
    {"gate_proj", Split::column, Size::inner, Size::hidden},
    {"up_proj", Split::column, Size::inner, Size::hidden},
    {"down_proj", Split::row, Size::hidden, Size::inner},
    {"w1", Split::column, Size::inner, Size::hidden},
    {"w3", Split::column, Size::inner, Size::hidden},
    {"w2", Split::row, Size::hidden, Size::inner},
    {"q_a_proj", Split::none, Size::q_rank, Size::hidden},
    {"kv_a_proj_with_mqa", Split::none, Size::kv_rank_rope, Size::hidden},
    {"q_b_proj", Split::column, Size::mla_query, Size::q_rank},
    {"kv_b_proj", Split::column, Size::mla_kv, Size::kv_rank},
    {"qkv_proj", Split::column, Size::unknown, Size::unknown},
    {"gate_up_proj", Split::column, Size::unknown, Size::unknown},
    {"qkv", Split::column, Size::unknown, Size::unknown},
    {"fc1", Split::column, Size::unknown, Size::unknown},
    {"fc2", Split::row, Size::unknown, Size::unknown},
    {"out_proj", Split::row, Size::unknown, Size::unknown},
    {"in_proj_qkv", Split::column, Size::unknown, Size::unknown},
    {"in_proj_z", Split::column, Size::unknown, Size::unknown},
    {"in_proj_b", Split::column, Size::unknown, Size::unknown},
    {"in_proj_a", Split::column, Size::unknown, Size::unknown},
};

// What stands beside a member in every layer of the families whose sizes are known.
constexpr std::pair<std::string_view, std::string_view> kBeside[] = {
    {"q_proj", "k_proj"},      {"k_proj", "v_proj"},     {"v_proj", "o_proj"},
    {"v_proj", "q_proj"},      {"gate_proj", "up_proj"}, {"up_proj", "down_proj"},
    {"down_proj", "gate_proj"}};

std::string_view last_of(std::string_view name) {
  auto dot = name.rfind('.');
  return dot == name.npos ? name : name.substr(dot + 1);
}
std::string_view parent_of(std::string_view name) {
  auto dot = name.rfind('.');
  return dot == name.npos ? std::string_view() : name.substr(0, dot);
}

int64_t number_after(std::string_view name, std::string_view word) {
  auto at = name.find(word);
  int64_t n = -1;
  if (at != name.npos)
    std::from_chars(name.data() + at + word.size(), name.data() + name.size(), n);
  return n;
}

const Slot* slot_of(std::string_view member) {
  for (const Slot& s : kSlots) {
    if (s.member == member) return &s;
  }
  return nullptr;
}

uint64_t size_of(Size size, const ModelShape& m, uint64_t inner) {
  switch (size) {
    case Size::unknown: return 0;
    case Size::hidden: return m.hidden;
    case Size::query: return m.heads * (m.kv_lora > 0 ? m.v_dim : m.head_dim);
    case Size::key: return m.kv_heads * m.head_dim;
    case Size::inner: return inner;
    case Size::q_rank: return m.q_lora;
    case Size::kv_rank_rope: return m.kv_lora + m.qk_rope;
    case Size::mla_query: return m.heads * (m.qk_nope + m.qk_rope);
    case Size::kv_rank: return m.kv_lora;
    case Size::mla_kv: return m.heads * (m.qk_nope + m.v_dim);
  }
  return 0;
}

// "a.b" and "weight" of "a.b.weight"; bitsandbytes' "a.b" and "weight.absmax".
std::pair<std::string_view, std::string_view> split_name(std::string_view name) {
  auto at = name.rfind(".weight.");
  if (at == name.npos) at = name.rfind('.');
  if (at == name.npos) return {name, {}};
  return {name.substr(0, at), name.substr(at + 1)};
}

class Builder {
 public:
  Builder(const Checkpoint& c, const ModelShape& m, std::span<const Fused> fused)
      : checkpoint_(c), model_(m), fused_(fused) {}

  Layers run() {
    collect();
    for (uint32_t i = 0; i < out_.modules.size(); ++i) place(i);
    if (model_.known) add_absent();
    return std::move(out_);
  }

 private:
  void collect() {
    std::unordered_map<std::string_view, uint32_t> at;
    for (uint32_t i = 0; i < checkpoint_.tensors.size(); ++i) {
      auto [module, suffix] = split_name(checkpoint_.tensors[i].name);
      auto [it, fresh] = at.emplace(module, static_cast<uint32_t>(out_.modules.size()));
      if (fresh) out_.modules.push_back({module, ModuleKind::other, {}});
      out_.modules[it->second].parts.emplace_back(suffix, i);
    }
    for (StoredModule& m : out_.modules) m.kind = kind_of(m);
  }

  // The kind that the module's float weight would have.
  ModuleKind kind_of(const StoredModule& m) const {
    auto weight = m.find("weight");
    bool packed = m.find("weight_packed") || m.find("qweight") || m.find("weight.absmax");
    if (!weight && !packed) return ModuleKind::other;
    Shape shape{2, 2};
    if (weight && !packed) {
      shape = checkpoint_.tensors[*weight].shape;
      if (is_float(checkpoint_.tensors[*weight].dtype) == false && shape.rank() < 2) shape = {2, 2};
    }
    return classify(std::string(m.name) + ".weight", DType::bf16, shape, checkpoint_.config).kind;
  }

  bool is_matrix(const StoredModule& m) const {
    auto weight = m.find("weight");
    return !weight || m.find("weight.absmax") || checkpoint_.tensors[*weight].shape.rank() == 2;
  }

  void place(uint32_t i) {
    const StoredModule& m = out_.modules[i];
    switch (m.kind) {
      case ModuleKind::linear: return add_linear(i, false);
      case ModuleKind::expert: return add_expert(i);
      case ModuleKind::head: return add(i, Part::head, "ParallelLMHead", Split::vocab);
      case ModuleKind::embedding:
        return add(i, Part::embedding, "VocabParallelEmbedding", Split::vocab);
      case ModuleKind::mtp: return add(i, Part::draft, "Linear", Split::none);
      case ModuleKind::vision: {
        std::string_view last = last_of(m.name);
        bool linear =
            is_matrix(m) && last.find("embed") == last.npos && last.find("norm") == last.npos;
        if (linear) return add_linear(i, true);
        break;
      }
      default: break;
    }
    add(i, Part::plain, m.kind == ModuleKind::router ? "ReplicatedLinear" : "", Split::none);
  }

  void add(uint32_t i, Part part, std::string_view class_name, Split split) {
    std::string name(out_.modules[i].name);
    Layer layer{part,
                name,
                class_name,
                {},
                false,
                out_.modules[i].kind == ModuleKind::router,
                number_after(name, "layers.")};
    Shard shard{i, name, last_of(out_.modules[i].name)};
    shard.split = split;
    bool vocabulary = part == Part::head || part == Part::embedding;
    if (vocabulary && model_.known && shard.member != "score" &&
        shard.member != "embed_positions" && shard.member != "wpe") {
      shard.dims = {0, model_.hidden};  // rows may be padded
    }
    layer.shards.push_back(std::move(shard));
    out_.layers.push_back(std::move(layer));
  }

  Layer& layer_called(std::string name, Part part, std::string_view class_name) {
    auto [it, fresh] = where_.emplace(name, out_.layers.size());
    if (fresh) {
      out_.layers.push_back(
          {part, name, class_name, {}, false, false, number_after(name, "layers.")});
    }
    return out_.layers[it->second];
  }

  std::string_view whole_of(std::string_view member) const {
    for (const Fused& f : fused_) {
      if (f.member == member) return f.whole;
    }
    return {};
  }

  uint64_t inner_of(std::string_view module) const {
    if (module.find("experts.") != module.npos && module.find("shared_expert") == module.npos) {
      return model_.expert_inner;
    }
    if (module.find("shared_expert") != module.npos) return model_.shared_inner;
    return model_.inner;
  }

  Shard shard_of(uint32_t module, std::string_view name, bool vision) const {
    Shard s{module, std::string(name), last_of(name)};
    const Slot* slot = slot_of(s.member);
    if (slot == nullptr) return s;
    s.split = slot->split;
    if (model_.known && !vision) {
      uint64_t inner = inner_of(name);
      s.dims = {size_of(slot->out, model_, inner), size_of(slot->in, model_, inner)};
      bool mla_q = model_.kv_lora > 0 && s.member == "q_proj";
      if (mla_q) s.dims.n = size_of(Size::mla_query, model_, inner);
    }
    return s;
  }

  void add_linear(uint32_t i, bool vision) {
    std::string_view name = out_.modules[i].name;
    Shard shard = shard_of(i, name, vision);
    std::string_view whole = whole_of(shard.member);
    std::string runtime =
        whole.empty() ? std::string(name) : std::string(parent_of(name)) + "." + std::string(whole);
    std::string_view class_name = whole == "qkv_proj"            ? "QKVParallelLinear"
                                  : !whole.empty()               ? "MergedColumnParallelLinear"
                                  : shard.split == Split::row    ? "RowParallelLinear"
                                  : shard.split == Split::column ? "ColumnParallelLinear"
                                                                 : "ReplicatedLinear";
    Layer& layer = layer_called(std::move(runtime), Part::linear, class_name);
    layer.vision = vision;
    layer.shards.push_back(std::move(shard));
  }

  void add_expert(uint32_t i) {
    std::string_view name = out_.modules[i].name;
    auto at = name.find("experts.");
    int64_t e = number_after(name, "experts.");
    if (at == name.npos || e < 0) return add_linear(i, false);
    Layer& layer =
        layer_called(std::string(name.substr(0, at + 7)), Part::experts, "RoutedExperts");
    Shard shard = shard_of(i, name, false);
    shard.expert = static_cast<int32_t>(std::min<int64_t>(e, INT32_MAX));
    layer.shards.push_back(std::move(shard));
  }

  // Members that families with known sizes have beside those that are there, and experts up to the
  // number that config.json promises.
  void add_absent() {
    for (size_t i = 0, n = out_.layers.size(); i < n; ++i) {
      if (out_.layers[i].vision) continue;
      if (out_.layers[i].part == Part::experts) add_absent_experts(out_.layers[i]);
      if (out_.layers[i].part == Part::linear) add_absent_members(i);
    }
  }

  void add_absent_members(size_t i) {
    std::vector<std::string> names;
    for (const Shard& s : out_.layers[i].shards) names.push_back(s.name);
    for (const std::string& name : names) {
      for (const auto& [here, beside] : kBeside) {
        bool mla = model_.kv_lora > 0 && here.ends_with("v_proj");
        if (last_of(name) != here || mla || (model_.kv_lora > 0 && here == "q_proj")) continue;
        std::string other = std::string(parent_of(name)) + "." + std::string(beside);
        std::string_view whole = whole_of(beside);
        std::string runtime =
            whole.empty() ? other : std::string(parent_of(name)) + "." + std::string(whole);
        Layer& layer =
            layer_called(runtime, Part::linear,
                         whole.empty() ? "RowParallelLinear" : "MergedColumnParallelLinear");
        if (std::ranges::any_of(layer.shards, [&](const Shard& s) { return s.name == other; }))
          continue;
        Shard s = shard_of(Shard::kAbsent, other, false);
        s.member = beside;
        layer.shards.push_back(std::move(s));
      }
    }
  }

  void add_absent_experts(Layer& layer) {
    uint64_t experts = std::min<uint64_t>(model_.experts, 1 << 16);
    bool mixtral =
        std::ranges::any_of(layer.shards, [](const Shard& s) { return s.member == "w1"; });
    static constexpr std::string_view kPlain[] = {"gate_proj", "up_proj", "down_proj"},
                                      kW[] = {"w1", "w3", "w2"};
    std::vector<uint8_t> seen(experts * 3);
    for (const Shard& s : layer.shards) {
      for (size_t k = 0; k < 3; ++k) {
        bool here =
            s.member == (mixtral ? kW : kPlain)[k] && static_cast<uint64_t>(s.expert) < experts;
        if (here) seen[static_cast<size_t>(s.expert) * 3 + k] = 1;
      }
    }
    for (size_t k = 0; k < seen.size(); ++k) {
      if (seen[k] != 0) continue;
      std::string_view member = (mixtral ? kW : kPlain)[k % 3];
      std::string name = layer.name + "." + std::to_string(k / 3) + "." + std::string(member);
      Shard s = shard_of(Shard::kAbsent, name, false);
      s.member = member;
      s.expert = static_cast<int32_t>(k / 3);
      layer.shards.push_back(std::move(s));
    }
  }

  const Checkpoint& checkpoint_;
  const ModelShape& model_;
  std::span<const Fused> fused_;
  std::unordered_map<std::string, size_t> where_;
  Layers out_;
};

// A count of config.json, in text_config or at the top; 0 when absent or no sane number.
uint64_t count(const Json& config, std::initializer_list<const char*> keys) {
  constexpr double kMax = 1 << 24;
  for (const char* section : {"text_config", ""}) {
    const Json* object = &config;
    if (*section != 0) {
      auto it = config.find(section);
      if (it == config.end() || !it->is_object()) continue;
      object = &*it;
    }
    for (const char* key : keys) {
      auto it = object->find(key);
      if (it == object->end() || !it->is_number()) continue;
      double n = it->get<double>();
      if (n >= 0 && n <= kMax) return static_cast<uint64_t>(n);
    }
  }
  return 0;
}

std::string text(const Json& config, const char* key) {
  auto it = config.find(key);
  return it != config.end() && it->is_string() ? it->get<std::string>() : "";
}

}  // namespace

std::optional<uint32_t> StoredModule::find(std::string_view suffix) const {
  for (const auto& [s, i] : parts) {
    if (s == suffix) return i;
  }
  return std::nullopt;
}

ModelShape read_model_shape(const Json& config) {
  ModelShape m;
  if (!config.is_object()) return m;
  if (auto it = config.find("architectures");
      it != config.end() && it->is_array() && !it->empty() && (*it)[0].is_string()) {
    m.architecture = (*it)[0].get<std::string>();
  }
  m.model_type = text(config, "model_type");
  m.hidden = count(config, {"hidden_size"});
  m.inner = count(config, {"intermediate_size"});
  m.heads = count(config, {"num_attention_heads"});
  m.kv_heads = count(config, {"num_key_value_heads"});
  if (m.kv_heads == 0) m.kv_heads = m.heads;
  m.head_dim = count(config, {"head_dim"});
  if (m.head_dim == 0 && m.heads > 0) m.head_dim = m.hidden / m.heads;
  m.vocab = count(config, {"vocab_size"});
  m.layers = count(config, {"num_hidden_layers"});
  m.draft_layers = count(config, {"num_nextn_predict_layers", "mtp_num_hidden_layers"});
  m.experts = count(config, {"num_experts", "num_local_experts", "n_routed_experts"});
  m.expert_inner = count(config, {"moe_intermediate_size"});
  if (m.expert_inner == 0) m.expert_inner = m.inner;
  m.shared_inner = count(config, {"shared_expert_intermediate_size"});
  if (m.shared_inner == 0) m.shared_inner = m.expert_inner * count(config, {"n_shared_experts"});
  m.q_lora = count(config, {"q_lora_rank"});
  m.kv_lora = count(config, {"kv_lora_rank"});
  m.qk_nope = count(config, {"qk_nope_head_dim"});
  m.qk_rope = count(config, {"qk_rope_head_dim"});
  m.v_dim = count(config, {"v_head_dim"});
  auto flag = [&](const Json& object) {
    auto it = object.find("tie_word_embeddings");
    return it != object.end() && it->is_boolean() && it->get<bool>();
  };
  m.tied = flag(config) || (config.contains("text_config") && config["text_config"].is_object() &&
                            flag(config["text_config"]));
  m.vision = config.contains("vision_config");
  static constexpr std::string_view kOwnSizes[] = {"gpt2", "opt", "gpt_oss"};
  m.known = arch::is_known(m.architecture) &&
            std::ranges::find(kOwnSizes, m.model_type) == std::end(kOwnSizes);
  for (const char* key : {"dtype", "torch_dtype"}) {
    std::string name = text(config, key);
    if (name.empty() && config.contains("text_config") && config["text_config"].is_object())
      name = text(config["text_config"], key);
    if (auto d = dtype_from_torch(name)) {
      m.dtype = *d;
      break;
    }
  }
  return m;
}

Layers build_layers(const Checkpoint& checkpoint, const ModelShape& shape,
                    std::span<const Fused> fused) {
  return Builder(checkpoint, shape, fused).run();
}

}  // namespace qp::target
