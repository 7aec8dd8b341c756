// Options of programs that read text: where it comes from and how it is cut into token windows.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cmd/tool/run_tool.h"
#include "lib/arch/arch.h"
#include "lib/qmap/store.h"
#include "lib/stream/stream.h"

namespace qp {

struct TextArguments {
  std::vector<std::string> text;
  std::string tokens, field;
  size_t n = 0, seqlen = 0;  // seqlen 0: 2048, or the model's context where that is shorter
  std::optional<uint64_t> seed;
  bool per_document = false;

  void declare(CLI::App& app, size_t default_n);
  bool any() const { return !text.empty() || !tokens.empty(); }
  bool from_stdin() const;
  // Token windows for a model. Errors: usage (no tokenizer, a window longer than the context),
  // input (text that is empty or too short).
  Windows windows(const Store& store, const arch::Architecture& model, Tool& tool) const;
  Json described() const;  // what the numbers depend on, for provenance
};

}  // namespace qp
