// A rule that families share: what is quantized and what the config's list leaves out must be
// complements.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "formats/verify/raw.h"

namespace qp {

struct ListedRule {
  // The suffix of the tensor that a quantized module has, as it is told from a plain one.
  std::function<bool(const std::map<std::string, const RawTensor*>& module)> quantized;
  std::function<bool(const std::string& module)> left_out;
  std::string list;  // "modules_to_not_convert"
};

// Findings: ignored-quantized, not-quantized.
void check_listed(const RawCheckpoint& raw, const ListedRule& rule, std::vector<Finding>& findings);

}  // namespace qp
