// What is done to a model's tensors before codes are chosen, such that the model computes what it
// did: channels multiplied by factors, or rotated. And the model with that done.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "lib/base/progress.h"
#include "lib/engine/weights.h"
#include "lib/qmap/store.h"
#include "lib/transform/hadamard.h"

namespace qp::transform {

// Of one matrix or vector: value = (value + plus) * rows[r] * cols[c] - plus_after, then rotated.
// Empty factors are 1, null rotations none. Rows are the output channels of a linear, however the
// tensor is stored; a vector is one row, a bias one too.
struct Edit {
  std::vector<float> rows, cols;
  float plus = 0;
  std::shared_ptr<const Rotation> turn_rows, turn_cols;
};

class Edits {
 public:
  // Edits of one use of a tensor (an expert of a stack is one): factors multiply, and come before
  // the rotations. Errors: defect, sizes that do not fit.
  void add(const engine::WeightUse& use, Edit edit);
  // The input of a matrix, a whole tensor [out, in], is multiplied by `scale` [in], numbers of its dtype,
  // when it is used; the matrix is divided by it. Only what is quantized can keep it.
  void pre_scale(const engine::WeightUse& use, std::vector<float> scale);
  // The channels of what these modules read are multiplied by `factors`: so are their statistics.
  void inputs(const std::vector<std::string>& modules, std::vector<float> factors);
  // Statistics cannot be carried over: they are dropped, token windows stay.
  void drop_statistics() { drop_ = true; }
  // Those of keys and values alone.
  void drop_caches() { drop_caches_ = true; }
  // The head becomes a tensor of its own, `to`: what `from`, the token table, was before edits.
  void untie(const std::string& from, const std::string& to) { untied_ = {from, to}; }

  bool empty() const { return edits_.empty(); }
  // Names everything that is done, for what has to know whether two runs do the same.
  Hash128 hash() const;

 private:
  friend class Editor;
  struct Block {
    engine::WeightUse use;
    Edit edit;
  };
  std::map<std::string, std::vector<Block>> edits_;   // by tensor
  std::map<std::string, std::vector<float>> inputs_;  // by module
  std::map<std::string, std::vector<float>> pre_scales_;  // by tensor
  std::pair<std::string, std::string> untied_;
  bool drop_ = false, drop_caches_ = false;
};

// The store's model with the edits done, in a file of its own in the spill directory; what is not
// edited is referred to. Values are rounded to the dtype of their tensor once. Reads a block of
// rows at a time; the whole of a matrix (an expert's in a stack) only where its rows are rotated:
// `memory` bytes are allowed for that. Errors: limit, too little memory, a tensor that is
// quantized, a number that is too large for its dtype; as Store.
std::unique_ptr<Store> edited(const Store& store, const Edits& edits, uint64_t memory,
                              Progress& progress);

}  // namespace qp::transform
