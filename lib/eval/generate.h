// Text that a model writes, token by token: one pass over the weights for each.
#pragma once

#include <functional>
#include <vector>

#include "lib/eval/measure.h"

namespace qp {

struct GenerateOptions {
  gemm::Precision precision = gemm::Precision::bf16;
  uint64_t memory = uint64_t{4} << 30;
  size_t max_new_tokens = 64;
  double temperature = 0;  // 0: the likeliest token; the first of equals
  double top_p = 1;        // draw among the likeliest tokens that together reach this probability
  uint64_t seed = 0;
  std::vector<int32_t> stop;  // tokens that end the text
};

// Continues `prompt` (not empty). `on_token` sees each new token, a stopping one too, and returns
// false to end. Keys and values are kept; so are the weights, ready for products, where they fit
// into `memory`. Errors: input (a token beyond the vocabulary, logits that are not finite).
std::vector<int32_t> generate(RunnableModel& model, const std::vector<int32_t>& prompt,
                              const GenerateOptions& options,
                              const std::function<bool(int32_t)>& on_token);

// The next token for logits, `uniform` in [0, 1) deciding where temperature > 0.
size_t pick_token(std::span<const float> logits, double temperature, double top_p, double uniform);

}  // namespace qp
