#include "lib/plan/plan.h"

#include <algorithm>
#include <map>
#include <utility>

#include "lib/base/error.h"
#include "lib/config/algorithms.h"
#include "lib/config/presets.h"
#include "lib/plan/mixes.h"
#include "lib/qmap/latents.h"
#include "lib/qmap/stacks.h"
#include "lib/scheme/numerics.h"

namespace qp {
namespace {

bool by_default(ModuleKind kind) {
  return kind == ModuleKind::linear || kind == ModuleKind::expert;
}

std::string why_kept(ModuleKind kind) {
  switch (kind) {
    case ModuleKind::embedding: return "embeddings stay unquantized by default";
    case ModuleKind::head: return "the output head stays unquantized by default";
    case ModuleKind::norm: return "norms are never quantized";
    case ModuleKind::router: return "engines build routers unquantized";
    case ModuleKind::vision: return "towers of other modalities stay unquantized";
    case ModuleKind::conv: return "convolutions have no quantized layout";
    case ModuleKind::mtp: return "multi-token-prediction layers are kept as they are";
    case ModuleKind::conditioning:
      return "engines build embedders, modulation and output projection of diffusion transformers "
             "unquantized";
    case ModuleKind::stack: return "a stack of experts of no known layout is kept as it is";
    case ModuleKind::bias: return "biases and other 1-D parameters are never quantized";
    case ModuleKind::other: return "no float weight";
    case ModuleKind::linear:
    case ModuleKind::expert: break;
  }
  return "no rule matches";
}

}  // namespace

// Of a mix: no name is any name; what the mix makes of the tensor is another question.
bool reaches(const Rule& rule, const std::string& name, const ModuleInfo& info) {
  if (rule.mix && rule.match.empty()) return true;
  return std::ranges::any_of(rule.match, [&](const Match& m) {
    if (!rule.scheme) return m(name, info);
    // A pattern is a net: it must not catch what engines cannot load. A name or kind is a wish.
    bool stack = info.kind == ModuleKind::stack;  // its experts, by the name of the stack
    return m(name, info) && (m.is_regex() ? by_default(info.kind) || stack
                                          : accepts(*rule.scheme, info.kind) || stack);
  });
}

namespace {

struct Use {
  std::vector<size_t> of_rule, of_ignore;  // how many tensors each reached
};

// What a recipe says about a tensor: by its own name, or as an expert by that of its stack.
struct Named {
  const std::string& name;
  const ModuleInfo& info;
};

void assign(PlanEntry& e, const Scheme& scheme, const std::string& algorithm, Plan& plan) {
  e.algorithm = algorithm;
  auto it = std::ranges::find(plan.schemes, scheme);
  e.scheme = static_cast<int32_t>(it - plan.schemes.begin());
  if (it == plan.schemes.end()) plan.schemes.push_back(scheme);
}

// `mixed`: by rule, the type that a mix chose for the tensor, with the reason; absent: none.
void decide(PlanEntry& e, std::initializer_list<Named> names, const Recipe& recipe,
            const std::map<size_t, MixChoice>& mixed, Plan& plan, Use& use) {
  for (size_t i = 0; i < recipe.ignore.size(); ++i) {
    for (const Named& n : names) {
      if (!recipe.ignore[i](n.name, n.info)) continue;
      ++use.of_ignore[i];
      e.reason = "ignored by '" + recipe.ignore[i].text() + "'";
      return;
    }
  }
  e.reason = why_kept(e.info.kind);
  for (size_t i = 0; i < recipe.rules.size(); ++i) {
    const Rule& rule = recipe.rules[i];
    auto named = [&](const Named& n) { return reaches(rule, n.name, n.info); };
    if (std::ranges::none_of(names, named)) continue;
    if (rule.mix) {
      auto choice = mixed.find(i);
      if (choice == mixed.end()) continue;
      ++use.of_rule[i];
      e.reason = rule.source + ": " + choice->second.why;
      if (choice->second.scheme) assign(e, *choice->second.scheme, rule.algorithm, plan);
      return;
    }
    ++use.of_rule[i];
    e.reason = rule.source;
    if (!rule.scheme) {
      if (by_default(e.info.kind) && parse_algorithm(rule.algorithm).front().algorithm->edits) {
        e.algorithm = rule.algorithm;
      }
      return;
    }
    bool other = e.info.kind == ModuleKind::expert && rule.experts;
    assign(e, other ? *rule.experts : *rule.scheme, rule.algorithm, plan);
    return;
  }
}

void check_quantizable(const PlanEntry& e, const Scheme& scheme, const std::string& label) {
  const Tensor& t = *e.tensor;
  parse_algorithm(e.algorithm);
  if (t.dtype == DType::f64) {
    throw usage_error("is F64, which no scheme quantizes from")
        .file(label)
        .tensor(t.name)
        .hint("use qload --dtype F32");
  }
  std::string why = scheme.ggml.empty() ? numerics::why_not(numerics::rules(scheme.numerics), scheme) : "";
  if (why.empty()) why = why_not(scheme, e.source->shape);
  if (!why.empty()) {
    throw usage_error("cannot be quantized with " + scheme.name + ": " + why)
        .file(label)
        .tensor(t.name);
  }
}

void check_agreement(const Plan& plan, const std::string& label) {
  std::map<std::string, const PlanEntry*> first;
  auto ggml = [&](const PlanEntry& e) {
    return e.scheme >= 0 && !plan.schemes[static_cast<size_t>(e.scheme)].ggml.empty();
  };
  for (const PlanEntry& e : plan.entries) {
    if (ggml(e)) continue;  // llama.cpp fuses nothing
    for (const std::string& key : {e.info.fused, e.info.agree}) {
      if (key.empty()) continue;
      auto [it, fresh] = first.emplace(key, &e);
      if (fresh || it->second->scheme == e.scheme) continue;
      auto name = [&](const PlanEntry& p) {
        return p.scheme < 0 ? std::string("unquantized")
                            : plan.schemes[static_cast<size_t>(p.scheme)].name;
      };
      throw usage_error("engines fuse it with '" + printable(it->second->tensor->name) + "' (group " +
                        key + "), but it is " + name(e) + " by " + e.reason + " and the other is " +
                        name(*it->second) + " by " + it->second->reason)
          .file(label)
          .tensor(e.tensor->name)
          .hint("give the whole group one rule");
    }
  }
}

class Planner {
 public:
  Planner(const Model& model, const Recipe& recipe, const std::string& label)
      : model_(model), recipe_(recipe), label_(label), stacks_(find_stacks(model)),
        use_{std::vector<size_t>(recipe.rules.size()), std::vector<size_t>(recipe.ignore.size())} {}

