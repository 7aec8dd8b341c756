// Rotations that need nothing at run time (QuaRot, SpinQuant without "had";
// reference/int4-formats.md 2.9, steps 0 to 2).
#include <algorithm>
#include <set>

#include "lib/arch/arch.h"
#include "lib/base/error.h"
#include "lib/engine/ops/attention.h"
#include "lib/engine/ops/elementwise.h"
#include "lib/engine/ops/embedding.h"
#include "lib/engine/ops/linear.h"
#include "lib/engine/ops/moe.h"
#include "lib/engine/ops/norm.h"
#include "lib/transform/steps.h"

namespace qp::transform {
namespace {

using engine::Expert, engine::Form, engine::Graph, engine::Linear, engine::Node, engine::Norm,
    engine::Value, engine::WeightUse;

uint64_t seed_of(const AlgorithmStep& step) {
  return static_cast<uint64_t>(step.number("seed", 0, 0, 4294967295.0));
}

[[noreturn]] void refuse(const Subject& subject, const std::string& tensor,
                         const std::string& why) {
  throw usage_error("rotate: " + why).file(subject.store.label()).tensor(tensor);
}

// What also reads or writes hidden states, and is not run here.
void refuse_other_readers(const Subject& subject) {
  for (const PlanEntry& e : subject.plan.entries) {
    if (e.info.kind == ModuleKind::vision) {
      refuse(subject, e.tensor->name,
             "a tower of another modality writes to the hidden states unrotated");
    }
    if (e.info.kind == ModuleKind::mtp) {
      refuse(subject, e.tensor->name,
             "multi-token-prediction layers would read rotated hidden states");
    }
  }
}

// R1: everything that writes to the hidden states or reads them.
class Hidden {
 public:
  Hidden(const Subject& subject, uint64_t seed)
      : subject_(subject), weights_(subject.store),
        model_(arch::make_architecture(subject.store.model(), weights_)),
        turn_(std::make_shared<Rotation>(model_->hidden, 1, seed)) {}

  Edits run() {
    embedding();
    for (size_t i = 0; i < model_->layers; ++i) layer(i);
    head();
    edits_.drop_statistics();
    return std::move(edits_);
  }

 private:
  [[noreturn]] void refuse(const std::string& tensor, const std::string& why) const {
    qp::transform::refuse(subject_, tensor, why);
  }

  void embedding() {
    Graph g = model_->embedding();
    if (g.nodes().size() != 1) {
      refuse(g.nodes().back().op->weights.empty() ? "" : g.nodes().back().op->weights[0].tensor,
             "embeddings that are more than a table cannot be rotated");
    }
    WeightUse table = g.nodes()[0].op->weights[0];
    read_by({table.tensor, Form::matrix, table.rows, table.cols}, {});
  }

  // Columns turn, after a norm's weight went into them.
  void read_by(const WeightUse& use, std::vector<float> gamma) {
    edits_.add(use, {.rows = {}, .cols = std::move(gamma), .turn_rows = {}, .turn_cols = turn_});
  }
  void written_by(const WeightUse& use) {
    edits_.add(use, {.rows = {}, .cols = {}, .turn_rows = turn_, .turn_cols = {}});
  }
  void written_by_bias(WeightUse use) {
    edits_.add(use, {.rows = {}, .cols = {}, .turn_rows = {}, .turn_cols = turn_});
  }

  // The weight of a norm, which becomes 1.
  std::vector<float> take_gamma(const Norm& norm) {
    const WeightUse& use = norm.weights[0];
    if (norm.spec().kind == engine::NormSpec::Kind::layer) {
      refuse(use.tensor,
             "LayerNorm takes the mean off, which a rotation moves (RMSNorm models only)");
    }
    if (use.cols != model_->hidden) refuse(use.tensor, "is a norm of parts of the hidden states");
    float plus = norm.spec().kind == engine::NormSpec::Kind::rms_plus_one ? 1 : 0;
    std::vector<float> gamma = weights_.load(use, gemm::Precision::f32).values, inverse;
    for (float& g : gamma) {
      g += plus;
      if (g == 0) refuse(use.tensor, "a weight of this norm is 0");
      inverse.push_back(1 / g);
    }
    edits_.add(
        use,
        {.rows = {}, .cols = std::move(inverse), .plus = plus, .turn_rows = {}, .turn_cols = {}});
    return gamma;
  }

  void layer(size_t index) {
    Graph g = model_->layer(index);
    std::set<Value> hidden = {g.input()};
    std::set<Value> normed;
    std::map<Value, std::vector<float>> gamma;
    for (const Node& node : g.nodes()) {
      if (const auto* norm = dynamic_cast<const Norm*>(node.op.get());
          norm && hidden.contains(node.in[0])) {
        gamma[node.out] = take_gamma(*norm);
        continue;
      }
      if (dynamic_cast<const engine::Add*>(node.op.get()) != nullptr &&
          hidden.contains(node.in[0])) {
        branch(g, node.in[1]);
        hidden.insert(node.out);
        continue;
      }
      reader(node, hidden, gamma);
    }
  }

