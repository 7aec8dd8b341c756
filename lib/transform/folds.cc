#include "lib/transform/folds.h"

#include <algorithm>
#include <numeric>

#include "lib/engine/ops/attention.h"
#include "lib/engine/ops/linear.h"
#include "lib/engine/ops/moe.h"
#include "lib/engine/ops/norm.h"

namespace qp::transform {
namespace {

using engine::Expert, engine::Form, engine::Graph, engine::Linear, engine::Node, engine::Norm,
    engine::Value;

template <class T>
const T* as(const Node& node) {
  return dynamic_cast<const T*>(node.op.get());
}

class Finder {
 public:
  explicit Finder(const Graph& graph) : graph_(graph), readers_(graph.values()) {
    for (size_t n = 0; n < graph.nodes().size(); ++n) {
      const Node& node = graph.nodes()[n];
      if (as<engine::Zeros>(node) != nullptr) continue;  // takes nothing but the size
      for (size_t i = 0; i < node.in.size(); ++i) readers_[node.in[i]].push_back({n, i});
    }
  }

  std::vector<Fold> find() {
    for (Value v = 1; v < graph_.values(); ++v) {
      std::optional<Fold> fold = producer(v);
      if (!fold || !consume(v, *fold)) continue;
      fold->value = v;
      folds_.push_back(std::move(*fold));
    }
    for (size_t n = 0; n < graph_.nodes().size(); ++n) inside(n);
    std::ranges::stable_sort(folds_, {}, [](const Fold& f) { return f.consumers.front().node; });
    return std::move(folds_);
  }

 private:
  struct Reader {
    size_t node, input;
  };
  const Node& maker(Value v) const { return graph_.nodes()[v - 1]; }

  // Back from a value to what makes its channels, past ops that carry them.
  std::optional<Fold> producer(Value v) const {
    std::vector<uint32_t> of(graph_.width(v));
    std::iota(of.begin(), of.end(), 0u);
    bool cached = false;
    while (v != graph_.input()) {
      const Node& node = maker(v);
      if (const Norm* norm = as<Norm>(node)) return of_norm(*norm, std::move(of));
      if (as<Linear>(node) != nullptr) return of_linear(node, std::move(of), cached);
      cached = cached || as<engine::Attention>(node) != nullptr;
      size_t input = 0;
      std::vector<uint32_t> carried;
      while (input < node.in.size() && (carried = node.op->carries(input)).empty()) ++input;
      if (carried.empty()) return std::nullopt;
      for (uint32_t& c : of) c = carried[c];
      v = node.in[input];
      if (!alone(v, of)) return std::nullopt;
    }
    return std::nullopt;
  }

  // Nobody but one reader sees these channels of v.
  bool alone(Value v, const std::vector<uint32_t>& channels) const {
    std::vector<bool> ours(graph_.width(v));
    for (uint32_t c : channels) ours[c] = true;
    size_t seen = 0;
    for (const Reader& r : readers_[v]) {
      std::vector<uint32_t> theirs = graph_.nodes()[r.node].op->carries(r.input);
      bool any = theirs.empty() || std::ranges::any_of(theirs, [&](uint32_t c) { return ours[c]; });
      seen += any ? 1 : 0;
    }
    return seen == 1;
  }

  static Fold of_norm(const Norm& norm, std::vector<uint32_t> of) {
    Fold f;
    f.producer = norm.weights[0];
    f.channels = f.producer.cols;
    if (norm.weights.size() > 1) f.bias = norm.weights[1];
    f.plus = norm.spec().kind == engine::NormSpec::Kind::rms_plus_one ? 1 : 0;
    for (uint32_t& c : of) c %= static_cast<uint32_t>(f.channels);
    f.of = std::move(of);
    return f;
  }

  static Fold of_linear(const Node& node, std::vector<uint32_t> of, bool cached) {
    Fold f;
    f.cached = cached;
    f.kind = Fold::Kind::linear;
    f.producer = node.op->weights[0];
    f.channels = f.producer.rows;
    if (node.op->weights.size() > 1) f.bias = node.op->weights[1];
    f.of = std::move(of);
    return f;
  }

  // All readers of v are matrices.
  bool consume(Value v, Fold& fold) const {
    for (const Reader& r : readers_[v]) {
      const Node& node = graph_.nodes()[r.node];
      bool expert = as<Expert>(node) != nullptr;
      if (r.input != 0 || (!expert && as<Linear>(node) == nullptr)) return false;
      for (size_t i = 0; i < node.op->linears.size(); ++i) {
        const engine::LinearUse& linear = node.op->linears[i];
        bool down = expert && i + 1 == node.op->linears.size();
        if (!down)
          fold.consumers.push_back({r.node, i, node.op->weights[i], linear.module, linear.input});
      }
    }
    return !fold.consumers.empty();
  }

  // up -> down of an expert, where up is a matrix of its own and enters linearly.
  void inside(size_t n) {
    const Node& node = graph_.nodes()[n];
    const Expert* expert = as<Expert>(node);
    if (expert == nullptr || !expert->linear_in_up()) return;
    Fold f;
    f.kind = Fold::Kind::linear;
    f.inside = true;
    f.producer = node.op->weights[1];
    if (node.op->weights.size() > 3) f.bias = node.op->weights[4];
    f.channels = f.producer.rows;
    f.of.resize(f.channels);
    std::iota(f.of.begin(), f.of.end(), 0u);
    f.consumers = {
        {n, 2, node.op->weights[2], node.op->linears[2].module, node.op->linears[2].input}};
    folds_.push_back(std::move(f));
  }

  const Graph& graph_;
  std::vector<std::vector<Reader>> readers_;
  std::vector<Fold> folds_;
};

}  // namespace

std::vector<float> Fold::spread(const std::vector<float>& factors) const {
  std::vector<float> result(of.size());
  for (size_t c = 0; c < of.size(); ++c) result[c] = factors[of[c]];
  return result;
}

std::vector<Fold> find_unfolded(const Graph& layer, const std::vector<Fold>& folds) {
  std::vector<Fold> found;
  for (size_t n = 0; n < layer.nodes().size(); ++n) {
    const Node& node = layer.nodes()[n];
    if (as<Linear>(node) == nullptr) continue;
    const engine::WeightUse& use = node.op->weights[0];
    bool folded = std::ranges::any_of(folds, [&](const Fold& f) {
      return std::ranges::any_of(f.consumers, [&](const Consumer& c) { return c.node == n; });
    });
    if (folded || use.part || use.transposed || node.op->linears.empty()) continue;
    auto it = std::ranges::find(found, node.in[0], &Fold::value);
    if (it == found.end()) {
      Fold f;
      f.kind = Fold::Kind::none;
      f.channels = use.cols;
      f.of.resize(use.cols);
      std::iota(f.of.begin(), f.of.end(), 0u);
      f.value = node.in[0];
      it = found.insert(found.end(), std::move(f));
    }
    const engine::LinearUse& linear = node.op->linears[0];
    it->consumers.push_back({n, 0, use, linear.module, linear.input});
  }
  return found;
}

std::vector<Fold> find_folds(const Graph& layer) { return Finder(layer).find(); }

}  // namespace qp::transform
