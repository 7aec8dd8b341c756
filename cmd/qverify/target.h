// qverify --target: an engine's verdict, from headers alone.
#pragma once

#include <optional>
#include <string>

#include "cmd/tool/target_options.h"
#include "formats/verify/target.h"
#include "lib/verify/report.h"

namespace qp {

class TargetCommand {
 public:
  void declare(CLI::App& app);
  bool given() const { return target_.given(); }
  // --list-rules and --explain: print and be done.
  bool informs() const { return list_rules_ || !explain_.empty(); }
  int inform() const;
  // Errors: usage.
  void check_arguments();
  // Adds the verdict to the report: findings, rules, the "target" object.
  void check(const std::string& path, VerifyReport& report, Tool& tool);
  void print() const;

 private:
  Json json() const;

  TargetOptions target_;
  std::string memory_, explain_;
  bool list_rules_ = false;
  std::optional<TargetCheck> done_;
};

}  // namespace qp
