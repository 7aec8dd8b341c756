// The work of qquantize.
#pragma once

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "cmd/qquantize/auto.h"
#include "cmd/qquantize/target.h"
#include "cmd/tool/output_options.h"
#include "cmd/tool/run_tool.h"
#include "lib/algorithm/quantize.h"
#include "lib/config/presets.h"
#include "lib/plan/plan.h"

namespace qp {

class Store;

class QuantizeCommand {
 public:
  void declare(CLI::App& app);
  int run(Tool& tool);

 private:
  // One of the results that are asked for.
  struct Result {
    std::string scheme, path;  // -s; -o with it
    Recipe rules;
    Plan plan;
  };
  using Outputs = std::vector<std::unique_ptr<QmapOutput>>;
  using JsonLog = std::function<void(const Json&)>;

  std::vector<std::string> scheme_names() const;
  std::vector<Result> results() const;
  Recipe recipe(const std::string& scheme) const;
  Rule rule_of_options(const std::string& scheme) const;
  bool looking() const { return dry_run_ || !explain_.empty(); }
  gemm::Precision precision() const;
  void warn(const std::string& text, Tool& tool);
  void make_plan_of(const Store& given, Result& r, Tool& tool);
  void check(const Store& store, const Plan& plan) const;
  void check_space(const std::vector<Result>& wanted, const Outputs& outputs) const;
  std::unique_ptr<Store> edit(const Store& given, Result& r, QmapOutput& out, const JsonLog& log,
                              QuantizeOptions& q, Tool& tool) const;
  QuantizeOptions options_of(const Store& given, const Result& r, const QmapOutput& out,
                             Tool& tool);
  void write(const Store& given, std::vector<Result>& wanted, const Outputs& outputs, Tool& tool);
  void commit(const std::vector<Result>& wanted, const Outputs& outputs,
              const std::vector<QuantizeResult>& done, Tool& tool) const;
  void list_schemes(Tool& tool) const;
  void list_algorithms(Tool& tool) const;
  void print_heading(const Result& r, const std::vector<Result>& wanted) const;
  void print_plans(const Store& store, const std::vector<Result>& wanted, Tool& tool) const;
  void print_plan(const Plan& plan) const;
  void explain(const Store& store, const Plan& plan) const;
  void check_memory(const std::vector<Result>& wanted, Tool& tool) const;

  std::vector<std::string> schemes_;
  std::set<std::string> warned_;
  std::string input_, algorithm_ = "rtn", recipe_, explain_, log_, compute_ = "bf16";
  SchemeOverrides overrides_;
  std::string output_type_, embedding_type_;
  bool pure_ = false;
  std::string kv_cache_;
  std::vector<std::string> ignore_;
  bool dry_run_ = false, list_schemes_ = false, list_algorithms_ = false, refer_ = false,
       resume_ = false, no_check_ = false;
  OutputArguments output_;
  AutoCommand auto_;
  PlanTarget target_;
};

}  // namespace qp
