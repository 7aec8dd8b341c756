// Checks of stored numbers: what no sound checkpoint holds, and what a sound one rarely does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lib/qmap/store.h"
#include "lib/verify/sample.h"

namespace qp {

enum class Severity : uint8_t { note, warning, error };

struct Finding {
  Severity severity;
  std::string rule;    // short id: "nan-scale", "nan-code" ..
  std::string tensor;
  std::string what;    // "3 scales are NaN (first in row 17)"
  std::string hint = {};  // what to do, or ""
};
std::string_view name_of(Severity severity);  // "note", "warning", "error"

// Codes and scales of a quantized tensor, elements of a float one.
struct NumberStats {
  std::vector<uint64_t> histogram;  // of codes; empty for float tensors
  uint64_t count = 0;               // codes or elements that were read
  uint64_t saturated = 0;           // codes at either end of the range
  uint64_t nonfinite = 0;           // float elements that are NaN or infinite
  float scale_min = 0, scale_max = 0;
};

// One pass over the tensor. Findings:
//   error:   NaN or infinite scale, zero or negative scale (where the family does not define it),
//            NaN code, NaN or infinite element, zero point out of range, global scale not positive;
//   warning: all codes equal, more than 25 % saturated codes, scales of exactly 1.0, subnormal
//            scales (zero to code that flushes them), an all-zero float matrix.
// Rule ids are stable: they name testcases in reports.
// With a sampling, codes and floats are read in part, scales and zero points whole; a tensor whose
// sample has findings is read whole after all, so no finding is about a sample.
std::vector<Finding> check_numbers(const Store& store, const Tensor& tensor, NumberStats* stats = nullptr,
                                   const Sampling& sampling = {});

}  // namespace qp
