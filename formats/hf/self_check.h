// Reads back what was written, through the readers that any checkpoint goes through, and compares
// it with its source: the check is the inverse of the writing, not a repetition of it.
#pragma once

#include <string>

#include "formats/format.h"
#include "lib/base/progress.h"

namespace qp {

// A companion's bytes as rows of one: it may be the weights of a text encoder.
Part bytes_of(const Companion& companion);

// Every tensor is there, with equal codes, scales, zero points or elements; no scale is NaN,
// infinite, zero or negative, no code is NaN; companions are equal byte for byte.
// Errors: defect, naming the tensor.
void self_check(const Store& store, const ExportPlan& plan, const std::string& directory,
                Progress& progress);

}  // namespace qp
