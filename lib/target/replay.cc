// The replay: layers as the engine builds them, their parameters, and what fills them.
#include <algorithm>
#include <set>
#include <utility>

#include "lib/base/error.h"
#include "lib/target/divide.h"
#include "lib/target/engine.h"
#include "lib/target/flags.h"
#include "lib/target/kv_scales.h"
#include "lib/target/resident.h"
#include "lib/target/second_stage.h"

namespace qp::target {
namespace {

// Tensors that only quantized modules have.
constexpr std::string_view kQuantized[] = {"weight_scale",
                                           "weight_scale_inv",
                                           "weight_packed",
                                           "weight_zero_point",
                                           "weight_shape",
                                           "weight_g_idx",
                                           "weight_global_scale",
                                           "input_scale",
                                           "input_global_scale",
                                           "input_zero_point",
                                           "output_scale",
                                           "qweight",
                                           "qzeros",
                                           "scales",
                                           "g_idx",
                                           "weight_scale_2",
                                           "pre_quant_scale",
                                           "SCB",
                                           "weight_format",
                                           "quant_bias",
                                           "deq_scale",
                                           "weight_offset",
                                           "input_offset",
                                           "scale_bias",
                                           "weight.absmax",
                                           "weight.quant_map",
                                           "weight.nested_absmax",
                                           "weight.nested_quant_map",
                                           "weight.quant_state.bitsandbytes__nf4",
                                           "weight.quant_state.bitsandbytes__fp4"};

bool is_quantized_suffix(std::string_view suffix) {
  return std::ranges::find(kQuantized, suffix) != std::end(kQuantized);
}

// Stacks of experts have their scales under names of their own: "experts.down_proj_packed".
bool is_stack_scale(std::string_view module, std::string_view suffix) {
  return module.ends_with("experts") &&
         (suffix.ends_with("_packed") || suffix.ends_with("_scale") ||
          suffix.ends_with("_scale_2") || suffix.ends_with("_blocks"));
}

std::string full_name(std::string_view module, std::string_view suffix) {
  return std::string(module) + "." + std::string(suffix);
}

// Scales that SGLang's fp8 method calls weight_scale_inv, as stored or renamed by its loader.
bool is_inverse(std::string_view suffix, const Scheme& scheme) {
  return suffix == "weight_scale_inv" || (suffix == "weight_scale" && scheme.support == "MXFP8");
}

// Whether the shapes differ in the dimension of the inputs alone.
bool apart_along_k(const Param& p, const Shape& stored, const Shape& expected) {
  if (stored.rank() != 2 || expected.rank() != 2) return false;
  size_t outputs = p.shape.front() == 'N' ? 0 : 1;
  return stored[outputs] == expected[outputs];
}

class Replay {
 public:
  Replay(const Checkpoint& c, const Engine& e, const Options& o)
      : checkpoint_(c), engine_(e), options_(o), findings_(e), model_(read_model_shape(c.config)),
        layers_(build_layers(c, model_, e.fused)),
        resident_(model_, o), context_{c, model_, layers_, e, o, findings_} {
    result_.verdicts.assign(c.tensors.size(), Verdict::used);
  }

  Result run() {
    check_hardware_name(options_.hardware);
    Flags flags = read_flags(options_.engine_args);
    const Method* method = method_of(flags);
    if (method != nullptr) chooser_ = method->make(context_, *method);
    as_stored_ = method != nullptr && !chooser_;
    if (model_.architecture.empty())
      findings_.add("no-architecture", "", "config.json names no architecture");
    check_parallel(engine_, model_, options_, findings_);
    // What it stops at before it builds a model hides the rest.
    bool built = !findings_.any(Effect::refuses) || method != nullptr;
    if (built) replay_layers();
    check_kv_scales(context_, method == nullptr ? "" : method->name, flags, result_.verdicts);
    check_flags(context_, flags);
    result_.rank_bytes = resident_.fullest();
    if (options_.device_memory > 0 && result_.rank_bytes > options_.device_memory) {
      findings_.add("device-memory", "",
                    "weights take " + std::to_string(result_.rank_bytes) +
                        " bytes on the fullest rank (--device-memory " +
                        std::to_string(options_.device_memory) + ")");
    }
    result_.launch = launch_command(context_, flags);
    result_.findings = std::move(findings_.all());
    auto is = [&](Effect e) {
      return std::ranges::any_of(result_.findings,
                                 [&](const Finding& f) { return f.rule->effect == e; });
    };
    result_.outcome = is(Effect::refuses) ? Outcome::refuses
                      : is(Effect::lies)  ? Outcome::lies
                                          : Outcome::loads;
    return std::move(result_);
  }

