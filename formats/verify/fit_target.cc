#include "formats/verify/fit_target.h"

#include <algorithm>
#include <array>
#include <optional>

#include "formats/hf/folders.h"
#include "formats/verify/target.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/inner_size.h"
#include "lib/model/modules.h"

namespace qp {
namespace {

constexpr std::array<uint64_t, 3> kGroups = {128, 64, 32};  // those that kernels have
// Sizes of MLPs become multiples of ranks times one of these.
constexpr std::array<uint64_t, 5> kUnits = {32, 64, 128, 256, 512};
constexpr uint64_t kLeftOutOf = 4;  // at most one in so many quantized weights is left out

bool objects(const target::Finding& f) {
  return f.rule->effect == target::Effect::refuses || f.rule->effect == target::Effect::lies;
}

std::string module_of(const Tensor& t) {
  return t.name.ends_with(".weight") ? t.name.substr(0, t.name.size() - 7) : t.name;
}

std::string listed(const std::set<std::string>& names) {
  std::string text;
  size_t n = 0;
  for (const std::string& name : names) {
    if (++n == 4) return text + " and " + std::to_string(names.size() - 3) + " more";
    text += (text.empty() ? "" : ", ") + printable(name);
  }
  return text;
}

struct Trial {
  FittedPlan fitted;
  target::Result result;

  bool loads() const { return result.outcome == target::Outcome::loads; }
};

class Fitter {
 public:
  Fitter(const Store& store, const Format& format, const ExportOptions& options,
         const target::Engine& engine, const target::Options& ranks)
      : store_(store), format_(format), options_(options), engine_(engine), ranks_(ranks) {}

  FittedPlan run(const Changes& asked) {
    Trial first = {plan_fitted(store_, format_, options_, asked), {}};
    if (first.fitted.plan.write != nullptr) return std::move(first.fitted);
    if (target::name_of(engine_) == "llama.cpp")
      throw limit_error("llama.cpp loads no directories").hint("use -f gguf");
    first.result = check(first.fitted);
    if (first.loads()) return std::move(first.fitted);
    Changes base = asked;
    const target::Result* now = &first.result;
    std::optional<Trial> less;
    if (Changes more = base; leave_out(first.result, false, more)) {
      less = attempt(more);
      if (less && less->loads()) return std::move(less->fitted);
      if (less) {
        now = &less->result;
        base = std::move(more);
      }
    }
    bool others = std::ranges::any_of(
        now->findings, [](const target::Finding& f) { return objects(f) && !f.of_division; });
    if (others) refuse(first.result);  // which no other size mends
    if (auto found = resize(base, *now)) return std::move(*found);
    for (Changes rest = base; leave_out(*now, true, rest);) {
      less = attempt(rest);
      if (!less) break;
      if (less->loads()) return std::move(less->fitted);
      now = &less->result;
    }
    refuse(first.result);
  }

 private:
  target::Result check(const FittedPlan& fitted) const {
    const Store* bytes = fitted.store ? fitted.store.get() : &store_;
    return check_target(fitted.plan, bytes, engine_, ranks_).result;
  }

  std::optional<Trial> attempt(const Changes& fit) const {
    try {
      Trial t = {plan_fitted(store_, format_, options_, fit), {}};
      t.result = check(t.fitted);
      return t;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::limit && e.kind() != ErrorKind::usage) throw;
      return std::nullopt;  // no such group, no such padding
    }
  }

  // Scales repeated to the largest groups that pass; if none do, MLPs padded as little as passes.
  std::optional<FittedPlan> resize(const Changes& base, const target::Result& result) const {
    std::vector<std::map<std::string, uint64_t>> sizes = {base.sizes};
    std::set<std::string> keys = padded_keys(result);
    const Json& config = decoder_config(store_.model().config);
    for (uint64_t unit : kUnits) {
      std::map<std::string, uint64_t> larger;
      bool much = false;
      for (const std::string& key : keys) {
        uint64_t size = config.at(key).get<uint64_t>(), step = unit * ranks_.tp;
        larger[key] = ceil_div(size, step) * step;
        much = much || larger[key] > size + size / 2;  // it is not worth its weight then
      }
      if (!much && !larger.empty() && larger != sizes.back()) sizes.push_back(std::move(larger));
    }
    for (const auto& larger : sizes) {
      Changes fit = base;
      fit.sizes = larger;
      std::vector<uint64_t> groups = {base.group_size};
      if (base.group_size == 0 && format_.groups)
        groups.insert(groups.end(), kGroups.begin(), kGroups.end());
      for (uint64_t size : groups) {
        fit.group_size = size;
        if (auto t = attempt(fit); t && t->loads()) return std::move(t->fitted);
      }
    }
    return std::nullopt;
  }

