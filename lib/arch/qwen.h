// What the dense Qwen families share: layers from max_window_layers on slide, if any do.
#pragma once

#include "lib/arch/decoder.h"

namespace qp::arch {

class Qwen : public Decoder {
 public:
  Qwen(const ModelConfig& config, const engine::WeightSource& weights, const Traits& traits)
      : Decoder(config, weights, traits) {
    bool slides = config.flag("use_sliding_window", false);
    size_t from = config.count("max_window_layers", 28);
    slide(slides ? config.count("sliding_window", 4096) : 0,
          [&](size_t i) { return slides && i >= from; });
  }
};

}  // namespace qp::arch