 private:
  void replay_layers() {
    for (const Layer& layer : layers_.layers) check_layer(layer);
    check_frame();
  }

  void add(std::string_view topic, std::string_view subject, std::string what,
           std::string_view slot = {}) {
    findings_.add(topic, subject, std::move(what), slot);
  }

  const Method* method_of(const Flags& flags) {
    std::string name = checkpoint_.method;
    bool reinterpret = engine_.name == "sglang" &&
                       (flags.quantization == "w8a8_int8" || flags.quantization == "w8a8_fp8");
    if (reinterpret && name == "compressed-tensors") {
      name = flags.quantization;
      add("w8a8-flag", "", "--quantization " + name + " replaces the config's schemes");
    }
    if (name.empty()) return nullptr;
    for (const Method& m : engine_.methods) {
      if (m.name == name) return &m;
    }
    add("unknown-method", "", "quant_method is '" + printable(name) + "'", name);
    return nullptr;
  }

  const StoredModule* stored(const Shard& s) const {
    return s.module == Shard::kAbsent ? nullptr : &layers_.modules[s.module];
  }
  const StoredTensor& tensor(uint32_t i) const { return checkpoint_.tensors[i]; }

  const Special* special(const Layer& layer) const {
    for (const Special& s : engine_.specials) {
      if (model_.architecture.starts_with(s.architecture) && layer.name.ends_with(s.member))
        return &s;
    }
    return nullptr;
  }

  // Whether the model class knows of draft layers, to skip them.
  bool drafts() const {
    return std::ranges::none_of(engine_.specials, [&](const Special& s) {
      return s.member == "mtp" && model_.architecture == s.architecture;
    });
  }

  std::optional<Scheme> scheme_of(const Layer& layer) {
    if (!chooser_) return std::nullopt;
    const Special* s = special(layer);
    if (s != nullptr && !s->takes_config) return std::nullopt;
    if (layer.part == Part::head && !engine_.head_by_config) return std::nullopt;
    if (layer.part != Part::plain) return chooser_(layer);
    if (s == nullptr) return std::nullopt;
    Layer as_linear = layer;
    as_linear.part = Part::linear;
    return chooser_(as_linear);
  }

  void check_layer(const Layer& layer) {
    if (layer.part == Part::draft) return check_draft(layer);
    if (layer.part == Part::head && model_.tied) return check_tied_head(layer);
    std::optional<Scheme> scheme = scheme_of(layer);
    // Stages, experts and cuts decide where the bytes go, whatever becomes of them.
    if (as_stored_) return take_all(layer);
    if (!scheme) return check_unquantized(layer);
    if (!supported(layer, *scheme)) return take_all(layer);
    check_quantized(layer, *scheme);
  }

  void take_all(const Layer& layer) {
    for (const Shard& s : layer.shards) {
      if (const StoredModule* m = stored(s)) {
        for (const auto& [suffix, i] : m->parts)
          resident_.add(layer, s, tensor(i).bytes, s.split != Split::none);
      }
    }
  }

