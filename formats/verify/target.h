// A checkpoint's headers and configs for lib/target: what an engine decides before it reads a
// weight.
#pragma once

#include <string>
#include <vector>

#include "formats/format.h"
#include "lib/target/target.h"
#include "lib/verify/numbers.h"

namespace qp {

struct TargetCheck {
  target::Result result;
  std::vector<target::StoredTensor> tensors;  // verdicts are in their order
  std::vector<Finding> stored;                // of index and shards: structure_rules()
};

// A directory of safetensors, or a GGUF file. No tensor's data is read. Errors: usage (hardware),
// input (neither), system.
TargetCheck check_target(const std::string& path, const target::Engine& engine,
                         const target::Options& options);

// The same of what qexport is about to write; of a plan that is a file, nothing is known. `bytes`:
// where its parts are.
TargetCheck check_target(const ExportPlan& plan, const Store* bytes, const target::Engine& engine,
                         const target::Options& options);

}  // namespace qp
