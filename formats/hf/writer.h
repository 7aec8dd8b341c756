// Writes an ExportPlan as an HF directory: shards, index, companions, config.json last; verified;
// renamed into place. DIR.partial is what an unfinished run leaves after a kill.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/format.h"
#include "lib/base/progress.h"

namespace qp {

struct WriteOptions {
  std::string directory;
  uint64_t shard_bytes = 5'000'000'000;
  bool force = false;
  bool sync = true;
  bool verify = true;               // read everything back and compare before the rename
  std::vector<std::string> inputs;  // directories and files the output must not replace
  // Told the directory when it is complete and checked, before it gets its name.
  std::function<void(const std::string& unfinished)> before_commit{};
};

struct WriteResult {
  uint64_t bytes = 0;  // of tensors
  size_t shards = 0;
  std::string first;  // the first of several files, where they are in no directory of their own
  double write_seconds = 0, verify_seconds = 0;
};

// Errors: usage (would overwrite an input), system (exists, disk full), defect (verification).
WriteResult write_checkpoint(const Store& store, const ExportPlan& plan,
                             const WriteOptions& options, Progress& progress);

}  // namespace qp
