// What the programs share: option declarations, one catch, exit status, signals, progress.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/base/progress.h"

namespace qp {

struct ToolInfo {
  std::string name;         // "qload"
  std::string summary;      // one line, for --help and the man page
  std::string description;  // paragraphs
  std::vector<std::pair<std::string, std::string>> examples;  // command, what it does
};

// Options that have one name and one meaning in every program. A program adds what it has.
struct CommonOptions {
  int threads = 0;
  std::string max_memory = "80%";
  bool json = false, quiet = false, strict = false;
  int verbose = 0;
};

class Tool {
 public:
  Tool(const ToolInfo& tool_info, CommonOptions& common) : info(tool_info), options(common) {}

  const ToolInfo& info;
  CommonOptions& options;

  // "NAME: warning: text" on standard error; an exit of 2 at the end with --strict.
  void warn(const std::string& text);
  // A line on standard error for people, unless --quiet. `level` 1 needs -v.
  void say(const std::string& text, int level = 0);
  Progress& progress();
  size_t warnings() const { return warnings_; }
  uint64_t max_memory() const;  // bytes, from --max-memory and the cgroup

 private:
  size_t warnings_ = 0;
  std::unique_ptr<Progress> progress_;
};

// Declares the common options, then `declare` adds the program's own; parses; runs `body`.
// Returns the exit status of DESIGN.md, "Errors". Dies of the signal when interrupted.
int run_tool(const ToolInfo& info, int argc, char** argv,
             const std::function<void(CLI::App&)>& declare, const std::function<int(Tool&)>& body);

// "4.2 GB", "512 B": decimal units, three digits.
std::string human_bytes(double bytes);
// "8G", "512MiB", "5GB", "80%" (of `whole`). Errors: usage, naming the option.
uint64_t parse_size(const std::string& text, const std::string& option, uint64_t whole = 0);
// True when standard error (or output) is a terminal that may be coloured (NO_COLOR unset).
bool color_on(int fd);

}  // namespace qp
