#include "lib/plan/plan.h"

#include <algorithm>
#include <map>

#include "lib/base/error.h"
#include "lib/config/algorithms.h"
#include "lib/config/presets.h"
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
    case ModuleKind::stack: return "experts stacked in one 3-D tensor are kept as they are";
    case ModuleKind::bias: return "biases and other 1-D parameters are never quantized";
    case ModuleKind::other: return "no float weight";
    case ModuleKind::linear:
    case ModuleKind::expert: break;
  }
  return "no rule matches";
}

struct Use {
  std::vector<size_t> of_rule, of_ignore;  // how many tensors each reached
};

bool rule_reaches(const Rule& rule, const Tensor& t, const ModuleInfo& info) {
  return std::ranges::any_of(rule.match, [&](const Match& m) {
    if (!rule.scheme) return m(t.name, info);
    // A pattern is a net: it must not catch what engines cannot load. A name or kind is a wish.
    return m(t.name, info) && (m.is_regex() ? by_default(info.kind) : accepts(*rule.scheme, info.kind));
  });
}

void decide(PlanEntry& e, const Recipe& recipe, Plan& plan, Use& use) {
  const Tensor& t = *e.tensor;
  for (size_t i = 0; i < recipe.ignore.size(); ++i) {
    if (recipe.ignore[i](t.name, e.info)) {
      ++use.of_ignore[i];
      e.reason = "ignored by '" + recipe.ignore[i].text() + "'";
      return;
    }
  }
  e.reason = why_kept(e.info.kind);
  for (size_t i = 0; i < recipe.rules.size(); ++i) {
    const Rule& rule = recipe.rules[i];
    if (!rule_reaches(rule, t, e.info)) continue;
    ++use.of_rule[i];
    e.reason = rule.source;
    if (!rule.scheme) return;
    e.algorithm = rule.algorithm;
    auto it = std::ranges::find(plan.schemes, *rule.scheme);
    e.scheme = static_cast<int32_t>(it - plan.schemes.begin());
    if (it == plan.schemes.end()) plan.schemes.push_back(*rule.scheme);
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
  std::string why = numerics::why_not(numerics::rules(scheme.numerics), scheme);
  if (why.empty()) why = why_not(scheme, t.shape);
  if (!why.empty()) {
    throw usage_error("cannot be quantized with " + scheme.name + ": " + why)
        .file(label)
        .tensor(t.name);
  }
}

void check_agreement(const Plan& plan, const std::string& label) {
  std::map<std::string, const PlanEntry*> first;
  for (const PlanEntry& e : plan.entries) {
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

}  // namespace

Plan make_plan(const Model& model, const Recipe& recipe, const std::string& label) {
  Plan plan;
  Use use{std::vector<size_t>(recipe.rules.size()), std::vector<size_t>(recipe.ignore.size())};
  plan.entries.reserve(model.tensors.size());
  size_t refused = 0;
  std::optional<Error> refusal;
  for (const Tensor& t : model.tensors) {
    PlanEntry e;
    e.tensor = &t;
    e.info = classify(t.name, t.quantized() ? DType::u8 : t.dtype, t.shape, model.config);
    decide(e, recipe, plan, use);
    if (t.quantized()) {
      auto as_float = classify(t.name, DType::bf16, t.shape, model.config);
      bool wanted = std::ranges::any_of(recipe.rules, [&](const Rule& r) {
        return r.scheme && rule_reaches(r, t, as_float);
      });
      if (wanted) {
        throw limit_error("is already quantized (" +
                          (t.ggml.empty() ? model.schemes[static_cast<size_t>(t.scheme)].name : t.ggml) +
                          ")")
            .file(label)
            .tensor(t.name)
            .hint("load it with qload --dequantize to quantize it again");
      }
      e.reason = "already quantized";
    }
    uint64_t n = t.shape.elements().value_or(0);
    plan.input_bytes += t.stored_bytes();
    e.output_bytes = t.stored_bytes();
    if (e.scheme >= 0) {
      const Scheme& scheme = plan.schemes[static_cast<size_t>(e.scheme)];
      try {
        check_quantizable(e, scheme, label);
      } catch (const Error& error) {
        if (refused++ == 0) refusal = error;
        continue;
      }
      e.output_bytes = 0;
      for (const PartSpec& p : part_specs(scheme, t.shape, t.dtype)) {
        e.output_bytes += byte_size(p.dtype, p.shape).value_or(0);
      }
      ++plan.quantized;
      plan.quantized_params += n;
    } else {
      plan.kept_params += n;
    }
    plan.output_bytes += e.output_bytes;
    plan.entries.push_back(std::move(e));
  }
  if (refusal) {
    std::string more = refused > 1 ? " (and " + std::to_string(refused - 1) + " more tensors)" : "";
    throw Error(refusal->kind(), refusal->reason() + more)
        .file(refusal->file())
        .tensor(refusal->tensor())
        .hint(refusal->hint());
  }
  check_agreement(plan, label);
  for (size_t i = 0; i < recipe.rules.size(); ++i) {
    if (use.of_rule[i] == 0) plan.warnings.push_back(recipe.rules[i].source + " matches no tensor");
  }
  for (size_t i = 0; i < recipe.ignore.size(); ++i) {
    if (use.of_ignore[i] == 0) {
      plan.warnings.push_back("--ignore '" + recipe.ignore[i].text() + "' matches no tensor");
    }
  }
  return plan;
}

Json to_json(const Plan& plan, const Hash128& source) {
  Json out = {{"plan", 1}, {"source", source.hex()}, {"output_bytes", plan.output_bytes},
              {"warnings", plan.warnings}, {"rules", Json::array()}};
  for (const PlanEntry& e : plan.entries) {
    Json rule = {{"match", e.tensor->name}};
    if (e.scheme >= 0) {
      rule["scheme"] = qp::to_json(plan.schemes[static_cast<size_t>(e.scheme)]);
      rule["algorithm"] = e.algorithm;
    } else {
      rule["scheme"] = nullptr;
    }
    rule["kind"] = name_of(e.info.kind);
    rule["reason"] = e.reason;
    out["rules"].push_back(std::move(rule));
  }
  return out;
}

}  // namespace qp
