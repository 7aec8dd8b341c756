// qverify --target: an engine's verdict, from headers alone.
#pragma once

#include <optional>
#include <string>

#include "cmd/tool/run_tool.h"
#include "formats/verify/target.h"
#include "lib/verify/report.h"

namespace qp {

class TargetCommand {
 public:
  void declare(CLI::App& app);
  bool given() const { return !engine_.empty(); }
  // --list-rules and --explain: print and be done.
  bool informs() const { return list_rules_ || !explain_.empty(); }
  int inform(Tool& tool) const;
  // Errors: usage.
  void check_arguments();
  // Adds the verdict to the report: findings, rules, the "target" object.
  void check(const std::string& path, VerifyReport& report);
  void print(Tool& tool) const;

 private:
  Json json() const;

  std::string engine_, memory_, explain_;
  bool list_rules_ = false;
  target::Options options_;
  const target::Engine* target_ = nullptr;
  std::optional<TargetCheck> done_;
};

}  // namespace qp