  void check_draft(const Layer& layer) {
    const StoredModule* m = stored(layer.shards.front());
    for (const auto& [suffix, i] : m->parts) result_.verdicts[i] = Verdict::ignored;
    if (!drafts() && findings_.knows("mtp-unknown")) {
      std::string first = layer.name.substr(0, layer.name.find('.'));
      for (const auto& [suffix, i] : m->parts) result_.verdicts[i] = Verdict::dropped;
      add("mtp-unknown", m->name, "is of a draft layer", first);
      return;
    }
    auto weight = m->find("weight");
    bool plain = weight && is_float(tensor(*weight).dtype) && tensor(*weight).shape.rank() == 2;
    if (!chooser_ || !plain || draft_told_) return;
    Layer as_linear = layer;
    as_linear.part = Part::linear;
    as_linear.class_name = "ReplicatedLinear";
    if (!chooser_(as_linear)) return;
    draft_told_ = true;
    add("mtp-targeted", m->name,
        "is of a draft layer, stored unquantized, and the config does not leave it out");
  }

  void check_tied_head(const Layer& layer) {
    for (const Shard& s : layer.shards) {
      bool told = false;
      for (const auto& [suffix, i] : stored(s)->parts) {
        bool codes = is_quantized_suffix(suffix);
        result_.verdicts[i] = codes ? Verdict::dropped : Verdict::ignored;
        if (codes && !std::exchange(told, true)) {
          add("tied-head-quantized", tensor(i).name,
              "is of a quantized head, and tie_word_embeddings is true", tensor(i).name);
        }
      }
    }
  }

  bool supported(const Layer& layer, const Scheme& scheme) {
    Where where = layer.part == Part::experts     ? Where::experts
                  : layer.part == Part::embedding ? Where::embedding
                                                  : Where::linear;
    const Support* row = support_of(engine_, scheme.support, where);
    std::string once = std::string(scheme.support) + " " + std::to_string(static_cast<int>(where)) +
                       " " + std::to_string(scheme.bits);
    bool first = told_.insert(once).second;
    std::string place = where == Where::experts     ? " in experts"
                        : where == Where::embedding ? " in an embedding"
                                                    : "";
    std::string what = "its scheme is " + std::string(scheme.support) + " of " +
                       std::to_string(scheme.bits) + " bits" + place;
    if (row == nullptr) {
      if (first) add("scheme-not-known", layer.name, what);
      return true;
    }
    // Some run on the hardware asked for and nowhere else.
    const HardwareRow* cell = hardware_row(context_, scheme, where);
    bool there = cell != nullptr && cell->cell != Cell::no;
    if (cell != nullptr && cell->code && cell->cell == Cell::no) {
      if (first) check_hardware(context_, layer, scheme, *row, where);
      return false;
    }
    if (!row->error.empty() && !there) {
      if (first) add("unsupported-scheme", layer.name, what, row->error);
      return false;
    }
    if (first) check_hardware(context_, layer, scheme, *row, where);
    return true;
  }

  // ---- parameters

  void check_quantized(const Layer& layer, const Scheme& scheme) {
    const ParamSet& set = param_set(scheme.params);
    std::vector<Dims> dims;
    for (const Shard& s : layer.shards) {
      dims.push_back(dims_of(s, set, scheme));
      check_shard(layer, s, set, scheme, dims.back());
    }
    check_division(layer, scheme, dims, model_, options_, findings_);
    check_latents(layer, set, scheme);
    check_second_stage(context_, layer, scheme);
    bool half = scheme.support == "gptq-plain" || scheme.support == "gptq-group";
    if (half && model_.dtype == DType::bf16 && told_.insert("half").second) {
      add("gptq-plain-dtype", layer.name,
          "the model is bfloat16, and the scheme is not one of Marlin's");
    }
  }

  // DeepSeek's first projections are put together before they are loaded, along the outputs of a
  // weight [out, in] whatever the tensor.
  void check_latents(const Layer& layer, const ParamSet& set, const Scheme& scheme) {
    if (layer.shards.size() != 2 || !layer.name.ends_with("fused_qkv_a_proj_with_mqa")) return;
    for (const Param& p : set.params) {
      if (set.name == "awq" || p.shape.starts_with("N") || !created(p, scheme)) continue;
      const StoredModule* m = stored(layer.shards.front());
      auto i = m == nullptr ? std::nullopt : m->find(p.suffix);
      if (!i) continue;
      if (tensor(*i).shape.rank() == 0) {
        bool first = layer.shards.front().member == "kv_a_proj_with_mqa";
        const StoredModule* other = stored(first ? layer.shards.front() : layer.shards.back());
        auto second = other == nullptr ? std::nullopt : other->find(p.suffix);
        if (second && findings_.knows("latents-scale")) {
          result_.verdicts[*second] = Verdict::dropped;
          add("latents-scale", tensor(*second).name, "is not read");
        }
        continue;
      }
      bool whole = tensor(*i).shape.rank() == 2;
      add("latents-joined", tensor(*i).name, "cannot be joined with that of kv_a_proj_with_mqa",
          whole ? "Sizes of tensors must match except in dimension 0." : "AssertionError");
      return;
    }
  }

