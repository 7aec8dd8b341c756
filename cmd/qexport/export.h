// The work of qexport.
#pragma once

#include <string>

#include "cmd/qexport/target.h"
#include "cmd/tool/run_tool.h"

namespace qp {

class ExportCommand {
 public:
  void declare(CLI::App& app);
  int run(Tool& tool);

 private:
  void list_formats(Tool& tool) const;

  std::string input_, output_, format_, shard_size_, ledger_;
  std::string pre_tokenizer_, model_name_;
  bool force_ = false, no_verify_ = false, no_sync_ = false, no_check_ = false, list_formats_ = false;
  bool dry_run_ = false;
  ExportTarget target_;
  uint64_t group_size_ = 0;
  int num_bits_ = 0;
};

}  // namespace qp
