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
  bool any() const;  // of the options beside --target
  // Finds the engine. Errors: usage.
  void check();
  // Warns when a version is asked for that the rules were not read from.
  void warn_of_version(Tool& tool) const;
};

}  // namespace qp
