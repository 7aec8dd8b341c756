#include "cmd/qverify/target.h"

#include <algorithm>
#include <array>
#include <iostream>
#include <map>

#include "lib/base/error.h"
#include "lib/target/engine.h"

namespace qp {
namespace {

constexpr uint64_t kMaxRanks = 4096;

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

void print_rule(const target::Engine& engine, const target::Rule& rule) {
  std::cout << target::rule_id(engine, rule) << "\n  effect: " << target::name_of(rule.effect)
            << "\n  what:   " << rule.what << "\n  source: " << rule.source
            << "\n  do:     " << rule.hint << "\n";
  if (!rule.error.empty()) std::cout << "  error:  " << rule.error << "\n";
}

}  // namespace

void TargetCommand::declare(CLI::App& app) {
  auto group = "Target";
  app.add_option("--target", engine_,
                 "Tell what this engine does with the checkpoint, from headers alone: vllm, "
                 "sglang, transformers, llama.cpp")
      ->type_name("ENGINE[@VERSION]")
      ->group(group);
  app.add_option("--tp", options_.tp, "Tensor-parallel ranks")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--ep", options_.ep, "Expert-parallel ranks")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--pp", options_.pp, "Pipeline stages")
      ->type_name("N")
      ->capture_default_str()
      ->group(group);
  app.add_option("--hw", options_.hardware,
                 "Device: sm80, sm90, sm100, cdna3, cdna4, a2, a3, a5, xpu, gaudi, cpu")
      ->type_name("HW")
      ->group(group);
  app.add_option("--engine-args", options_.engine_args, "What else the engine is started with")
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
  if (!given()) {
    bool more = options_.tp != 1 || options_.ep != 1 || options_.pp != 1 ||
                !options_.hardware.empty() || !options_.engine_args.empty() || !memory_.empty();
    if (more)
      throw usage_error("--tp, --ep, --pp, --hw, --engine-args and --device-memory need --target");
    return;
  }
  target_ = &target::engine_from_name(engine_);
  for (uint64_t n : {options_.tp, options_.ep, options_.pp}) {
    if (n == 0 || n > kMaxRanks)
      throw usage_error("--tp, --ep and --pp are from 1 to " + std::to_string(kMaxRanks));
  }
  if (!memory_.empty()) options_.device_memory = parse_size(memory_, "--device-memory");
}

int TargetCommand::inform(Tool&) const {
  bool found = false;
  const target::Engine* only = given() ? &target::engine_from_name(engine_) : nullptr;
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

void TargetCommand::check(const std::string& path, VerifyReport& report) {
  done_ = check_target(path, *target_, options_);
  std::ranges::move(done_->stored, std::back_inserter(report.findings));
  for (const target::Finding& f : done_->result.findings) {
    std::string what =
        f.what + ": " + std::string(target::name_of(*target_)) + " " + std::string(f.rule->what);
    if (!f.error.empty()) what += " (\"" + f.error + "\")";
    report.findings.push_back(
        {severity_of(f.rule->effect), f.id, f.subject, std::move(what), hint_of(f)});
  }
  for (const target::Rule& r : target::rules_of(*target_)) {
    report.rules.emplace_back(target::rule_id(*target_, r), r.what);
  }
  report.target = json();
}

Json TargetCommand::json() const {
  const target::Result& r = done_->result;
  std::map<target::Verdict, size_t> counts;
  for (target::Verdict v : r.verdicts) ++counts[v];
  for (const target::Missing& m : r.missing) ++counts[m.verdict];
  Json out = {{"engine", target::name_of(*target_)},
              {"version", target::version_of(*target_)},
              {"asked", engine_},
              {"verdict", target::name_of(r.outcome)},
              {"launch", r.launch},
              {"rank_bytes", r.rank_bytes},
              {"tp", options_.tp},
              {"ep", options_.ep},
              {"pp", options_.pp}};
  out["counts"] = Json::object();
  for (const auto& [verdict, n] : counts) out["counts"][std::string(target::name_of(verdict))] = n;
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

void TargetCommand::print(Tool&) const {
  if (!done_) return;
  const target::Result& r = done_->result;
  std::map<target::Verdict, size_t> counts;
  for (target::Verdict v : r.verdicts) ++counts[v];
  for (const target::Missing& m : r.missing) ++counts[m.verdict];
  std::cout << target::name_of(*target_) << " (" << target::version_of(*target_)
            << "): " << target::name_of(r.outcome) << "\n";
  if (r.outcome == target::Outcome::refuses) {
    auto first = std::ranges::find_if(r.findings, [](const target::Finding& f) {
      return f.rule->effect == target::Effect::refuses;
    });
    if (first != r.findings.end() && !first->error.empty())
      std::cout << "  it prints: " << printable(first->error, 400) << "\n";
  }
  std::string line;
  for (const auto& [verdict, n] : counts) {
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
