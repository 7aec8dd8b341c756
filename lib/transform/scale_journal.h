// What a search over the layers of a model has found so far, beside FILE.partial, for --resume.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "lib/text/windows.h"
#include "lib/transform/transform.h"

namespace qp::transform {

class ScaleJournal {
 public:
  // Reads what a run over the same model, plan and windows left, if it is to be resumed.
  ScaleJournal(const Subject& subject, const Windows& windows);
  // The factors of a layer's folds (each empty or one per channel); null: not known.
  const std::vector<std::vector<float>>* find(size_t layer) const;
  void add(size_t layer, const std::vector<std::vector<float>>& factors);
  // Where it is kept.
  static std::string path(const std::string& partial) { return partial + ".scales"; }

 private:
  std::string path_;
  std::map<size_t, std::vector<std::vector<float>>> layers_;
};

}  // namespace qp::transform
