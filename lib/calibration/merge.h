// Puts the statistics of several runs of one model over different text together.
#pragma once

#include <memory>
#include <vector>

#include "lib/calibration/observer.h"
#include "lib/pipe/handover.h"
#include "lib/qmap/store.h"

namespace qp {

// What one run over all windows, in this order, would have found, to the bit. The output refers to
// the first store's model. Errors: usage, when models, modules or options differ.
Hash128 merge_calibrations(const std::vector<const Store*>& stores, const Json& provenance,
                           QmapOutput& output);

}  // namespace qp
