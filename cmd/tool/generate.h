// Man pages and completions, made from the declared options so that they cannot drift.
#pragma once

#include <string>

#include "cmd/tool/run_tool.h"

namespace qp {

// Prints the text of `kind` (man, bash, zsh, fish) to standard output. Returns the exit status.
int generate_text(const std::string& kind, const ToolInfo& info, const CLI::App& app);

}  // namespace qp