  void reader(const Node& node, const std::set<Value>& hidden,
              const std::map<Value, std::vector<float>>& gamma) {
    if (dynamic_cast<const engine::Zeros*>(node.op.get()) != nullptr) return;
    for (size_t i = 0; i < node.in.size(); ++i) {
      auto normed = gamma.find(node.in[i]);
      if (!hidden.contains(node.in[i]) && normed == gamma.end()) continue;
      std::vector<float> scale = normed == gamma.end() ? std::vector<float>() : normed->second;
      bool expert = dynamic_cast<const Expert*>(node.op.get()) != nullptr;
      if (i != 0 || (!expert && dynamic_cast<const Linear*>(node.op.get()) == nullptr)) {
        refuse(node.op->weights.empty() ? "" : node.op->weights[0].tensor,
               "an op that is no matrix reads the hidden states");
      }
      size_t n = node.op->linears.size();
      for (size_t k = 0; k < (expert ? n - 1 : n); ++k) read_by(node.op->weights[k], scale);
    }
  }

  // What is added to the hidden states, back to the matrices that write it.
  void branch(const Graph& g, Value v) {
    const Node& node = g.nodes()[v - 1];
    if (dynamic_cast<const engine::Zeros*>(node.op.get()) != nullptr) return;
    if (dynamic_cast<const engine::Add*>(node.op.get()) != nullptr) {
      branch(g, node.in[0]);
      return branch(g, node.in[1]);
    }
    if (dynamic_cast<const engine::SigmoidScale*>(node.op.get()) != nullptr)
      return branch(g, node.in[0]);
    if (dynamic_cast<const Linear*>(node.op.get()) != nullptr) {
      written_by(node.op->weights[0]);
      if (node.op->weights.size() > 1) written_by_bias(node.op->weights[1]);
      return;
    }
    if (dynamic_cast<const Expert*>(node.op.get()) != nullptr) {
      size_t n = node.op->linears.size();
      written_by(node.op->weights[n - 1]);
      if (node.op->weights.size() > n) written_by_bias(node.op->weights[2 * n - 1]);
      return branch(g, node.in[2]);
    }
    refuse(node.op->weights.empty() ? "" : node.op->weights[0].tensor,
           "stands between the matrices that write the hidden states and these (a norm after a "
           "block)");
  }

  void head() {
    Graph g = model_->final_norm();
    std::vector<float> gamma;
    if (!g.nodes().empty()) gamma = take_gamma(dynamic_cast<const Norm&>(*g.nodes()[0].op));
    WeightUse use = model_->head;
    std::string table = model_->embedding().nodes()[0].op->weights[0].tensor;
    if (use.tensor == table) {  // tied: they differ from now on
      use.tensor = "lm_head.weight";
      edits_.untie(table, use.tensor);
    }
    read_by(use, std::move(gamma));
  }

  const Subject& subject_;
  engine::WeightSource weights_;
  std::unique_ptr<arch::Architecture> model_;
  std::shared_ptr<const Rotation> turn_;
  Edits edits_;
};

}  // namespace

Edits rotate_hidden(const Subject& subject) {
  refuse_other_readers(subject);
  return Hidden(subject, seed_of(subject.step("rotate"))).run();
}

// R2: the values of each key/value head, and the columns of the matrix that reads what attention
// makes of them. Left out where the rows of a head's values do not lie together (DeepSeek).
Edits rotate_values(const Subject& subject) {
  AlgorithmStep step = subject.step("rotate");
  Edits edits;
  if (!step.flag("values", true)) return edits;
  engine::WeightSource weights(subject.store);
  auto model = arch::make_architecture(subject.store.model(), weights);
  for (size_t layer = 0; layer < model->layers; ++layer) {
    Graph g = model->layer(layer);
    for (const Fold& fold : find_folds(g)) {
      if (fold.inside || fold.kind != Fold::Kind::linear) continue;
      const auto* attention =
          dynamic_cast<const engine::Attention*>(g.nodes()[fold.value - 1].op.get());
      if (attention == nullptr) continue;
      size_t dim = attention->spec().value_dim, first = fold.of.front(),
             n = fold.of.back() + 1 - first;
      bool together =
          n == attention->spec().kv_heads * dim && first % n == 0 && !fold.producer.transposed;
      if (!together) continue;
      uint64_t seed = seed_of(step) + 1 + layer;
      auto rows = std::make_shared<Rotation>(dim, n / dim, seed);
      auto cols = std::make_shared<Rotation>(dim, fold.of.size() / dim, seed);
      WeightUse values = fold.producer;
      values.first_row += first;
      values.rows = n;
      edits.add(values, {.rows = {}, .cols = {}, .turn_rows = rows, .turn_cols = {}});
      if (fold.bias) {
        WeightUse bias{fold.bias->tensor, Form::values, 1, n, false, true, first / n};
        edits.add(bias, {.rows = {}, .cols = {}, .turn_rows = {}, .turn_cols = rows});
      }
      for (const Consumer& c : fold.consumers)
        edits.add(c.use, {.rows = {}, .cols = {}, .turn_rows = {}, .turn_cols = cols});
    }
  }
  return edits;
}

}  // namespace qp::transform
