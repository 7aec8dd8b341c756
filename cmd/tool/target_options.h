// --target and what goes with it, of programs that ask what an engine does with a checkpoint.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cmd/tool/run_tool.h"
#include "lib/target/target.h"

namespace qp {

struct TargetOptions {
  std::string asked;  // "vllm", "sglang@0.5"
  target::Options options;
  const target::Engine* engine = nullptr;  // after check()

  // `what` is the help of --target.
  void declare(CLI::App& app, const std::string& what);
  bool given() const { return !asked.empty(); }
  // Finds the engine, if one is named. `more`: there are other options that need one, `others`
  // calls them. Errors: usage.
  void check(bool more = false, const std::string& others = "");
  // Warns when a version is asked for that the rules were not read from.
  void warn_of_version(Tool& tool) const;
};

}  // namespace qp
