// The checkpoint as the writer of a family takes it.
#pragma once

#include <memory>

#include "formats/format.h"

namespace qp {

// With quantized stacks of experts apart where the family has experts apart, and GPT-2's quantized
// Conv1D turned to [out, in] where its engines expect that. Null: nothing to do.
// Errors: limit, a Conv1D for a family whose readers would take it for [in, out].
std::unique_ptr<Store> prepared(const Store& store, const Format& format);

}  // namespace qp
