#include "lib/engine/graph.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "lib/base/error.h"

namespace qp::engine {

Value Graph::add(std::unique_ptr<Op> op, std::initializer_list<Value> in) {
  std::vector<size_t> expected = op->inputs();
  if (expected.size() != in.size()) throw defect_error("an op got the wrong number of inputs");
  size_t i = 0;
  for (Value v : in) {
    if (v >= widths_.size() || widths_[v] != expected[i]) {
      throw defect_error("an op got a value of " +
                         std::to_string(v < widths_.size() ? widths_[v] : 0) + " columns (expected " +
                         std::to_string(expected[i]) + ")");
    }
    last_use_[v] = nodes_.size();
    ++i;
  }
  if (op->linears.size() == 1) op->linears[0].input = first_reader(*in.begin(), op->linears[0].module);
  Value out = widths_.size();
  widths_.push_back(op->width());
  last_use_.push_back(static_cast<size_t>(-1));
  nodes_.push_back({std::move(op), in, out});
  return out;
}

// Linears that read one value share its statistics, under the name of the first of them.
std::string Graph::first_reader(Value v, const std::string& otherwise) const {
  for (const Node& node : nodes_) {
    if (node.op->linears.size() == 1 && node.in[0] == v) return node.op->linears[0].input;
  }
  return otherwise;
}

std::unique_ptr<float[]> Pool::take(size_t floats, size_t& capacity) {
  auto best = free_.end();
  for (auto it = free_.begin(); it != free_.end(); ++it) {
    if (it->first >= floats && (best == free_.end() || it->first < best->first)) best = it;
  }
  if (best != free_.end() && best->first <= 2 * floats) {
    capacity = best->first;
    auto buffer = std::move(best->second);
    free_.erase(best);
    return buffer;
  }
  free_.clear();  // what does not fit now would only pile up
  capacity = floats;
  return std::make_unique_for_overwrite<float[]>(floats);
}

void Pool::give(std::unique_ptr<float[]> buffer, size_t capacity) {
  free_.emplace_back(capacity, std::move(buffer));
}

Values::~Values() {
  for (Value v = 0; v < slots_.size(); ++v) drop(v);
}

Matrix Values::make(Value v) {
  Slot& slot = slots_[v];
  size_t floats = std::max<size_t>(1, rows_ * graph_.width(v));
  if (slot.data == nullptr) slot.data = pool_.take(floats, slot.capacity);
  return {slot.data.get(), rows_, graph_.width(v)};
}

void Values::drop(Value v) {
  if (slots_[v].data != nullptr) pool_.give(std::move(slots_[v].data), slots_[v].capacity);
  slots_[v].data = nullptr;
}

void Values::move(Value from, Value to) {
  slots_[to] = std::move(slots_[from]);
  slots_[from] = {};
}

void run(const Graph& graph, size_t first, size_t last, Step step,
         const std::vector<std::vector<Weight>>& weights, Values& values, bool keep) {
  for (size_t i = first; i < last; ++i) {
    const Node& node = graph.nodes()[i];
    std::vector<ConstMatrix> in;
    int over = node.op->in_place();
    bool reuse = false;
    for (size_t j = 0; j < node.in.size(); ++j) {
      in.push_back(values.get(node.in[j]));
      if (static_cast<int>(j) == over) reuse = !keep && graph.last_use(node.in[j]) == i;
    }
    if (reuse) values.move(node.in[static_cast<size_t>(over)], node.out);
    Matrix out = values.make(node.out);
    step.weights = weights[i - first];
    node.op->forward(step, in, out);
    if (keep) continue;
    for (Value v : node.in) {
      if (graph.last_use(v) == i) values.drop(v);
    }
  }
}

void run_backward(const Graph& graph, Step step, const std::vector<std::vector<Weight>>& weights,
                  const Values& values, Values& gradients) {
  for (size_t i = graph.nodes().size(); i-- > 0;) {
    const Node& node = graph.nodes()[i];
    std::vector<ConstMatrix> in;
    std::vector<Matrix> din;
    for (Value v : node.in) {
      in.push_back(values.get(v));
      bool fresh = !gradients.has(v);
      Matrix d = gradients.make(v);
      if (fresh) std::memset(d.data, 0, d.rows * d.cols * sizeof(float));
      din.push_back(d);
    }
    step.weights = weights[i];
    node.op->backward(step, in, gradients.get(node.out), din);
    gradients.drop(node.out);
  }
}

}  // namespace qp::engine
