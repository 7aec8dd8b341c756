#include "cmd/tool/input.h"

#include "lib/pipe/handover.h"
#include "lib/qmap/identity.h"
#include "lib/qmap/reader.h"

namespace qp {

OpenedInput open_input(const std::string& path, const LoadOptions& options) {
  OpenedInput in;
  if (!is_qmap_input(path)) {
    in.store = std::make_unique<Store>(load_checkpoint(path, options), nullptr, path);
    in.paths.push_back(path);
  } else {
    QmapInput q = open_qmap_input(path);
    Model model = read_qmap(q.file, q.base);
    std::string label = q.named ? q.file->path() : (path.empty() ? "-" : path);
    if (q.named) in.paths.push_back(label);
    in.store = std::make_unique<Store>(std::move(model), q.file, label);
  }
  for (const FileRef& f : in.store->model().files) in.paths.push_back(f.path);
  return in;
}

Json provenance_entry(const std::string& tool, Json options, const Model& input) {
  return {{"tool", tool},
          {"version", QP_VERSION},
          {"options", std::move(options)},
          {"input", identity(input).hex()}};
}

}  // namespace qp
