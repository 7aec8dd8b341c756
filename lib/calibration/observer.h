// How the range of an input's static scale follows from its statistics.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "lib/base/json.h"

namespace qp {

struct InputSums;

struct Observer {
  enum class Kind {
    max,         // the largest |x|
    percentile,  // the smallest range that holds `percent` of all |x| (histogram)
    mse,         // the range that rounding to `dtype` and clipping spoil least (histogram)
    delayed      // TransformerEngine's delayed scaling: max of the last `history` windows' amax, times
                 // 2^margin
  } kind = Kind::max;
  double percent = 99.99;
  std::string dtype = "int8";  // "int8", "fp8" (E4M3)
  int history = 1024, margin = 0;
};

// Errors: usage, an unknown name.
Observer::Kind observer_from_name(std::string_view name);
std::string_view name_of(Observer::Kind kind);
Json to_json(const Observer& observer);  // only what the kind uses
Observer observer_from_json(const Json& json);
bool needs_histogram(const Observer& observer);

// The range: 0 when nothing was seen. Bins stand for their middle (mse) or upper edge (percentile):
// within 1/128 of the exact answer. Formulas of percentile and mse: NVIDIA's histogram calibrator
// (ModelOpt, calib/histogram.py), over logarithmic bins.
float observe(const InputSums& sums, const Observer& observer);

}  // namespace qp
