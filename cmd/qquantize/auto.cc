#include "cmd/qquantize/auto.h"

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <iostream>

#include "cmd/tool/table.h"
#include "lib/config/algorithms.h"

namespace qp {
namespace {

std::string number(const char* format, double x) {
  char text[48];
  std::snprintf(text, sizeof text, format, x);
  return text;
}

// What a recipe says of one scheme of -s.
Json rule_of(const std::string& name, const SchemeOverrides& o, const std::string& algorithm) {
  if (name == "none") return {{"scheme", nullptr}, {"algorithm", algorithm}};
  Json rule = {{"scheme", name}, {"algorithm", algorithm}}, options = Json::object();
  if (o.num_bits != 0) options["num_bits"] = o.num_bits;
  if (!o.group_size.empty()) options["group_size"] = o.group_size;
  if (!o.symmetric.empty()) options["symmetric"] = o.symmetric == "true";
  if (!o.numerics.empty()) options["numerics"] = o.numerics;
  if (!options.empty()) rule["options"] = options;
  return rule;
}

}  // namespace

void AutoCommand::declare(CLI::App& app) {
  auto group = "Bit allocation";
  auto bpw = app.add_option("--target-bpw", target_bpw_,
                            "Choose one of the schemes of -s (none: unquantized) for each group of "
                            "tensors so that the model suffers least: all that the output stores "
                            "of the weights that they apply to (codes, scales, zero points), over "
                            "the number of these weights, is at most N bits")
                 ->type_name("N")
                 ->check(CLI::PositiveNumber)
                 ->group(group);
  app.add_option(
         "--target-size", target_size_,
         "The same, so that all tensors of the output take at most SIZE bytes (6GB, 500MiB)")
      ->type_name("SIZE")
      ->excludes(bpw)
      ->group(group);
  app.add_option("--sensitivity", sensitivity_,
                 "How it is measured what quantizing a tensor does: second_order (one pass forward "
                 "and back) or kl (each tensor and scheme in turn: for small models)")
      ->type_name("KIND")
      ->check(CLI::IsMember({"second_order", "kl"}))
      ->capture_default_str()
      ->group(group);
  app.add_option("--save-recipe", save_recipe_,
                 "Write what was chosen as a recipe, to be read, edited and given to --recipe")
      ->type_name("FILE")
      ->group(group);
}

void AutoCommand::check(const std::vector<std::string>& schemes, const SchemeOverrides& overrides,
                        const std::string& algorithm) {
  if (!asked()) {
    if (!save_recipe_.empty())
      throw usage_error("--save-recipe writes what --target-bpw or --target-size choose")
          .hint("give one of them");
    return;
  }
  target_.bpw = target_bpw_;
  if (!target_size_.empty()) target_.size = parse_size(target_size_, "--target-size");
  if (!target_size_.empty() && target_.size == 0) throw usage_error("--target-size is 0");
  parse_algorithm(algorithm);
  for (const std::string& name : schemes) {
    if (name != "none") compose_scheme(name, overrides);  // refuses what is unknown
    for (const CandidateRule& r : rules_) {
      if (r.name == name) throw usage_error("-s names " + printable(name) + " twice");
    }
    rules_.push_back({name, rule_of(name, overrides, algorithm)});
  }
  if (rules_.size() < 2) {
    throw usage_error("a target needs schemes to choose from")
        .hint("give -s two or more, as in -s w3a16,w4a16,w8a16");
  }
}

Recipe AutoCommand::choose(const Store& store, const Recipe& first, gemm::Precision precision,
                           Tool& tool) {
  AllocationOptions o;
  o.sensitivity = sensitivity_ == "kl" ? SensitivityKind::measured : SensitivityKind::second_order;
  o.precision = precision;
  o.memory = tool.max_memory();
  o.warn = [&](const std::string& text) { tool.warn(text); };
  allocation_ = allocate(store, first, rules_, target_, o, tool.progress());
  const Allocation& a = *allocation_;
  tool.say("chosen: " + number("%.4f", a.bpw()) + " bits per weight over " +
           std::to_string(a.groups.groups.size()) + " groups, " +
           human_bytes(static_cast<double>(a.bytes + a.groups.fixed_bytes)) +
           " in all; divergence " + number("%.4g", a.trials[a.chosen].divergence) +
           " nats a token (" + a.trials[a.chosen].name + ")");
  auto most = std::ranges::max_element(a.trials, {}, &Trial::bytes)->bytes;
  if (static_cast<double>(most) < 0.995 * static_cast<double>(a.budget)) {
    tool.say("nothing that was tried comes nearer to the target; more schemes in -s may");
  }
  if (!save_recipe_.empty()) {
    std::ofstream out(save_recipe_);
    out << a.recipe.dump(2) << "\n";
    out.close();
    if (!out) throw system_error("cannot write", errno).file(save_recipe_);
  }
  return recipe_from_json(a.recipe);
}

void AutoCommand::print() const {
  const Allocation& a = *allocation_;
  std::vector<std::string> header = {"group", "tensors", "weights", "scheme", "bits"};
  std::vector<bool> right = {false, true, true, false, true};
  for (const Candidate& c : a.candidates) {
    header.push_back(c.name);
    right.push_back(true);
  }
  Table table(header, right);
  for (size_t g = 0; g < a.groups.groups.size(); ++g) {
    const SchemeGroup& group = a.groups.groups[g];
    size_t j = a.option()[g];
    double bits = 8.0 * static_cast<double>(group.bytes[j]) / static_cast<double>(group.params);
    std::vector<std::string> row = {printable(group.name), std::to_string(group.tensors.size()),
                                    std::to_string(group.params), a.candidates[j].name,
                                    number("%.3f", bits)};
    for (double cost : a.costs[g]) row.push_back(number("%.3g", cost));
    table.add(row);
  }
  table.print(std::cout);
  std::cout << "(below a scheme: nats a token of divergence when the group alone gets it)\n";
  Table trials({"tried on the model", "bits", "sum", "measured", ""},
               {false, true, true, true, false});
  for (size_t i = 0; i < a.trials.size(); ++i) {
    const Trial& t = a.trials[i];
    trials.add(
        {t.name,
         number("%.4f", 8.0 * static_cast<double>(t.bytes) / static_cast<double>(a.groups.params)),
         number("%.4g", t.predicted), number("%.4g", t.divergence), i == a.chosen ? "chosen" : ""});
  }
  trials.print(std::cout);
  std::cout << number("%.4f", a.bpw()) << " bits per weight; " << a.bytes << " bytes of "
            << a.budget << " allowed, " << a.bytes + a.groups.fixed_bytes << " in all\n";
}

Json AutoCommand::to_json() const {
  const Allocation& a = *allocation_;
  Json out = {{"bpw", a.bpw()},
              {"bytes", a.bytes},
              {"budget_bytes", a.budget},
              {"total_bytes", a.bytes + a.groups.fixed_bytes},
              {"weights", a.groups.params},
              {"groups", Json::array()},
              {"trials", Json::array()}};
  for (size_t g = 0; g < a.groups.groups.size(); ++g) {
    const SchemeGroup& group = a.groups.groups[g];
    Json sensitivity = Json::object();
    for (size_t j = 0; j < a.candidates.size(); ++j)
      sensitivity[a.candidates[j].name] = a.costs[g][j];
    out["groups"].push_back({{"name", group.name},
                             {"modules", group.modules},
                             {"weights", group.params},
                             {"scheme", a.candidates[a.option()[g]].name},
                             {"bytes", group.bytes[a.option()[g]]},
                             {"sensitivity", sensitivity}});
  }
  for (size_t i = 0; i < a.trials.size(); ++i) {
    out["trials"].push_back({{"name", a.trials[i].name},
                             {"bytes", a.trials[i].bytes},
                             {"sum", a.trials[i].predicted},
                             {"kl", a.trials[i].divergence},
                             {"chosen", i == a.chosen}});
  }
  return out;
}

}  // namespace qp
