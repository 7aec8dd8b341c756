// NVFP4's second stage: engines have one number for a linear that they fuse, checkpoints one for
// each of its members.
#pragma once

#include "lib/target/engine.h"

namespace qp::target {

// Topics, where members of a fused linear (gate and up of an expert) have different ones:
// global-scales for compressed-tensors, global-scales-a16 without activations where the engine
// tells them apart, global-scales-modelopt, and global-scales-experts,
// global-scales-experts-modelopt. Nothing where Checkpoint::scalar has no values.
void check_second_stage(Context& context, const Layer& layer, const Scheme& scheme);

}  // namespace qp::target
