// Scales of keys and values: under which names an engine looks for them.
#pragma once

#include "lib/target/engine.h"
#include "lib/target/flags.h"

namespace qp::target {

bool is_kv_scale(std::string_view suffix);

// Topics: kv-scale-dropped, kv-scale-architecture, kv-scale-per-head, kv-scale-lone,
// kv-scale-default.
void check_kv_scales(Context& context, std::string_view method, const Flags& flags,
                     std::vector<Verdict>& verdicts);

}  // namespace qp::target
