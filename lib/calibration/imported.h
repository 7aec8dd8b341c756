// Statistics that somebody else collected, put beside a model.
#pragma once

#include <vector>

#include "lib/calibration/collector.h"
#include "lib/pipe/handover.h"
#include "lib/qmap/store.h"

namespace qp {

// The output refers to the store's model and holds these sums in place of any calibration, and no token
// windows. Ranges are not known: schemes that need them are refused later.
Hash128 import_statistics(const Store& store, const std::vector<InputSums>& inputs, const Json& described,
                          const Json& provenance, QmapOutput& output);

}  // namespace qp
