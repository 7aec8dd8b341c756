// Values of a layer, kept in files while the layer runs, to be gone through again.
#pragma once

#include <map>
#include <vector>

#include "lib/engine/graph.h"
#include "lib/stream/row_file.h"
#include "lib/stream/stream.h"

namespace qp {

class Capture : public LayerWork {
 public:
  // Keeps the first `rows` rows.
  explicit Capture(size_t rows) : rows_(rows) {}
  void clear() { kept_.clear(); }
  // Keeps a value of the next layer, as it is before `node`, which reads it.
  void want(const engine::Graph& graph, engine::Value v, size_t node);

  bool has(engine::Value v) const { return kept_.contains(v); }
  std::vector<float> read(engine::Value v, size_t first, size_t count) const {
    return kept_.at(v).rows.read(first, count);
  }

  std::vector<size_t> cuts(size_t layer, const engine::Graph& graph) override;
  void enter(size_t node, const engine::Graph& graph, const engine::Values& values) override;
  void settle(size_t) override {}
  size_t rehearsals(size_t, size_t) override { return 0; }
  engine::LinearHook* watcher(size_t) override { return nullptr; }
  void rehearsed(size_t) override {}

 private:
  struct Kept {
    size_t node, count;
    RowFile rows;
  };
  size_t rows_;
  std::map<engine::Value, Kept> kept_;
};

}  // namespace qp
