// A checkpoint changed so that an engine takes it. Values stay, but for modules left out, whose
// values are rounded to the dtype that they had before they were quantized.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>

#include "formats/format.h"

namespace qp {

struct Changes {
  uint64_t group_size = 0;                // of integer codes: scales repeated; 0: as they are
  std::map<std::string, uint64_t> sizes;  // a key of config.json, and what its MLPs are padded to
  std::set<std::string> left_out;         // modules that are written unquantized

  bool empty() const { return group_size == 0 && sizes.empty() && left_out.empty(); }
};

// The store with these changes; what they are is added to `ledger`. Null: some tensor cannot be
// padded. Errors: limit, naming the tensor (regroup() in lib/qmap/grown.h).
std::unique_ptr<Store> fitted(const Store& store, const Changes& changes,
                              std::vector<LedgerEntry>& ledger);

// Inner sizes that `checkpoint` has larger than `base`, by the keys of their configs: what padding
// may have made of it.
std::map<std::string, uint64_t> larger_sizes(const Model& checkpoint, const Model& base);

}  // namespace qp
