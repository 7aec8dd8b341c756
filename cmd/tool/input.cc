#include "cmd/tool/input.h"

#include "lib/qmap/identity.h"
#include "lib/qmap/reader.h"

namespace qp {

ResolvedInput resolve_input(const std::string& path) {
  if (!is_qmap_input(path)) return {path, std::nullopt};
  QmapInput q = open_qmap_input(path);
  if (!q.directory.empty()) return {q.directory, std::nullopt};
  std::string label = q.named ? q.file->path() : path.empty() ? "-" : path;
  return {label, std::move(q)};
}

OpenedInput open_resolved(const ResolvedInput& input, const LoadOptions& options) {
  OpenedInput in;
  if (!input.qmap) {
    in.store = std::make_unique<Store>(load_checkpoint(input.path, options), nullptr, input.path);
    in.paths.push_back(input.path);
  } else {
    Model model = read_qmap(input.qmap->file, input.qmap->base);
    if (input.qmap->named) in.paths.push_back(input.path);
    in.store = std::make_unique<Store>(std::move(model), input.qmap->file, input.path);
  }
  for (const FileRef& f : in.store->model().files) in.paths.push_back(f.path);
  return in;
}

OpenedInput open_input(const std::string& path, const LoadOptions& options) {
  return open_resolved(resolve_input(path), options);
}

Json provenance_entry(const std::string& tool, Json options, const Model& input) {
  return {{"tool", tool},
          {"version", QP_VERSION},
          {"options", std::move(options)},
          {"input", identity(input).hex()}};
}

}  // namespace qp
