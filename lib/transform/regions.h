// The part of a layer that a change of some matrices shows in, up to where it joins the hidden
// states: a whole attention for q, k and v, an MLP for gate and up, one expert, or a matrix alone.
#pragma once

#include <map>
#include <vector>

#include "lib/engine/graph.h"
#include "lib/transform/folds.h"

namespace qp::transform {

struct Region {
  std::vector<size_t> nodes;           // ascending
  std::vector<engine::Value> inputs;   // made outside; without the running sum of experts
  std::vector<engine::Value> outputs;  // read outside
  std::vector<Consumer> seeds;         // the matrices it grew from
};

// The regions of these matrices; those that overlap are one.
std::vector<Region> find_regions(const engine::Graph& layer, const std::vector<Consumer>& seeds);

// Runs a region over one batch.
class RegionRunner {
 public:
  RegionRunner(const engine::Graph& layer, const Region& region) : layer_(layer), region_(region) {}
  // weights[i]: of region.nodes[i].
  void run(const engine::Step& step, const std::vector<std::vector<engine::Weight>>& weights,
           const std::vector<engine::ConstMatrix>& inputs);
  engine::ConstMatrix output(size_t i) const;

 private:
  engine::ConstMatrix get(engine::Value v, const std::vector<engine::ConstMatrix>& inputs,
                          size_t rows);

  const engine::Graph& layer_;
  const Region& region_;
  size_t rows_ = 0;
  std::map<engine::Value, std::vector<float>> values_;
};

}  // namespace qp::transform
