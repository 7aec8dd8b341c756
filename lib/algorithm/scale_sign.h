// The sign that scales may have.
#pragma once

#include "lib/config/algorithms.h"

namespace qp {

// Two's complement has one more number below zero than above. `either`: a scale is negative where
// the largest weight is positive, so that it is the largest weight that gets it (the full range of
// auto-round, and of llama.cpp's Q4_0). For symmetric integers of fewer than 8 bits in groups or
// rows that are quantized without activations: all that engines do with a scale there is multiply.
// Elsewhere scales are positive either way.
enum class ScaleSign { positive, either };
// What the option negative_scales of an algorithm says.
inline ScaleSign scale_sign(const AlgorithmStep& step) {
  return step.flag("negative_scales", true) ? ScaleSign::either : ScaleSign::positive;
}

}  // namespace qp
