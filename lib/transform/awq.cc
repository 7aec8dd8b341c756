#include "lib/transform/steps.h"
#include "lib/base/error.h"
namespace qp::transform {
Edits awq(const Subject&) { throw usage_error("awq: not yet"); }
}
