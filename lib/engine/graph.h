// A block of a model: ops in order over values, each value a matrix with a row per token.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "lib/engine/op.h"

namespace qp::engine {

using Value = size_t;

struct Node {
  std::unique_ptr<Op> op;
  std::vector<Value> in;
  Value out = 0;
};

class Graph {
 public:
  // Value 0 is the block's input, `width` columns (0: the block starts from the tokens).
  explicit Graph(size_t width) : widths_{width} {}

  // The result of an op, the next value. Errors: defect, when widths do not match.
  Value add(std::unique_ptr<Op> op, std::initializer_list<Value> in);
  template <class T, class... Args>
  Value make(std::initializer_list<Value> in, Args&&... args) {
    return add(std::make_unique<T>(std::forward<Args>(args)...), in);
  }

  Value input() const { return 0; }
  Value output() const { return widths_.size() - 1; }  // the last value
  size_t values() const { return widths_.size(); }
  size_t width(Value v) const { return widths_[v]; }
  const std::vector<Node>& nodes() const { return nodes_; }
  // The node after which nobody reads a value (nodes().size() for the output).
  size_t last_use(Value v) const { return last_use_[v]; }

 private:
  std::string first_reader(Value v, const std::string& otherwise) const;

  std::vector<Node> nodes_;
  std::vector<size_t> widths_;
  std::vector<size_t> last_use_ = {0};
};

// Buffers of values, taken from what others gave back.
class Pool {
 public:
  std::unique_ptr<float[]> take(size_t floats, size_t& capacity);
  void give(std::unique_ptr<float[]> buffer, size_t capacity);

 private:
  std::vector<std::pair<size_t, std::unique_ptr<float[]>>> free_;
};

// The values of a run that are alive.
class Values {
 public:
  Values(const Graph& graph, Pool& pool, size_t rows) : graph_(graph), pool_(pool), rows_(rows) {
    slots_.resize(graph.values());
  }
  ~Values();
  bool has(Value v) const { return slots_[v].data != nullptr; }
  Matrix make(Value v);  // allocates when it is not there
  ConstMatrix get(Value v) const { return {slots_[v].data.get(), rows_, graph_.width(v)}; }
  void drop(Value v);
  void move(Value from, Value to);  // `to` takes over the buffer of `from`

 private:
  struct Slot {
    std::unique_ptr<float[]> data;
    size_t capacity = 0;
  };
  const Graph& graph_;
  Pool& pool_;
  size_t rows_;
  std::vector<Slot> slots_;
};

// Runs nodes [first, last). weights[i]: the weights of node first + i. Values whose last reader has
// run are dropped, unless `keep` (a backward pass will want them).
void run(const Graph& graph, size_t first, size_t last, Step step,
         const std::vector<std::vector<Weight>>& weights, Values& values, bool keep);
// Gradients of all nodes, last to first: `gradients` holds the output's and receives the input's.
void run_backward(const Graph& graph, Step step, const std::vector<std::vector<Weight>>& weights,
                  const Values& values, Values& gradients);

}  // namespace qp::engine