  Dims dims_of(const Shard& s, const ParamSet& set, const Scheme& scheme) const {
    Dims out = s.dims;
    const StoredModule* m = stored(s);
    if (m == nullptr) return out;
    for (const Param& p : set.params) {
      auto i = m->find(p.suffix);
      if (!i) continue;
      Dims found = dims_from(p, scheme, tensor(*i).shape);
      if (out.n == 0) out.n = found.n;
      if (out.k == 0) out.k = found.k;
      break;  // the codes come first
    }
    // Stored unquantized: its sizes are those that the engine builds all the same.
    auto weight = m->find("weight");
    if (weight && tensor(*weight).shape.rank() == 2) {
      if (out.n == 0) out.n = tensor(*weight).shape[0];
      if (out.k == 0) out.k = tensor(*weight).shape[1];
    }
    return out;
  }

  void check_shard(const Layer& layer, const Shard& s, const ParamSet& set, const Scheme& scheme,
                   Dims dims) {
    const StoredModule* m = stored(s);
    for (const Param& p : set.params) {
      if (m != nullptr && m->find(p.suffix)) continue;
      if (needed(p, scheme)) miss(layer, s, p.suffix, true);
    }
    if (m == nullptr) return;
    const Loader* loader = loader_of(engine_, model_.architecture);
    for (const auto& [suffix, i] : m->parts) {
      if (loader != nullptr && loader->renames_inverse && is_inverse(suffix, scheme)) {
        result_.verdicts[i] = Verdict::dropped;
        add("scale-inv-renamed", tensor(i).name, "is looked up as weight_scale",
            full_name(layer.name, "weight_scale"));
        result_.missing.push_back({full_name(s.name, "weight_scale_inv"), Verdict::defaulted});
        continue;
      }
      bool misnamed = scheme.support == "MXFP8" && suffix == "weight_scale" &&
                      model_.architecture.starts_with("Qwen2_5_VL");
      if (misnamed && findings_.knows("mxfp8-scale-name")) {
        result_.verdicts[i] = Verdict::dropped;
        add("mxfp8-scale-name", tensor(i).name, "is called weight_scale_inv there",
            full_name(layer.name, suffix));
        continue;
      }
      auto p = std::ranges::find(set.params, suffix, &Param::suffix);
      if (p == set.params.end() || !created(*p, scheme)) {
        if (suffix != "bias") unexpected(layer, s, suffix, i);
        if (suffix == "bias") resident_.add(layer, s, tensor(i).bytes, s.split == Split::column);
        continue;
      }
      check_tensor(layer, s, *p, scheme, dims, i);
      bool cut = (s.split == Split::row && along_k(*p)) ||
                 (s.split != Split::row && s.split != Split::none && along_n(*p));
      resident_.add(layer, s, tensor(i).bytes, cut);
    }
  }

  void check_tensor(const Layer& layer, const Shard& s, const Param& p, const Scheme& scheme,
                    Dims dims, uint32_t i) {
    const StoredTensor& t = tensor(i);
    auto expected = shape_of(p, scheme, dims);
    if (expected && !fits(p, t.shape, *expected)) {
      result_.verdicts[i] = Verdict::wrong_shape;
      bool padded = s.split == Split::row && layer.part == Part::linear &&
                    findings_.knows("row-padded") && apart_along_k(p, t.shape, *expected);
      add(padded ? "row-padded" : "wrong-shape", t.name,
          "has another shape than the parameter (expected " + expected->str() + ", found " +
              t.shape.str() + ")",
          s.name);
      return;
    }
    check_dtype(layer, s, p.dtype, i);
  }

