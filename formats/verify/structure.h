// Checks of a checkpoint that need no tensor data: files, index, config, companions.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/qmap/model.h"
#include "lib/verify/numbers.h"

namespace qp {

// A directory as it lies on disk: index against shards, the stored layout against the
// quantization config (Format::check), companion files. A directory without safetensors gets the
// companions' checks only. Problems are findings; errors thrown are of kind system.
struct DirectoryCheck {
  bool stored = false;  // there were safetensors, and their layout was checked
  std::vector<Finding> findings;
};
DirectoryCheck check_directory(const std::string& path);

// What config.json promises, held against the tensors of the loaded model: vocabulary and hidden
// size, the number of layers, the same modules in every layer, experts, dtype, a head unless tied.
std::vector<Finding> check_promises(const Model& model);

// Every rule these checks report, with what it checks: the testcases of a report.
enum class Stage : uint8_t { load, companions, stored, promises, gguf };
struct StructureRule {
  std::string_view id;
  Stage stage;  // a rule was checked when its stage was
  std::string_view what;
};
std::span<const StructureRule> structure_rules();

}  // namespace qp
