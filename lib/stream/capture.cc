#include "lib/stream/capture.h"

#include <algorithm>
#include <set>

namespace qp {

void Capture::want(const engine::Graph& graph, engine::Value v, size_t node) {
  auto it = kept_.find(v);
  if (it == kept_.end())
    kept_.emplace(v, Kept{node, 0, RowFile(graph.width(v))});
  else
    it->second.node = std::min(it->second.node, node);
}

std::vector<size_t> Capture::cuts(size_t, const engine::Graph&) {
  std::set<size_t> nodes;
  for (const auto& [v, kept] : kept_) nodes.insert(kept.node);
  return {nodes.begin(), nodes.end()};
}

void Capture::enter(size_t node, const engine::Graph&, const engine::Values& values) {
  for (auto& [v, kept] : kept_) {
    if (kept.node != node || kept.count == rows_) continue;
    engine::ConstMatrix x = values.get(v);
    x.rows = std::min(x.rows, rows_ - kept.count);
    kept.rows.write(kept.count, x);
    kept.count += x.rows;
  }
}

}  // namespace qp
