#include "lib/ggml/vision.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <set>
#include <span>

#include "lib/base/error.h"

namespace qp::ggml {
namespace {

enum class Cut : uint8_t { whole, thirds, frames };  // thirds: of rows, as q, k and v

// Names without ".weight" and ".bias"; '*' is the first number in the name.
struct VisionRule {
  std::string_view hf, gguf;
  Cut cut = Cut::whole;
};

constexpr VisionRule kQwenRules[] = {{"visual.patch_embed.proj", "v.patch_embd", Cut::frames},
                                     {"visual.blocks.*.norm1", "v.blk.*.ln1"},
                                     {"visual.blocks.*.norm2", "v.blk.*.ln2"},
                                     {"visual.blocks.*.attn.qkv", "v.blk.*.attn_", Cut::thirds},
                                     {"visual.blocks.*.attn.proj", "v.blk.*.attn_out"},
                                     {"visual.blocks.*.mlp.fc1", "v.blk.*.ffn_up"},
                                     {"visual.blocks.*.mlp.fc2", "v.blk.*.ffn_down"},
                                     {"visual.blocks.*.mlp.gate_proj", "v.blk.*.ffn_gate"},
                                     {"visual.blocks.*.mlp.up_proj", "v.blk.*.ffn_up"},
                                     {"visual.blocks.*.mlp.down_proj", "v.blk.*.ffn_down"},
                                     {"visual.merger.ln_q", "v.post_ln"},
                                     {"visual.merger.mlp.*", "mm.*"}};

// Under vision_tower.vision_model, or multi_modal_projector.
constexpr VisionRule kGemmaRules[] = {{"embeddings.patch_embedding", "v.patch_embd"},
                                      {"embeddings.position_embedding", "v.position_embd"},
                                      {"encoder.layers.*.layer_norm1", "v.blk.*.ln1"},
                                      {"encoder.layers.*.layer_norm2", "v.blk.*.ln2"},
                                      {"encoder.layers.*.self_attn.q_proj", "v.blk.*.attn_q"},
                                      {"encoder.layers.*.self_attn.k_proj", "v.blk.*.attn_k"},
                                      {"encoder.layers.*.self_attn.v_proj", "v.blk.*.attn_v"},
                                      {"encoder.layers.*.self_attn.out_proj", "v.blk.*.attn_out"},
                                      {"encoder.layers.*.mlp.fc1", "v.blk.*.ffn_up"},
                                      {"encoder.layers.*.mlp.fc2", "v.blk.*.ffn_down"},
                                      {"post_layernorm", "v.post_ln"},
                                      {"mm_input_projection", "mm.input_projection"},
                                      {"mm_soft_emb_norm", "mm.soft_emb_norm"}};

// config.json's vision_config as llama.cpp's keys want it.
struct Sizes {
  uint64_t image = 0, hidden = 0, inner = 0, layers = 0, heads = 0;
};

Sizes qwen_sizes(const Config& v) {
  Sizes s{v.count({"image_size"}).value_or(560), v.need("hidden_size"), 0, v.need("depth"),
          v.need("num_heads")};
  auto width = v.count({"embed_dim"});  // Qwen2-VL; its hidden_size is the language model's
  s.inner = width ? s.hidden : v.need("intermediate_size");
  if (width) s.hidden = *width;
  return s;
}

// Layers with full attention: every n-th.
uint64_t full_attention_pattern(const Config& v) {
  const Json* list = v.find("fullatt_block_indexes");
  auto bad = [&] { return v.wrong("fullatt_block_indexes", "names no layers at equal distances"); };
  if (list == nullptr || !list->is_array() || list->empty()) throw bad();
  std::vector<uint64_t> at;
  for (const Json& n : *list) {
    if (!n.is_number_integer() || n < 0 || n > 1 << 20) throw bad();
    at.push_back(n.get<uint64_t>());
  }
  uint64_t pattern = at.front() + 1;
  for (size_t i = 1; i < at.size(); ++i) {
    if (at[i] <= at[i - 1] || at[i] - at[i - 1] != pattern) throw bad();
  }
  return pattern;
}

void describe_qwen(const Json& config, const Config& v, const Json&, Metadata& out) {
  bool newer = json_string(config, "model_type", "") == "qwen2_5_vl";
  out.set("clip.projector_type", std::string(newer ? "qwen2.5vl_merger" : "qwen2vl_merger"));
  if (newer) {
    out.set("clip.use_silu", true);
    out.count("n_wa_pattern", full_attention_pattern(v));
  }
  out.real("attention.layer_norm_epsilon", number_in(config, "rms_norm_eps").value_or(1e-6));
}

Sizes gemma_sizes(const Config& v) {
  return {v.need("image_size"), v.need("hidden_size"), v.need("intermediate_size"),
          v.need("num_hidden_layers"), v.need("num_attention_heads")};
}

void describe_gemma(const Json&, const Config& v, const Json& preprocessor, Metadata& out) {
  out.set("clip.projector_type", std::string("gemma3"));
  out.real("attention.layer_norm_epsilon", v.number({"layer_norm_eps"}).value_or(1e-6));
  out.set("clip.use_gelu", true);
  double tokens = number_in(preprocessor, "image_seq_length").value_or(256);
  if (!(tokens >= 1 && tokens <= 1 << 24)) throw v.wrong("image_seq_length", "is no sane count");
  uint64_t side = static_cast<uint64_t>(std::sqrt(tokens));
  uint64_t scale = v.need("image_size") / v.need("patch_size") / side;
  if (scale > 0 && scale != 4) out.count("projector.scale_factor", scale);
}

struct Tower {
  std::vector<std::string_view> architectures;
  std::vector<std::string_view> prefixes;  // taken off names
  std::vector<std::string_view> marks;     // a name that begins so is the tower's
  std::span<const VisionRule> rules;
  Sizes (*sizes)(const Config& vision);
  void (*describe)(const Json& config, const Config& vision, const Json& preprocessor, Metadata&);
};

const Tower kTowers[] = {
    {{"Qwen2VLForConditionalGeneration", "Qwen2_5_VLForConditionalGeneration"},
     {},
     {"visual."},
     kQwenRules,
     qwen_sizes,
     describe_qwen},
    {{"Gemma3ForConditionalGeneration"},
     {"vision_tower.vision_model.", "vision_tower.", "vision_model.", "multi_modal_projector."},
     {"vision_tower.", "vision_model.", "multi_modal_projector."},
     kGemmaRules,
     gemma_sizes,
     describe_gemma}};

const Tower& tower_of(const Model& m) {
  std::string known;
  for (const Tower& t : kTowers) {
    for (std::string_view a : t.architectures) {
      if (a == m.architecture) return t;
      known += (known.empty() ? "" : ", ") + std::string(a);
    }
  }
  throw limit_error("architecture '" + printable(m.architecture) +
                    "' has no vision part whose GGUF names are known here")
      .hint("known are " + known);
}

Config vision_config(const Model& m) {
  auto it = m.config.is_object() ? m.config.find("vision_config") : m.config.end();
  if (it == m.config.end() || !it->is_object()) {
    throw input_error("has no vision_config").file("config.json");
  }
  return Config(*it);
}

// A tensor's name in pieces: "visual.blocks.*.norm1", 3, ".weight".
struct Name {
  std::string pattern, suffix;
  std::optional<uint64_t> number;
};

std::optional<Name> parse(const Tower& tower, std::string_view name) {
  if (name.starts_with("model.")) name.remove_prefix(6);
  bool ours = std::ranges::any_of(tower.marks, [&](auto m) { return name.starts_with(m); });
  if (!ours) return std::nullopt;
  for (std::string_view p : tower.prefixes) {
    if (!name.starts_with(p)) continue;
    name.remove_prefix(p.size());
    break;
  }
  Name out;
  for (std::string_view s : {".weight", ".bias", "_weight"}) {
    if (!name.ends_with(s)) continue;
    name.remove_suffix(s.size());
    out.suffix = s == ".bias" ? ".bias" : ".weight";
    break;
  }
  for (size_t at = 0; at <= name.size();) {
    size_t end = std::min(name.find('.', at), name.size());
    std::string_view part = name.substr(at, end - at);
    uint64_t n = 0;
    auto [stop, error] = std::from_chars(part.data(), part.data() + part.size(), n);
    bool digits = !part.empty() && error == std::errc() && stop == part.data() + part.size();
    bool number = digits && !out.number;
    if (number) out.number = n;
    out.pattern += (at == 0 ? "" : ".") + (number ? "*" : std::string(part));
    at = end + 1;
  }
  return out;
}

class VisionMapper {
 public:
  VisionMapper(const Model& m, const Tower& tower)
      : model_(m), tower_(tower), layers_(tower.sizes(vision_config(m)).layers) {}

