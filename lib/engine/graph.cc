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

Value Graph::written_over(size_t i) const {
  const Node& node = nodes_[i];
  int over = node.op->in_place();
  if (over < 0) return node.out;
  Value v = node.in[static_cast<size_t>(over)];
  return last_use(v) == i && width(v) == width(node.out) ? v : node.out;
}

Layout::Layout(const Graph& graph, bool keep) : places_(graph.values()) {
  struct Room {
    size_t begin, end, until;  // floats; the last node that needs it
  };
  std::vector<Room> rooms;  // in order of place
  auto put = [&](Value v) {
    constexpr size_t kLine = 16;
    size_t width = (std::max<size_t>(1, graph.width(v)) + kLine - 1) / kLine * kLine, begin = 0;
    auto it = rooms.begin();
    while (it != rooms.end() && it->begin < begin + width) begin = (it++)->end;
    rooms.insert(it, {begin, begin + width, keep ? graph.nodes().size() : graph.last_use(v)});
    places_[v] = begin;
    floats_ = std::max(floats_, begin + width);
  };
  put(graph.input());
  for (size_t i = 0; i < graph.nodes().size(); ++i) {
    std::erase_if(rooms, [&](const Room& room) { return room.until < i; });
    Value out = graph.nodes()[i].out, over = keep ? out : graph.written_over(i);
    if (over == out) {
      put(out);
      continue;
    }
    places_[out] = places_[over];
    for (Room& room : rooms) {
      if (room.begin == places_[out]) room.until = graph.last_use(out);
    }
  }
}

void Pool::shrink(size_t floats) {
  gemm::Memory fresh;
  if (memory_.size() > gemm::Memory::whole(floats * sizeof(float))) memory_ = std::move(fresh);
}

Values::Values(const Graph& graph, Pool& pool, size_t rows, bool keep)
    : graph_(graph), pool_(pool), rows_(rows), layout_(graph, keep), alive_(graph.values()) {
  if (pool.taken_) throw defect_error("values of two runs in one pool");
  data_ = static_cast<float*>(pool.memory_.need(layout_.floats() * rows * sizeof(float)));
  pool.taken_ = true;
}

Matrix Values::make(Value v) {
  alive_[v] = true;
  return {at(v), rows_, graph_.width(v)};
}

std::vector<Weight> load_weights(const Node& node, const WeightSource& source, gemm::Precision precision) {
  std::vector<Weight> loaded;
  for (const WeightUse& use : node.op->weights) loaded.push_back(source.load(use, precision));
  return loaded;
}

std::vector<std::vector<Weight>> load_weights(const Graph& graph, const WeightSource& source,
                                              gemm::Precision precision) {
  std::vector<std::vector<Weight>> loaded;
  for (const Node& node : graph.nodes()) loaded.push_back(load_weights(node, source, precision));
  return loaded;
}

void run(const Graph& graph, size_t first, size_t last, Step step,
         const std::vector<std::vector<Weight>>& weights, Values& values, bool keep) {
  gemm::Left left;  // packed once for all linears that read it
  Value held = graph.values();
  for (size_t i = first; i < last; ++i) {
    const Node& node = graph.nodes()[i];
    std::vector<ConstMatrix> in;
    for (Value v : node.in) in.push_back(values.get(v));
    step.weights = weights[i - first];
    step.left = node.op->linears.size() == 1 ? &left : nullptr;
    if (step.left != nullptr && held != node.in[0]) {
      left.set(in[0].data, in[0].cols, in[0].rows);
      held = node.in[0];
    }
    node.op->forward(step, in, values.make(node.out));
    if (keep) continue;
    for (Value v : node.in) {
      if (graph.last_use(v) == i) values.drop(v);
    }
  }
}

// Values that gradients go back through: the input where its own is wanted, and what comes after a
// weight whose gradient is.
static std::vector<bool> reached(const Graph& graph, const Step& step) {
  std::vector<bool> values(graph.values(), step.input_gradient || step.gradients == nullptr);
  for (const Node& node : graph.nodes()) {
    bool any = values[node.out] || std::ranges::any_of(node.in, [&](Value v) { return values[v]; });
    for (const WeightUse& use : node.op->weights) {
      any = any || (use.form == Form::matrix && step.gradients->wants(use));
    }
    values[node.out] = any;
  }
  return values;
}

void run_backward(const Graph& graph, Step step, const std::vector<std::vector<Weight>>& weights,
                  const Values& values, Values& gradients) {
  std::vector<bool> through = reached(graph, step);
  for (size_t i = graph.nodes().size(); i-- > 0;) {
    const Node& node = graph.nodes()[i];
    if (!through[node.out]) continue;
    bool linear = node.op->linears.size() == 1;  // the costly ones, which take null for an answer
    std::vector<ConstMatrix> in;
    std::vector<Matrix> din;
    for (Value v : node.in) {
      in.push_back(values.get(v));
      if (linear && !through[v]) {
        din.push_back({nullptr, in.back().rows, in.back().cols});
        continue;
      }
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