  Plan make() {
    choose_mixes(model_, recipe_, label_, mixed_);
    plan_.entries.reserve(model_.tensors.size());
    for (const auto& [prefix, stack] : stacks_) take_apart(stack);
    for (const Tensor& t : model_.tensors) {
      const ExpertStack* stack = stack_of(stacks_, t);
      auto it = apart_.find(stack ? &t : nullptr);
      if (auto halves = take_latents_apart(t); !halves.empty()) {
        for (PlanEntry& e : halves) add(std::move(e));
      } else if (it == apart_.end()) {
        add(single(t));
      } else {
        for (PlanEntry& e : it->second) add(std::move(e));
      }
    }
    finish();
    return std::move(plan_);
  }

 private:
  const Tensor* keep(Tensor t) { return &plan_.views->emplace_back(std::move(t)); }

  PlanEntry single(const Tensor& t) {
    PlanEntry e;
    e.tensor = e.source = &t;
    DType dtype = t.quantized() ? DType::bf16 : t.dtype;
    e.info = classify(t.name, dtype, t.shape, model_.config);
    size_t schemes = plan_.schemes.size();
    decide(e, {{t.name, e.info}}, recipe_, mixed_.of[&t], plan_, use_);
    if (e.info.kind == ModuleKind::stack && e.scheme >= 0) {
      e.scheme = -1;
      e.reason = why_kept(e.info.kind);
    }
    if (t.quantized()) {
      if (e.scheme >= 0 && same_weights(t, plan_.schemes[static_cast<size_t>(e.scheme)])) return retagged(std::move(e));
      if (e.scheme >= 0) refuse_again(t);
      e.info = classify(t.name, DType::u8, t.shape, model_.config);
      e.reason = "already quantized";
    }
    if (e.scheme < 0) plan_.schemes.resize(std::min(schemes, plan_.schemes.size()));
    bool beside = whole_ && e.scheme >= 0 && e.info.kind == ModuleKind::linear;
    if (beside && is_mxfp4(plan_.schemes[static_cast<size_t>(e.scheme)]) && !named(e)) {
      e.scheme = -1;
      e.reason = "engines load gpt-oss in MXFP4 with everything but its experts unquantized";
    }
    if (e.scheme >= 0 && t.part(Role::pre_scale) != nullptr) {
      Tensor divided = t;  // an edited matrix, whose codes are those of its data
      std::erase_if(divided.parts, [](const Part& p) { return p.role == Role::pre_scale; });
      e.tensor = e.source = keep(std::move(divided));
    }
    bool turn = e.scheme >= 0 && (e.info.transposed || t.transposed);
    if (turn && (e.source = keep(turned(t)))->parts.empty()) {
      e.source = &t;
      e.scheme = -1;
      e.reason = "its bytes are stored in a form that cannot be turned to [out, in]";
    }
    return e;
  }

