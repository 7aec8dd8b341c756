// What a search over the layers of a model has found so far, beside FILE.partial, for --resume.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "lib/text/windows.h"
#include "lib/transform/folds.h"
#include "lib/transform/transform.h"

namespace qp::transform {

class ScaleJournal {
 public:
  using Factors = std::vector<std::vector<float>>;  // of each fold

  // Reads what a run over the same model, plan and windows left, if it is to be resumed.
  ScaleJournal(const Subject& subject, const Windows& windows);
  // The factors of a layer's folds (each empty or one per channel); none: not known, or of another
  // shape than these folds.
  std::optional<Factors> find(size_t layer, const std::vector<Fold>& folds) const;
  void add(size_t layer, const Factors& factors);
  // Where it is kept.
  static std::string path(const std::string& partial) { return partial + ".scales"; }

 private:
  std::string path_;
  std::map<size_t, Factors> layers_;
};

}  // namespace qp::transform
