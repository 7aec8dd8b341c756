// Opens whatever a program is given: a qmap, a handle in a pipe, or a checkpoint in any format.
#pragma once

#include <memory>
#include <string>

#include "formats/format.h"
#include "lib/qmap/store.h"

namespace qp {

struct OpenedInput {
  std::unique_ptr<Store> store;
  std::vector<std::string> paths;  // what an output must not overwrite
};

OpenedInput open_input(const std::string& path, const LoadOptions& options);

// The provenance entry of one run: tool, version, the options that change numbers, the input.
Json provenance_entry(const std::string& tool, Json options, const Model& input);

}  // namespace qp
