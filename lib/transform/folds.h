// Where factors can be moved inside a decoder layer: what makes some channels is divided by them,
// all that read those channels are multiplied, and the layer computes what it did. Found in the
// graph, so for every architecture: norm -> linears (routers and experts among them), v -> o, up ->
// down.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "lib/engine/graph.h"

namespace qp::transform {

// A matrix that reads the channels.
struct Consumer {
  size_t node = 0, weight = 0;  // op->weights[weight] of the node
  engine::WeightUse use;
  std::string module, input;  // as observers know it (engine::LinearUse)
};

struct Fold {
  // What makes the channels; nothing that could take factors: a pre_scale does.
  enum class Kind { norm, linear, none } kind = Kind::norm;
  engine::WeightUse producer;
  std::optional<engine::WeightUse> bias;  // of the producer
  float plus = 0;                         // a norm multiplies by this + its weight (Gemma: 1)
  size_t channels = 0;                    // of the producer: elements of a norm, rows of a linear
  // Of the value that is read, by channel: which of the producer's it is. Several may be one.
  std::vector<uint32_t> of;
  engine::Value value = 0;  // that is read; unused inside experts
  bool inside = false;      // an expert: up -> down
  bool cached = false;      // on the way they are values in the K/V cache: v -> o
  std::vector<Consumer> consumers;

  // A factor per channel of the producer -> per channel of the value.
  std::vector<float> spread(const std::vector<float>& factors) const;
};

// In the order of the graph. Values with a reader that is no matrix (residuals) have no fold.
std::vector<Fold> find_folds(const engine::Graph& layer);
// Of the layer's linears, those that no fold of `folds` has: a fold of kind `none` for each value that
// they read. Whole matrices stored [out, in].
std::vector<Fold> find_unfolded(const engine::Graph& layer, const std::vector<Fold>& folds);

}  // namespace qp::transform