  // Both engines copy what fits in shape; what that means depends on the two dtypes.
  void check_dtype(const Layer& layer, const Shard& s, std::string_view wanted, uint32_t i) {
    const StoredTensor& t = tensor(i);
    if (wanted == "any" || (wanted == "float" && is_float(t.dtype))) return;
    DType expected = wanted == "model" ? model_.dtype : dtype_from_name(wanted).value_or(t.dtype);
    if (expected == t.dtype) return;
    std::string what = "(expected " + std::string(dtype_name(expected)) + ", found " +
                       std::string(dtype_name(t.dtype)) + ")";
    bool bytes = dtype_name(t.dtype) == "F8_E8M0" && wanted == "U8";
    if (bytes) return;
    if (is_float(expected) && is_float(t.dtype)) {
      bool unfused = layer.shards.size() == 1 && s.split == Split::column;
      if (dtype_bits(t.dtype) > dtype_bits(expected) && unfused && findings_.knows("downcast")) {
        result_.verdicts[i] = Verdict::wrong_dtype;
        add("downcast", t.name, "is wider than its parameter " + what);
      }
      return;
    }
    result_.verdicts[i] = Verdict::wrong_dtype;
    bool checked = layer.part == Part::linear && layer.shards.size() == 1 &&
                   s.split != Split::row && !layer.vision;
    add(!checked && findings_.knows("cast-silently") ? "cast-silently"
        : is_float(t.dtype)                          ? "float-into-codes"
                                                     : "wrong-dtype",
        t.name, "has another dtype than the parameter " + what);
  }

  void miss(const Layer& layer, const Shard& s, std::string_view suffix, bool quantized) {
    std::string name = full_name(s.name, suffix);
    bool input = suffix == "input_scale" && findings_.knows("missing-input-scale");
    result_.missing.push_back({name, input ? Verdict::defaulted : Verdict::uninitialised});
    std::string_view topic = input                   ? "missing-input-scale"
                             : quantized || chooser_ ? "missing-parameter"
                                                     : "missing-weight";
    add(topic, name, "is not in the checkpoint, and " + layer.name + " needs it", name);
  }

  // The name under which the engine looks for it: experts.w13_weight, qkv_proj.weight_scale.
  static std::string parameter_name(const Layer& layer, const Shard& s, std::string_view suffix) {
    if (layer.part != Part::experts) return full_name(layer.name, suffix);
    bool down = s.member == "down_proj" || s.member == "w2";
    return layer.name + "." + (down ? "w2_" : "w13_") + std::string(suffix);
  }

  void unexpected(const Layer& layer, const Shard& s, std::string_view suffix, uint32_t i) {
    if (is_kv_scale(suffix)) return;  // looked at on their own
    std::string slot = parameter_name(layer, s, suffix);
    result_.verdicts[i] = Verdict::dropped;
    std::string what = "has no parameter in the engine's " + layer.name;
    bool experts = layer.part == Part::experts, fused = layer.name != s.name;
    if (experts && findings_.knows("unexpected-expert")) {
      findings_.add("unexpected-expert", tensor(i).name, what, layer.name,
                    slot.substr(layer.name.size() + 1));
      return;
    }
    bool stops = experts || fused;
    if (const Loader* row = loader_of(engine_, model_.architecture)) {
      stops = experts ? row->experts_stop : fused ? row->fused_stops : row->plain_stops;
    }
    bool keyed =
        model_.architecture.starts_with("Deepseek") && findings_.knows("unexpected-looked-up");
    findings_.add(stops   ? "unexpected-fused"
                  : keyed ? "unexpected-looked-up"
                          : "unexpected-tensor",
                  tensor(i).name, what, slot, layer.class_name);
  }