  bool same_weights(const Tensor& t, const Scheme& scheme) const {
    if (!t.ggml.empty()) return false;
    const Scheme& is = model_.schemes[static_cast<size_t>(t.scheme)];
    return is.weights == scheme.weights && is.numerics == scheme.numerics;
  }

  PlanEntry retagged(PlanEntry e) {
    Tensor t = *e.tensor;
    std::erase_if(t.parts, [](const Part& p) {
      return p.role == Role::input_scale || p.role == Role::input_global_scale || p.role == Role::input_zero_point;
    });
    e.tensor = e.source = keep(std::move(t));
    e.retag = std::exchange(e.scheme, -1);
    e.algorithm.clear();
    e.reason += "; its weights are quantized so already";
    return e;
  }

  [[noreturn]] void refuse_again(const Tensor& t) const {
    std::string is = t.ggml.empty() ? model_.schemes[static_cast<size_t>(t.scheme)].name : t.ggml;
    throw limit_error("is already quantized (" + is + ")")
        .file(label_)
        .tensor(t.name)
        .hint("load it with qload --dequantize to quantize it again");
  }

  // The entries of one tensor of a stack, experts apart.
  std::vector<PlanEntry> experts_of(const ExpertStack& stack, const Tensor& t) {
    std::vector<PlanEntry> entries;
    std::vector<std::string> inputs;
    ModuleInfo whole = classify(t.name, DType::bf16, t.shape, model_.config);
    std::vector<Tensor> linears = linears_of(model_, stack, t, &inputs);
    for (size_t i = 0; i < linears.size(); ++i) {
      PlanEntry e;
      e.tensor = e.source = keep(std::move(linears[i]));
      e.info = classify(e.tensor->name, DType::bf16, e.tensor->shape, model_.config);
      e.input = inputs[i];
      decide(e, {{e.tensor->name, e.info}, {t.name, whole}}, recipe_, mixed_.of[&t], plan_, use_);
      entries.push_back(std::move(e));
    }
    return entries;
  }

  // Keys and values of kv_b_proj apart, where either becomes ggml's blocks. Empty: it stays one.
  std::vector<PlanEntry> take_latents_apart(const Tensor& t) {
    auto halves = latents_of(model_, t);
    if (!halves) return {};
    size_t views = plan_.views->size(), schemes = plan_.schemes.size();
    ModuleInfo whole = classify(t.name, t.dtype, t.shape, model_.config);
    std::vector<PlanEntry> entries;
    bool any = false;
    for (bool keys : {true, false}) {
      PlanEntry e;
      e.tensor = e.source = keep(std::move(keys ? halves->first : halves->second));
      Shape rows{e.tensor->shape.rows(), e.tensor->shape.cols()};
      e.info = classify(e.tensor->name, t.dtype, rows, model_.config);
      const ByRule& mixed = (keys ? mixed_.keys : mixed_.values)[&t];
      decide(e, {{e.tensor->name, e.info}, {t.name, whole}}, recipe_, mixed, plan_, use_);
      any = any || (e.scheme >= 0 && !plan_.schemes[static_cast<size_t>(e.scheme)].ggml.empty());
      entries.push_back(std::move(e));
    }
    if (any) return entries;
    plan_.views->resize(views);
    plan_.schemes.resize(schemes);
    return {};
  }

  // A stack comes apart when any of its experts is quantized, and then wholly: engines expect the
  // experts of a layer in one form.
  void take_apart(const ExpertStack& stack) {
    size_t views = plan_.views->size(), schemes = plan_.schemes.size();
    std::map<const Tensor*, std::vector<PlanEntry>> of;
    bool any = false, whole = true;
    for (const Tensor* t : {stack.gate_up, stack.down, stack.gate_up_bias, stack.down_bias}) {
      if (t == nullptr) continue;
      of[t] = experts_of(stack, *t);
      if (of[t].empty()) return;
      for (const PlanEntry& e : of[t]) {
        if (e.scheme >= 0 && t->quantized()) refuse_again(*t);
        if (t->shape.rank() == 2) continue;  // biases
        any = any || e.scheme >= 0;
        whole = whole && e.scheme == of[t].front().scheme && stays_whole(stack, e.scheme);
      }
    }
    if (!any) {
      plan_.views->resize(views);
      plan_.schemes.resize(schemes);
      for (const Tensor* t : {stack.gate_up, stack.down}) why_whole_[t] = of[t].front().reason;
      return;
    }
    if (!whole) return apart_.merge(of);
    for (const Tensor* t : {stack.gate_up, stack.down}) {
      PlanEntry e = of[t].front();
      e.tensor = t;
      e.source = stack.transposed && e.scheme >= 0 ? keep(turned(*t)) : t;
      e.info = classify(t->name, DType::bf16, t->shape, model_.config);
      e.input.clear();
      apart_[t].push_back(std::move(e));
    }
    whole_ = whole_ || is_mxfp4(plan_.schemes[static_cast<size_t>(of[stack.gate_up].front().scheme)]);
  }

