// What `qquantize --list-schemes` and `--list-algorithms` print.
#include <iostream>

#include "cmd/qquantize/quantize.h"
#include "cmd/tool/table.h"
#include "lib/config/algorithms.h"

namespace qp {

// A row for every name that -s takes. Names of ggml's types are there as file types, which they
// mean to -s; a recipe can name all types.
void QuantizeCommand::list_schemes(Tool& tool) const {
  Json rows = Json::array();
  for (const Preset& p : presets()) {
    if (find_mix(p.name) != nullptr) continue;
    rows.push_back({{"name", p.name},
                    {"summary", p.summary},
                    {"aliases", p.aliases},
                    {"scheme", to_json(p.scheme)}});
    if (p.experts) rows.back()["experts"] = to_json(*p.experts);
  }
  for (const Mix& m : mixes()) {
    Json aliases = Json::array();
    if (!m.alias.empty()) aliases.push_back(m.alias);
    rows.push_back({{"name", m.name},
                    {"summary", "llama-quantize's file type: ggml's " + std::string(m.type) +
                                    ", by its rules others"},
                    {"aliases", aliases},
                    {"mix", m.name}});
  }
  if (tool.options.json) {
    std::cout << rows.dump(2) << "\n";
    return;
  }
  Table table({"scheme", "what it is", "also called"}, {false, false, false});
  for (const Json& row : rows) {
    std::string aliases, name = row["name"];
    for (const Json& a : row["aliases"])
      aliases += (aliases.empty() ? "" : " ") + a.get<std::string>();
    table.add({name, row["summary"], aliases});
    if (tool.options.quiet) std::cout << name << "\n";  // completions ask this way
  }
  if (!tool.options.quiet) table.print(std::cout);
}

void QuantizeCommand::list_algorithms(Tool& tool) const {
  Json out = Json::array();
  Table table({"algorithm", "runs the model", "what it does"}, {false, false, false});
  for (const Algorithm& a : algorithms()) {
    Json options = Json::array();
    table.add({std::string(a.name), a.runs_model ? "yes" : "no", std::string(a.summary)});
    for (const AlgorithmOption& o : a.options) {
      options.push_back({{"name", o.name}, {"summary", o.summary}});
      table.add({"  :" + std::string(o.name) + "=", "", "  " + std::string(o.summary)});
    }
    out.push_back({{"name", a.name},
                   {"summary", a.summary},
                   {"runs_model", a.runs_model},
                   {"edits", a.edits},
                   {"options", options}});
    if (tool.options.quiet && !tool.options.json) std::cout << a.name << "\n";
  }
  if (tool.options.json)
    std::cout << out.dump(2) << "\n";
  else if (!tool.options.quiet)
    table.print(std::cout);
}

}  // namespace qp
