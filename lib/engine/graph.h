// A block of a model: ops in order over values, each value a matrix with a row per token.
#pragma once

#include <initializer_list>
#include <memory>
#include <utility>
#include <vector>

#include "lib/engine/op.h"
#include "lib/gemm/memory.h"

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
  // The input that the result of node i may be written over, or its result when there is none.
  Value written_over(size_t i) const;

 private:
  std::string first_reader(Value v, const std::string& otherwise) const;

  std::vector<Node> nodes_;
  std::vector<size_t> widths_;
  std::vector<size_t> last_use_ = {0};
};

// Where the values of a run lie in one piece of memory: those alive at the same time apart, a result
// that is written over an input where that was.
class Layout {
 public:
  // `keep`: all values are alive to the end.
  explicit Layout(const Graph& graph, bool keep = false);
  // Of the whole, and of a value in it, both per row; multiples of a cache line.
  size_t floats() const { return floats_; }
  size_t place(Value v) const { return places_[v]; }

 private:
  std::vector<size_t> places_;
  size_t floats_ = 0;
};

// Memory of values, kept from run to run (new memory is slow to touch). One Values at a time.
class Pool {
 public:
  // Gives back what is more than that.
  void shrink(size_t floats);

 private:
  friend class Values;
  gemm::Memory memory_;
  bool taken_ = false;
};

// The values of a run that are alive.
class Values {
 public:
  // Errors: defect, when other values are in the pool.
  Values(const Graph& graph, Pool& pool, size_t rows, bool keep = false);
  ~Values() { pool_.taken_ = false; }
  Values(const Values&) = delete;
  Values& operator=(const Values&) = delete;
  bool has(Value v) const { return alive_[v]; }
  Matrix make(Value v);  // not initialized, unless it is alive
  ConstMatrix get(Value v) const { return {at(v), rows_, graph_.width(v)}; }
  void drop(Value v) { alive_[v] = false; }

 private:
  float* at(Value v) const { return data_ + layout_.place(v) * rows_; }

  const Graph& graph_;
  Pool& pool_;
  size_t rows_;
  Layout layout_;
  float* data_;
  std::vector<bool> alive_;
};

// The weights of a node, of all nodes.
std::vector<Weight> load_weights(const Node& node, const WeightSource& source, gemm::Precision precision);
std::vector<std::vector<Weight>> load_weights(const Graph& graph, const WeightSource& source,
                                              gemm::Precision precision);

// Runs nodes [first, last). weights[i]: the weights of node first + i. Values whose last reader has
// run are dropped, unless `keep` (a backward pass will want them; `values` then keep, too).
void run(const Graph& graph, size_t first, size_t last, Step step,
         const std::vector<std::vector<Weight>>& weights, Values& values, bool keep);
// Gradients of all nodes, last to first: `gradients`, which keep, hold the output's and receive the
// input's (where step.input_gradient).
void run_backward(const Graph& graph, Step step, const std::vector<std::vector<Weight>>& weights,
                  const Values& values, Values& gradients);

}  // namespace qp::engine
