// `qquantize --target-bpw` and `--target-size`: which scheme each tensor gets is measured.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cmd/tool/run_tool.h"
#include "lib/allocate/allocate.h"
#include "lib/config/presets.h"

namespace qp {

class AutoCommand {
 public:
  void declare(CLI::App& app);
  bool asked() const { return target_bpw_ > 0 || !target_size_.empty(); }

  // What can be said before the input is opened. Errors: usage.
  void check(const std::vector<std::string>& schemes, const SchemeOverrides& overrides,
             const std::string& algorithm);
  // The recipe: `first`, then what was chosen. Writes --save-recipe.
  Recipe choose(const Store& store, const Recipe& first, gemm::Precision precision, Tool& tool);
  // For --dry-run: a line per group, the trials, totals.
  void print() const;
  Json to_json() const;

 private:
  double target_bpw_ = 0;
  std::string target_size_, sensitivity_ = "second_order", save_recipe_;
  AllocationTarget target_;
  std::vector<CandidateRule> rules_;
  std::optional<Allocation> allocation_;
};

}  // namespace qp