  static bool is_mxfp4(const Scheme& s) {
    return s.code_kind() == CodeKind::e2m1 && s.scale_kind() == ScaleKind::e8m0;
  }
  // gpt-oss in MXFP4: so it is published, and its rows know nothing of one another. ggml's blocks: in
  // a GGUF the experts are one tensor.
  bool stays_whole(const ExpertStack& stack, int32_t scheme) const {
    if (scheme < 0) return false;
    const Scheme& s = plan_.schemes[static_cast<size_t>(scheme)];
    return !s.ggml.empty() || (stack.interleaved && stack.transposed && is_mxfp4(s));
  }

  // A rule asks for it by name or pattern, not by kind alone.
  bool named(const PlanEntry& e) const {
    return std::ranges::any_of(recipe_.rules, [&](const Rule& r) {
      return r.scheme && std::ranges::any_of(r.match, [&](const Match& m) {
        return !m.is_kind() && m(e.tensor->name, e.info);
      });
    });
  }

  void add(PlanEntry e) {
    const Tensor& t = *e.tensor;
    auto why = why_whole_.find(&t);
    if (why != why_whole_.end() && !t.quantized()) e.reason = why->second;
    uint64_t n = t.shape.elements().value_or(0);
    plan_.input_bytes += t.stored_bytes();
    e.output_bytes = t.stored_bytes();
    if (e.scheme >= 0) {
      const Scheme& scheme = plan_.schemes[static_cast<size_t>(e.scheme)];
      try {
        check_quantizable(e, scheme, label_);
      } catch (const Error& error) {
        if (refused_++ == 0) refusal_ = error;
        return;
      }
      e.output_bytes = 0;
      for (const PartSpec& p : part_specs(scheme, e.source->shape, t.dtype)) {
        e.output_bytes += byte_size(p.dtype, p.shape).value_or(0);
      }
      ++plan_.quantized;
      plan_.quantized_params += n;
    } else {
      plan_.kept_params += n;
    }
    plan_.output_bytes += e.output_bytes;
    plan_.entries.push_back(std::move(e));
  }

  void finish() {
    if (refusal_) {
      std::string more =
          refused_ > 1 ? " (and " + std::to_string(refused_ - 1) + " more tensors)" : "";
      throw Error(refusal_->kind(), refusal_->reason() + more)
          .file(refusal_->file())
          .tensor(refusal_->tensor())
          .hint(refusal_->hint());
    }
    check_agreement(plan_, label_);
    for (size_t i = 0; i < recipe_.rules.size(); ++i) {
      if (use_.of_rule[i] > 0) continue;
      plan_.warnings.push_back(recipe_.rules[i].source + " matches no tensor");
    }
    for (size_t i = 0; i < recipe_.ignore.size(); ++i) {
      if (use_.of_ignore[i] > 0) continue;
      plan_.warnings.push_back("--ignore '" + recipe_.ignore[i].text() + "' matches no tensor");
    }
  }

  const Model& model_;
  const Recipe& recipe_;
  const std::string& label_;
  std::map<std::string, ExpertStack> stacks_;
  Use use_;
  Plan plan_;
  MixChoices mixed_;
  std::map<const Tensor*, std::vector<PlanEntry>> apart_;  // entries in the place of a stack
  std::map<const Tensor*, std::string> why_whole_;
  bool whole_ = false;  // some stack stays one quantized tensor
  size_t refused_ = 0;
  std::optional<Error> refusal_;
};

}  // namespace

Plan make_plan(const Model& model, const Recipe& recipe, const std::string& label) {
  return Planner(model, recipe, label).make();
}

Json to_json(const Plan& plan, const Hash128& source) {
  Json out = {{"plan", 1}, {"source", source.hex()}, {"output_bytes", plan.output_bytes},
              {"warnings", plan.warnings}, {"rules", Json::array()}};
  for (const PlanEntry& e : plan.entries) {
    Json rule = {{"match", e.tensor->name}};
    int32_t scheme = std::max(e.scheme, e.retag);
    rule["scheme"] = scheme < 0 ? Json() : qp::to_json(plan.schemes[static_cast<size_t>(scheme)]);
    if (!e.algorithm.empty()) rule["algorithm"] = e.algorithm;
    rule["kind"] = name_of(e.info.kind);
    rule["reason"] = e.reason;
    out["rules"].push_back(std::move(rule));
  }
  return out;
}

}  // namespace qp