  // Keys of config.json whose MLPs the engine cannot divide.
  std::set<std::string> padded_keys(const target::Result& result) const {
    std::set<std::string> keys;
    const Model& m = store_.model();
    auto index = m.index();
    for (const target::Finding& f : result.findings) {
      if (!objects(f) || !f.of_division) continue;
      auto t = index.find(f.subject + ".weight");
      auto inner =
          t == index.end() ? std::nullopt : inner_size(t->first, t->second->shape, m.config);
      if (inner) keys.insert(inner->key);
    }
    return keys;
  }

  // Adds the modules that objections name, with those that engines want alike. False: none, or too
  // much of the model.
  bool leave_out(const target::Result& result, bool division, Changes& fit) const {
    std::set<std::string> named;
    for (const target::Finding& f : result.findings) {
      if (!objects(f) || f.of_division != division) continue;
      std::string_view subject = f.subject;
      named.emplace(subject);
      named.emplace(subject.substr(0, subject.rfind('.')));
    }
    const Model& m = store_.model();
    std::set<std::string> agree, added;
    uint64_t all = 0, out = 0;
    for (int pass = 0; pass < 2; ++pass) {  // those named, then those that go with them
      for (const Tensor& t : m.tensors) {
        if (!t.quantized()) continue;
        ModuleInfo info = classify(t.name, t.dtype, t.shape, m.config);
        std::string module = module_of(t);
        bool hit = named.contains(module) || (!info.whole.empty() && named.contains(info.whole)) ||
                   agree.contains(info.agree);
        if (hit && !info.agree.empty()) agree.insert(info.agree);
        if (pass == 0) continue;
        uint64_t n = t.shape.elements().value_or(0);
        all += n;
        if (!hit && !fit.left_out.contains(module)) continue;
        out += n;
        if (hit && fit.left_out.insert(module).second) added.insert(module);
      }
    }
    return !added.empty() && out <= all / kLeftOutOf;
  }

  [[noreturn]] void refuse(const target::Result& result) const {
    auto objection = std::ranges::find_if(result.findings, objects);
    std::string what = std::string(target::name_of(engine_)) + " " +
                       std::string(target::name_of(result.outcome)) + ": ";
    bool known = objection != result.findings.end();
    Error error = limit_error(
        what + (known ? objection->what + " [" + objection->id + "]" : "see qverify --target"));
    if (known && !objection->subject.empty()) error.tensor(objection->subject);
    throw std::move(error).hint(known ? std::string(objection->rule->hint) : "");
  }

  const Store& store_;
  const Format& format_;
  const ExportOptions& options_;
  const target::Engine& engine_;
  const target::Options& ranks_;
};

}  // namespace

FittedPlan plan_fitted(const Store& store, const Format& format, const ExportOptions& options,
                       const Changes& asked) {
  FittedPlan out;
  if (asked.empty()) {
    out.plan = plan_export(format, store, options);
    return out;
  }
  std::vector<LedgerEntry> ledger;
  out.store = fitted(store, asked, ledger);
  if (!out.store) throw limit_error("an MLP cannot be padded").file(store.label());
  out.plan = plan_export(format, *out.store, options);
  std::map<std::string_view, const LedgerEntry*> done;
  for (const LedgerEntry& e : ledger) done.emplace(e.source, &e);
  for (LedgerEntry& e : out.plan.ledger) {
    auto it = done.find(e.source);
    if (it == done.end()) continue;
    e.fate = it->second->fate;
    e.detail = it->second->detail + "; " + e.detail;
  }
  if (!asked.left_out.empty())
    out.changes.push_back("left out, so unquantized: " + listed(asked.left_out));
  for (const auto& [key, size] : asked.sizes)
    out.changes.push_back("MLPs are padded with zeros, exact: " + key + " is " +
                          std::to_string(size));
  if (asked.group_size != 0)
    out.changes.push_back("scales are repeated to groups of " + std::to_string(asked.group_size) +
                          ", exact");
  return out;
}

FittedPlan plan_fitted(const Store& store, const Format& format, const ExportOptions& options,
                       const Changes& asked, const target::Engine& engine,
                       const target::Options& ranks) {
  return Fitter(store, format, options, engine, ranks).run(asked);
}

}  // namespace qp
