#include "lib/verify/eval_bounds.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "lib/base/error.h"
#include "lib/verify/text.h"

namespace qp {
namespace {

Json estimate_json(const Estimate& e) { return {{"value", finite(e.value)}, {"error", finite(e.error)}}; }

Json perplexity_json(const Perplexity& p) {
  return {{"value", finite(p.ppl.value)}, {"error", finite(p.ppl.error)}, {"nll", finite(p.nll.value)},
          {"nll_error", finite(p.nll.error)}, {"tokens", p.tokens}};
}

Json divergence_json(const Divergence& d) {
  Json kl = {{"mean", finite(d.kl.value)}, {"error", finite(d.kl.error)}, {"median", finite(d.kl_median)}};
  for (size_t i = 0; i < d.kPercents.size(); ++i) {
    kl["p" + number(d.kPercents[i])] = finite(d.kl_percentiles[i]);
  }
  kl["max"] = finite(d.kl_max);
  return {{"kl", std::move(kl)}, {"top1", estimate_json(d.top1)}, {"ppl_ratio", estimate_json(d.ratio)},
          {"ln_ppl_ratio", estimate_json(d.log_ratio)}, {"correlation", finite(d.correlation)},
          {"rms_dp", estimate_json(d.rms_dp)}, {"mean_dp", finite(d.mean_dp)}};
}

Json items_json(const std::vector<ChoiceScore>& items) {
  Json out = Json::array();
  for (const ChoiceScore& s : items) {
    out.push_back({{"log_likelihood", s.log_likelihood}, {"bytes", s.bytes}, {"answer", s.answer},
                   {"picked", s.picked}, {"picked_norm", s.picked_norm}});
  }
  return out;
}

Json choices_json(const Choices& c) {
  Json out = {{"file", c.file}, {"acc", estimate_json(c.accuracy)}, {"acc_norm", estimate_json(c.accuracy_norm)}};
  if (c.base_accuracy) {
    out["base_acc"] = estimate_json(*c.base_accuracy);
    out["base_acc_norm"] = estimate_json(*c.base_accuracy_norm);
  }
  out["items"] = items_json(c.items);
  if (!c.base_items.empty()) out["base_items"] = items_json(c.base_items);
  return out;
}

const Json* member(const Json& j, std::initializer_list<const char*> keys) {
  const Json* at = &j;
  for (const char* key : keys) {
    if (!at->is_object()) return nullptr;
    auto it = at->find(key);
    if (it == at->end()) return nullptr;
    at = &*it;
  }
  return at;
}

}  // namespace

std::string estimate_text(const Estimate& e) {
  int digits = 4;
  if (e.error > 0 && std::isfinite(e.error)) {
    digits = std::clamp(1 - static_cast<int>(std::floor(std::log10(e.error))), 2, 8);
  }
  char text[80];
  std::snprintf(text, sizeof text, "%.*f +- %.*f", digits, e.value, digits, e.error);
  return text;
}

std::vector<Finding> check_eval(const EvalBounds& b, const EvalResult& r) {
  std::vector<Finding> out;
  if (!r.divergence) return out;
  auto fail = [&](const char* rule, std::string what) {
    out.push_back({Severity::error, rule, "", std::move(what), "use a finer scheme, or calibrate"});
  };
  // Written so that NaN fails.
  const Divergence& d = *r.divergence;
  if (b.max_kl && !(d.kl.value <= *b.max_kl)) {
    fail("max-kl", "mean KL divergence is " + number(d.kl.value) + " (expected at most " + number(*b.max_kl) + ")");
  }
  double increase = 100 * (d.ratio.value - 1);
  if (b.max_ppl_increase && !(increase <= *b.max_ppl_increase)) {
    fail("max-ppl-increase", "perplexity is " + number(increase) + " % above the base's (expected at most " +
                                 number(*b.max_ppl_increase) + " %)");
  }
  if (b.min_top1 && !(d.top1.value >= *b.min_top1)) {
    fail("min-top1", "the first choice is the base's for " + number(100 * d.top1.value) +
                         " % of the tokens (expected at least " + number(100 * *b.min_top1) + " %)");
  }
  return out;
}

Json eval_json(const EvalResult& r) {
  Json out = Json::object();
  out["compute"] = r.compute;
  Json activations = Json::array();
  for (const auto& [what, linears] : r.activations) activations.push_back({{"scheme", what}, {"linears", linears}});
  out["activations"] = std::move(activations);
  if (!r.not_simulated.empty()) out["activations_not_simulated"] = r.not_simulated;
  if (r.perplexity) {
    out["text"] = r.text;
    out["tokens_hash"] = r.tokens_hash;
    out["definition"] = r.definition;
    out["seqlen"] = r.seqlen;
    out["stride"] = r.stride;
    out["windows"] = r.windows;
    out["left_out"] = r.left_out;
    out["perplexity"] = perplexity_json(*r.perplexity);
  }
  if (r.base_perplexity) out["base_perplexity"] = perplexity_json(*r.base_perplexity);
  if (r.divergence) {
    out["divergence"] = divergence_json(*r.divergence);
    out["layers"] = Json::array();
    for (const LayerError& l : r.layers) {
      out["layers"].push_back({{"mse", finite(l.mse)}, {"relative", finite(l.relative)}, {"cosine", finite(l.cosine)}});
    }
    out["kl_by_position"] = r.kl_by_position;
    out["kl_histogram"] = r.kl_histogram;
  }
  if (r.choices) out["choices"] = choices_json(*r.choices);
  return out;
}

std::vector<Finding> compare_with_baseline(const Json& report, const std::string& path, const EvalResult& r,
                                           double percent) {
  const Json* old = member(report, {"evaluation"});
  const Json* ppl = old == nullptr ? nullptr : member(*old, {"perplexity", "value"});
  if (ppl == nullptr || !ppl->is_number()) {
    throw input_error("is no qverify report with a perplexity").file(path).hint("make it with --eval TEXT --report FILE.json");
  }
  if (json_string(*old, "tokens_hash", "") != r.tokens_hash || json_string(*old, "definition", "") != r.definition) {
    throw usage_error("--baseline '" + printable(path) + "' was measured on other tokens or by another definition")
        .hint("use the same text, tokenizer, --seqlen, --stride, -n and --ppl");
  }
  std::vector<Finding> out;
  auto compare = [&](const char* rule, const char* name, double before, double now) {
    if (now <= before * (1 + percent / 100)) return;
    out.push_back({Severity::error, rule, "", std::string(name) + " is " + number(now) + ", " + number(before) +
                   " in the baseline (" + number(percent) + " % more are allowed)", "see what changed since " + printable(path)});
  };
  compare("baseline-ppl", "perplexity", ppl->get<double>(), r.perplexity->ppl.value);
  const Json* kl = member(*old, {"divergence", "kl", "mean"});
  if (kl != nullptr && kl->is_number() && r.divergence) {
    compare("baseline-kl", "mean KL divergence", kl->get<double>(), r.divergence->kl.value);
  }
  return out;
}

std::vector<std::pair<std::string, std::vector<std::string>>> eval_cases(const EvalResult& r) {
  std::vector<std::pair<std::string, std::vector<std::string>>> out;
  if (r.perplexity) out.push_back({"perplexity", {"max-ppl-increase", "baseline-ppl"}});
  if (r.divergence) {
    out.push_back({"kl-divergence", {"max-kl", "baseline-kl"}});
    out.push_back({"top1", {"min-top1"}});
  }
  if (r.choices) out.push_back({"choices", {}});
  return out;
}

}  // namespace qp
