// Readers of quantization configs, by method: each gives a chooser of schemes.
#pragma once

#include "lib/target/engine.h"

namespace qp::target {

Chooser choose_compressed_tensors(Context& context, const Method& method);
Chooser choose_gptq(Context& context, const Method& method);
Chooser choose_awq(Context& context, const Method& method);
Chooser choose_auto_round(Context& context, const Method& method);
Chooser choose_fp8(Context& context, const Method& method);
Chooser choose_w8a8(Context& context, const Method& method);
Chooser choose_modelopt(Context& context, const Method& method);
Chooser choose_bitsandbytes(Context& context, const Method& method);
Chooser choose_quark(Context& context, const Method& method);
Chooser choose_modelslim(Context& context, const Method& method);
Chooser choose_as_stored(Context& context, const Method& method);  // taken as it lies: not checked

// What the choosers share.

// The scheme of a fused layer or of a layer's experts: `of` tells that of a shard by its name. All
// must agree; else a topic is reported: "experts-disagree"; for other layers `topic` where the
// engine has a rule for it, else "fused-disagree".
std::optional<Scheme> agreed(const Layer& layer, Findings& findings,
                             const std::function<std::optional<Scheme>(const std::string&)>& of,
                             std::string_view topic = "shards-disagree");
// The names that an engine asks about for a layer: of its shards; of experts the first one's.
std::vector<std::string> asked_names(const Layer& layer);

// Members of the config under the first key that is there. Wrong types count as absent.
std::optional<int64_t> int_at(const Json& object, std::initializer_list<const char*> keys);
std::optional<bool> bool_at(const Json& object, std::initializer_list<const char*> keys);
std::string text_at(const Json& object, std::initializer_list<const char*> keys);  // lower case
const Json* list_at(const Json& object, std::initializer_list<const char*> keys);

}  // namespace qp::target
