// The work of qquantize.
#pragma once

#include <string>
#include <vector>

#include "cmd/qquantize/auto.h"
#include "cmd/tool/output_options.h"
#include "cmd/tool/run_tool.h"
#include "lib/config/presets.h"
#include "lib/plan/plan.h"

namespace qp {

class Store;

class QuantizeCommand {
 public:
  void declare(CLI::App& app);
  int run(Tool& tool);

 private:
  Recipe recipe() const;
  void check_new() const;
  void list_schemes(Tool& tool) const;
  void list_algorithms(Tool& tool) const;
  void print_plan(const Store& store, const Plan& plan, Tool& tool) const;
  void explain(const Store& store, const Plan& plan) const;
  void check_memory(const Plan& plan, Tool& tool) const;

  std::string input_, scheme_, algorithm_ = "rtn", recipe_, explain_, log_, compute_ = "bf16";
  SchemeOverrides overrides_;
  std::string kv_cache_;
  std::vector<std::string> ignore_;
  bool dry_run_ = false, list_schemes_ = false, list_algorithms_ = false, refer_ = false, resume_ = false, no_check_ = false;
  OutputArguments output_;
  AutoCommand auto_;
};

}  // namespace qp