  void check_unquantized(const Layer& layer) {
    // SGLang pads vision towers.
    bool padded = layer.vision && !findings_.knows("tp-size-fused");
    if (layer.part == Part::linear && options_.tp > 1 && !padded) {
      std::vector<Dims> dims;
      for (const Shard& s : layer.shards) dims.push_back(dims_of(s, {}, {}));
      check_cuts(layer, dims, model_, options_, findings_);
    }
    for (const Shard& s : layer.shards) {
      const StoredModule* m = stored(s);
      bool matrix = layer.part != Part::plain || layer.router;
      if (matrix && (m == nullptr || !m->find("weight"))) miss(layer, s, "weight", false);
      if (m == nullptr) continue;
      for (const auto& [suffix, i] : m->parts) {
        bool foreign = is_quantized_suffix(suffix) || is_stack_scale(m->name, suffix);
        if (is_stack_scale(m->name, suffix) && findings_.knows("stacked-experts")) {
          add("stacked-experts", tensor(i).name, "is of a stack of experts");
        } else if (foreign && !is_kv_scale(suffix)) {
          unexpected(layer, s, suffix, i);
          continue;
        }
        if (suffix == "weight") check_plain_weight(layer, s, i);
        resident_.add(layer, s, tensor(i).bytes,
                      s.split != Split::none && (suffix != "bias" || s.split != Split::row));
      }
    }
  }

  void check_plain_weight(const Layer& layer, const Shard& s, uint32_t i) {
    const StoredTensor& t = tensor(i);
    bool codes = t.dtype == DType::f8_e4m3 || t.dtype == DType::i8 || t.dtype == DType::u8 ||
                 t.dtype == DType::f8_e5m2;
    if (codes && (layer.part != Part::plain || layer.router)) {
      result_.verdicts[i] = Verdict::wrong_dtype;
      add("codes-as-values", t.name,
          "is " + std::string(dtype_name(t.dtype)) + ", and the engine builds " + layer.name +
              " unquantized");
      return;
    }
    bool sized = layer.part == Part::linear || layer.part == Part::experts;
    if (!sized || s.dims.n == 0 || s.dims.k == 0 || t.shape == Shape{s.dims.n, s.dims.k}) return;
    result_.verdicts[i] = Verdict::wrong_shape;
    add("wrong-shape", t.name,
        "has another shape than the parameter (expected " + Shape{s.dims.n, s.dims.k}.str() +
            ", found " + t.shape.str() + ")",
        s.name);
  }

  // Embedding, head and every decoder layer are there, in families whose names are known.
  void check_frame() {
    if (!model_.known || checkpoint_.tensors.empty()) return;
    std::set<int64_t> seen;
    bool head = model_.tied, embedding = false, draft = false;
    for (const Layer& l : layers_.layers) {
      if (!l.vision && l.index >= 0) seen.insert(l.index);
      head |= l.part == Part::head;
      draft |= l.part == Part::draft;
      embedding |= l.part == Part::embedding;
    }
    auto miss_module = [&](const std::string& name) {
      result_.missing.push_back({name, Verdict::uninitialised});
      add(chooser_ ? "missing-parameter" : "missing-weight", name, "is not in the checkpoint",
          name);
    };
    if (model_.draft_layers > 0 && !draft) {
      add("mtp-missing", "", "config.json promises draft layers, and none is stored");
    }
    if (!embedding) miss_module("model.embed_tokens.weight");
    if (!head) miss_module("lm_head.weight");
    for (uint64_t i = 0; i < std::min<uint64_t>(model_.layers, 4096); ++i) {
      if (!seen.contains(static_cast<int64_t>(i)))
        miss_module("model.layers." + std::to_string(i) + ".*");
    }
  }

  const Checkpoint& checkpoint_;
  const Engine& engine_;
  const Options& options_;
  Findings findings_;
  ModelShape model_;
  Layers layers_;
  Resident resident_;
  Context context_;
  Chooser chooser_;
  bool as_stored_ = false, draft_told_ = false;
  std::set<std::string> told_;
  Result result_;
};

}  // namespace

Result check(const Checkpoint& checkpoint, const Engine& engine, const Options& options) {
  return Replay(checkpoint, engine, options).run();
}

}  // namespace qp::target
