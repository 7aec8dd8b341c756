// The kinds of input qload knows, for qload --list-inputs, the man page and tests.
#pragma once

#include <string_view>
#include <vector>

namespace qp {

struct InputKind {
  std::string_view name;
  std::string_view verdict;  // "read", "refused", "named" (recognised; a later version reads it)
  std::string_view note;
};

std::vector<InputKind> input_kinds();      // in order of precedence
std::vector<InputKind> quantized_kinds();  // by quantization method

}  // namespace qp