  VisionMap run() {
    for (size_t i = 0; i < model_.tensors.size(); ++i) place(i);
    if (!names_.contains("v.patch_embd.weight")) {
      throw input_error("holds no vision part: patch embeddings are missing");
    }
    choose_dtypes();
    return std::move(map_);
  }

 private:
  const Tensor& tensor(size_t i) const { return model_.tensors[i]; }

  void place(size_t i) {
    const Tensor& t = tensor(i);
    auto name = parse(tower_, t.name);
    if (!name) return map_.dropped.emplace_back(i, "of the language model"), void();
    if (name->pattern.starts_with("head.")) {
      return map_.dropped.emplace_back(i, "llama.cpp has no use for it"), void();
    }
    auto rule = std::ranges::find(tower_.rules, name->pattern, &VisionRule::hf);
    bool layer = name->pattern.find(".*.") != std::string::npos;
    if (rule == tower_.rules.end() || (layer && *name->number >= layers_)) {
      throw input_error("has no place in llama.cpp's vision part of this model").tensor(t.name);
    }
    if (t.quantized()) {
      throw limit_error("is quantized, but a vision part is written in floats")
          .tensor(t.name)
          .hint("load it with qload --dequantize");
    }
    std::string gguf(rule->gguf);
    if (size_t at = gguf.find('*'); at != std::string::npos) {
      gguf.replace(at, 1, std::to_string(*name->number));
    }
    add(i, *rule, gguf, name->suffix);
  }

