// Opens whatever a program is given: a qmap, a handle in a pipe, or a checkpoint in any format.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "formats/format.h"
#include "lib/pipe/handover.h"
#include "lib/qmap/store.h"

namespace qp {

struct OpenedInput {
  std::unique_ptr<Store> store;
  std::vector<std::string> paths;  // what an output must not overwrite
};

// The two halves of opening, for who must tell a broken hand-over from a broken checkpoint.
struct ResolvedInput {
  std::string path;               // of the checkpoint: as given, or from a directory's handle
  std::optional<QmapInput> qmap;  // or the qmap
};
// Reads what a pipe hands over. Errors: usage, input (empty, damaged handle), system.
ResolvedInput resolve_input(const std::string& path);
// Errors: input, system.
OpenedInput open_resolved(const ResolvedInput& input, const LoadOptions& options);

OpenedInput open_input(const std::string& path, const LoadOptions& options);

// The provenance entry of one run: tool, version, the options that change numbers, the input.
Json provenance_entry(const std::string& tool, Json options, const Model& input);

}  // namespace qp
