// Model families: which tensors a model has and how they work together. One family is one file and
// one line in arch.def. Facts: reference/architectures.md.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/arch/config.h"
#include "lib/engine/graph.h"
#include "lib/engine/weights.h"

namespace qp::arch {

class Architecture {
 public:
  virtual ~Architecture() = default;
  // Tokens -> hidden states.
  virtual engine::Graph embedding() const = 0;
  // Hidden -> hidden, of decoder layer i.
  virtual engine::Graph layer(size_t i) const = 0;
  // Hidden -> what the head multiplies.
  virtual engine::Graph final_norm() const = 0;
  // The decoder layer that all names of its tensors begin with: "model.layers.3".
  virtual std::string layer_name(size_t i) const = 0;

  size_t layers = 0, hidden = 0, vocab = 0;
  size_t context = 0;         // longest window that config.json allows; 0: it does not say
  engine::WeightUse head;     // [vocab, hidden]; the embedding where they are tied
  float logit_softcap = 0;    // > 0: logits = cap * tanh(logits / cap)
};

struct Family {
  const char* name;
  std::vector<std::string_view> architectures;  // of config.json
  std::unique_ptr<Architecture> (*make)(const ModelConfig& config,
                                        const engine::WeightSource& weights);
};

std::span<const Family* const> families();
// Whether config.json names an architecture that the engine runs.
bool is_known(std::string_view architecture);
// Errors: input, when no family runs it (naming those that are known) or config.json is wrong.
std::unique_ptr<Architecture> make_architecture(const Model& model,
                                                const engine::WeightSource& weights);

}  // namespace qp::arch