  void add(size_t i, const VisionRule& rule, const std::string& gguf, const std::string& suffix) {
    const Shape& s = tensor(i).shape;
    if (rule.cut == Cut::whole) return put(i, gguf + suffix, s, {s, 0, {}});
    if (rule.cut == Cut::thirds) {
      bool fits = (s.rank() == 1 || s.rank() == 2) && s[0] % 3 == 0;
      if (!fits) throw misfit(i);
      uint64_t rows = s[0] / 3, cols = s.rank() == 2 ? s[1] : 1;
      for (uint64_t k = 0; k < 3; ++k) {
        Shape third = s.rank() == 2 ? Shape{rows, cols} : Shape{rows};
        std::vector<uint64_t> strides =
            s.rank() == 2 ? std::vector<uint64_t>{cols, 1} : std::vector<uint64_t>{1};
        put(i, gguf + "qkv"[k] + suffix, third, {third, k * rows * cols, std::move(strides)});
      }
      return;
    }
    if (s.rank() != 5 || s[2] != 2) throw misfit(i);  // a Conv3D over two frames, as two Conv2Ds
    Shape frame{s[0], s[1], s[3], s[4]};
    uint64_t plane = s[3] * s[4];
    for (uint64_t k = 0; k < 2; ++k) {
      put(i, gguf + suffix + (k == 0 ? "" : ".1"), frame,
          {frame, k * plane, {s[1] * 2 * plane, 2 * plane, s[4], 1}});
    }
  }

  Error misfit(size_t i) const {
    return input_error("has shape " + tensor(i).shape.str() + ", which llama.cpp has no form for")
        .tensor(tensor(i).name);
  }

  void put(size_t i, std::string name, Shape shape, View view) {
    if (!names_.insert(name).second) {
      throw input_error("is in the checkpoint under two names").tensor(tensor(i).name);
    }
    MappedTensor mapped{std::move(name), std::move(shape), {{i, Op::plain, std::move(view)}}};
    mapped.plus_one = mapped.name == "mm.soft_emb_norm.weight";
    map_.tensors.push_back({std::move(mapped), DType::f32});
  }

  // The dtype that most values have, but for what llama.cpp wants in another.
  void choose_dtypes() {
    double best = 0;
    for (DType d : {DType::f32, DType::f16, DType::bf16}) {
      double n = 0;
      for (const VisionTensor& t : map_.tensors) {
        if (tensor(t.mapped.pieces[0].tensor).dtype != d) continue;
        n += static_cast<double>(t.mapped.shape.elements().value_or(0));
      }
      if (n > best) best = n, map_.dtype = d;
    }
    for (VisionTensor& t : map_.tensors) t.dtype = dtype_of(t.mapped);
  }

  DType dtype_of(const MappedTensor& t) const {
    const Tensor& source = tensor(t.pieces[0].tensor);
    if (!is_float(source.dtype)) throw limit_error("is no float tensor").tensor(source.name);
    if (t.shape.rank() <= 1 || t.name.ends_with("_norm.weight")) return DType::f32;
    if (t.name == "mm.input_projection.weight") return DType::f16;
    if (t.name.starts_with("v.patch_embd.weight")) {
      bool siglip = source.name.find(".embeddings.") != std::string::npos;
      return map_.dtype == DType::f16 && !siglip ? DType::f16 : DType::f32;
    }
    bool plain = t.name.ends_with(".weight") && t.name != "v.position_embd.weight";
    return plain ? map_.dtype : DType::f32;
  }

  const Model& model_;
  const Tower& tower_;
  uint64_t layers_;
  VisionMap map_;
  std::set<std::string> names_;
};

void describe_images(const Json& preprocessor, Metadata& out) {
  for (const char* key : {"image_mean", "image_std"}) {
    auto it = preprocessor.find(key);
    std::vector<float> values;
    if (it != preprocessor.end() && it->is_array() && it->size() <= 16) {
      for (const Json& n : *it) {
        if (n.is_number()) values.push_back(n.get<float>());
      }
    }
    if (values.size() != 3) {
      throw input_error("has no '" + std::string(key) + "' of three channels")
          .file("preprocessor_config.json");
    }
    out.own(key, std::move(values));
  }
}

}  // namespace

VisionMap map_vision(const Model& m) { return VisionMapper(m, tower_of(m)).run(); }

void describe_vision(const Model& m, const Json& preprocessor, Metadata& out) {
  const Tower& tower = tower_of(m);
  Config vision = vision_config(m), text(m.config);
  Sizes s = tower.sizes(vision);
  out.set("clip.has_vision_encoder", true);
  out.count("projection_dim", text.need("hidden_size"));
  out.count("image_size", s.image);
  out.count("patch_size", vision.need("patch_size"));
  out.count("embedding_length", s.hidden);
  out.count("feed_forward_length", s.inner);
  out.count("block_count", s.layers);
  out.count("attention.head_count", s.heads);
  describe_images(preprocessor, out);
  tower.describe(m.config, vision, preprocessor, out);
}

}  // namespace qp::ggml
