#include "lib/transform/regions.h"

#include <algorithm>
#include <set>

#include "lib/engine/ops/elementwise.h"
#include "lib/engine/ops/moe.h"

namespace qp::transform {

using engine::ConstMatrix, engine::Graph, engine::Matrix, engine::Node, engine::Value;

namespace {

bool is_expert(const Node& node) {
  return dynamic_cast<const engine::Expert*>(node.op.get()) != nullptr;
}

// A change is not followed past these: what it adds to, whom it routes to.
bool ends(const Node& node) {
  const engine::Op* op = node.op.get();
  return dynamic_cast<const engine::Add*>(op) != nullptr ||
         dynamic_cast<const engine::Route*>(op) != nullptr ||
         dynamic_cast<const engine::Zeros*>(op) != nullptr || is_expert(node);
}

std::set<size_t> grow(const Graph& graph, size_t seed) {
  std::set<size_t> nodes = {seed};
  if (is_expert(graph.nodes()[seed])) return nodes;
  std::set<Value> made = {graph.nodes()[seed].out};
  for (size_t n = seed + 1; n < graph.nodes().size(); ++n) {
    const Node& node = graph.nodes()[n];
    bool reads = std::ranges::any_of(node.in, [&](Value v) { return made.contains(v); });
    if (!reads || ends(node)) continue;
    nodes.insert(n);
    made.insert(node.out);
  }
  return nodes;
}

Region finish(const Graph& graph, const std::set<size_t>& nodes) {
  Region region;
  region.nodes.assign(nodes.begin(), nodes.end());
  std::set<Value> made, taken;
  for (size_t n : nodes) made.insert(graph.nodes()[n].out);
  for (size_t n : nodes) {
    const Node& node = graph.nodes()[n];
    for (size_t i = 0; i < node.in.size(); ++i) {
      if (made.contains(node.in[i]) || (is_expert(node) && i == 2)) continue;
      if (taken.insert(node.in[i]).second) region.inputs.push_back(node.in[i]);
    }
  }
  for (Value v : made) {
    bool outside = graph.last_use(v) >= graph.nodes().size();
    for (size_t n = 0; n < graph.nodes().size(); ++n) {
      if (!nodes.contains(n) && std::ranges::count(graph.nodes()[n].in, v) > 0) outside = true;
    }
    if (outside) region.outputs.push_back(v);
  }
  return region;
}

}  // namespace

std::vector<Region> find_regions(const Graph& graph, const std::vector<Consumer>& seeds) {
  std::vector<std::pair<std::set<size_t>, std::vector<Consumer>>> grown;
  for (const Consumer& seed : seeds) {
    std::set<size_t> nodes = grow(graph, seed.node);
    std::vector<Consumer> of = {seed};
    std::erase_if(grown, [&](auto& other) {
      if (std::ranges::none_of(other.first, [&](size_t n) { return nodes.contains(n); }))
        return false;
      nodes.insert(other.first.begin(), other.first.end());
      of.insert(of.end(), other.second.begin(), other.second.end());
      return true;
    });
    grown.emplace_back(std::move(nodes), std::move(of));
  }
  std::vector<Region> regions;
  for (auto& [nodes, of] : grown) {
    regions.push_back(finish(graph, nodes));
    regions.back().seeds = std::move(of);
  }
  return regions;
}

ConstMatrix RegionRunner::get(Value v, const std::vector<ConstMatrix>& inputs, size_t rows) {
  for (size_t i = 0; i < region_.inputs.size(); ++i) {
    if (region_.inputs[i] == v) return inputs[i];
  }
  std::vector<float>& x = values_[v];
  if (x.size() != rows * layer_.width(v)) x.assign(rows * layer_.width(v), 0.0f);  // no sum yet
  return {x.data(), rows, layer_.width(v)};
}

void RegionRunner::run(const engine::Step& step,
                       const std::vector<std::vector<engine::Weight>>& weights,
                       const std::vector<ConstMatrix>& inputs) {
  rows_ = step.batch.rows();
  for (size_t i = 0; i < region_.nodes.size(); ++i) {
    const Node& node = layer_.nodes()[region_.nodes[i]];
    std::vector<ConstMatrix> in;
    for (Value v : node.in) in.push_back(get(v, inputs, rows_));
    std::vector<float>& out = values_[node.out];
    out.resize(rows_ * layer_.width(node.out));
    engine::Step own = step;
    own.weights = weights[i];
    node.op->forward(own, in, {out.data(), rows_, layer_.width(node.out)});
  }
}

ConstMatrix RegionRunner::output(size_t i) const {
  Value v = region_.outputs[i];
  return {values_.at(v).data(), rows_, layer_.width(v)};
}

}  // namespace qp::transform
