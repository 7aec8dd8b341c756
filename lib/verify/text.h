// Numbers in reports.
#pragma once

#include <cmath>
#include <cstdio>
#include <string>

#include "lib/base/json.h"

namespace qp {

inline std::string number(double v) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", v);
  return text;
}

// NaN and infinities have no JSON: they become null.
inline Json finite(double v) { return std::isfinite(v) ? Json(v) : Json(); }

}  // namespace qp
