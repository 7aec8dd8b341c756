#include "cmd/qverify/target.h"

#include <algorithm>
#include <array>
#include <iostream>
#include <map>

#include "lib/base/error.h"
#include "lib/target/engine.h"

namespace qp {
namespace {

Severity severity_of(target::Effect effect) {
  switch (effect) {
    case target::Effect::refuses:
    case target::Effect::lies: return Severity::error;
    case target::Effect::warns: return Severity::warning;
    case target::Effect::notes: break;
  }
  return Severity::note;
}

std::string hint_of(const target::Finding& f) {
  std::string out(f.rule->hint);
  return out + (out.empty() ? "" : " ") + "[" + std::string(f.rule->source) + "]";
}

std::map<target::Verdict, size_t> counts_of(const target::Result& r) {
  std::map<target::Verdict, size_t> counts;
  for (target::Verdict v : r.verdicts) ++counts[v];
  for (const target::Missing& m : r.missing) ++counts[m.verdict];
  return counts;
}

void print_rule(const target::Engine& engine, const target::Rule& rule) {
  std::cout << target::rule_id(engine, rule) << "\n  effect: " << target::name_of(rule.effect)
            << "\n  what:   " << rule.what << "\n  source: " << rule.source
            << "\n  do:     " << rule.hint << "\n";
  if (!rule.error.empty()) std::cout << "  error:  " << rule.error << "\n";
}

}  // namespace

void TargetCommand::declare(CLI::App& app) {
  auto group = "Target";
  target_.declare(app, "Tell what this engine does with the checkpoint, from headers alone");
  app.add_option("--engine-args", target_.options.engine_args, "What else the engine is started with")
      ->type_name("ARGS")
      ->group(group);
  app.add_option("--device-memory", memory_,
                 "Memory of a device: fail when a rank's weights do not fit")
      ->type_name("SIZE")
      ->group(group);
  app.add_flag("--list-rules", list_rules_, "List the rules of all engines, or of --target's")
      ->group(group);
  app.add_option("--explain", explain_, "Say what a rule is and where it was read")
      ->type_name("RULE")
      ->group(group);
}

void TargetCommand::check_arguments() {
  target::Options& options = target_.options;
  target_.check(!options.engine_args.empty() || !memory_.empty(), ", --engine-args, --device-memory");
  if (!memory_.empty()) options.device_memory = parse_size(memory_, "--device-memory");
}

int TargetCommand::inform() const {
  bool found = false;
  const target::Engine* only = given() ? &target::engine_from_name(target_.asked) : nullptr;
  for (const target::Engine* e : target::engines()) {
    if (only != nullptr && e != only) continue;
    for (const target::Rule& r : target::rules_of(*e)) {
      if (list_rules_)
        std::cout << target::rule_id(*e, r) << "\t" << target::name_of(r.effect) << "\t" << r.what
                  << "\n";
      bool asked = target::rule_id(*e, r) == explain_ || r.topic == explain_;
      if (!list_rules_ && asked) print_rule(*e, r);
      found |= asked;
    }
  }
  if (list_rules_ || found) return 0;
  throw usage_error("--explain '" + printable(explain_) + "' is no rule")
      .hint("qverify --list-rules names them");
}

void TargetCommand::check(const std::string& path, VerifyReport& report, Tool& tool) {
  target_.warn_of_version(tool);
  done_ = check_target(path, *target_.engine, target_.options);
  std::ranges::move(done_->stored, std::back_inserter(report.findings));
  for (const target::Finding& f : done_->result.findings) {
    std::string what =
        f.what + ": " + std::string(target::name_of(*target_.engine)) + " " + std::string(f.rule->what);
    if (!f.error.empty()) what += " (\"" + f.error + "\")";
    report.findings.push_back(
        {severity_of(f.rule->effect), f.id, f.subject, std::move(what), hint_of(f)});
  }
  for (const target::Rule& r : target::rules_of(*target_.engine)) {
    report.rules.emplace_back(target::rule_id(*target_.engine, r), r.what);
  }
  report.target = json();
}

Json TargetCommand::json() const {
  const target::Result& r = done_->result;
  Json out = {{"engine", target::name_of(*target_.engine)},
              {"version", target::version_of(*target_.engine)},
              {"asked", target_.asked},
              {"verdict", target::name_of(r.outcome)},
              {"launch", r.launch},
              {"rank_bytes", r.rank_bytes},
              {"tp", target_.options.tp},
              {"ep", target_.options.ep},
              {"pp", target_.options.pp}};
  out["counts"] = Json::object();
  for (const auto& [verdict, n] : counts_of(r)) out["counts"][std::string(target::name_of(verdict))] = n;
  out["findings"] = Json::array();
  for (const target::Finding& f : r.findings) {
    out["findings"].push_back({{"rule", f.id},
                               {"effect", target::name_of(f.rule->effect)},
                               {"tensor", f.subject},
                               {"what", f.what},
                               {"error", f.error},
                               {"source", f.rule->source},
                               {"hint", f.rule->hint}});
  }
  out["tensors"] = Json::array();
  for (size_t i = 0; i < r.verdicts.size(); ++i) {
    out["tensors"].push_back(
        {{"name", done_->tensors[i].name}, {"verdict", target::name_of(r.verdicts[i])}});
  }
  for (const target::Missing& m : r.missing)
    out["tensors"].push_back({{"name", m.name}, {"verdict", target::name_of(m.verdict)}});
  return out;
}

void TargetCommand::print() const {
  if (!done_) return;
  const target::Result& r = done_->result;
  std::cout << target::name_of(*target_.engine) << " (" << target::version_of(*target_.engine)
            << "): " << target::name_of(r.outcome) << "\n";
  if (r.outcome == target::Outcome::refuses) {
    auto first = std::ranges::find_if(r.findings, [](const target::Finding& f) {
      return f.rule->effect == target::Effect::refuses;
    });
    if (first != r.findings.end() && !first->error.empty())
      std::cout << "  it prints: " << printable(first->error, 400) << "\n";
  }
  std::string line;
  for (const auto& [verdict, n] : counts_of(r)) {
    line += (line.empty() ? "" : "; ") + std::to_string(n) + " " +
            std::string(target::name_of(verdict));
  }
  if (!line.empty()) std::cout << "  tensors: " << line << "\n";
  if (r.rank_bytes > 0)
    std::cout << "  weights: " << human_bytes(static_cast<double>(r.rank_bytes))
              << " on the fullest rank\n";
  std::cout << "  launch:  " << printable(r.launch, 2000) << "\n";
}

}  // namespace qp
