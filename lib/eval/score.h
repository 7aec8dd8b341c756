// What a model says about tokens: their likelihood, its first choice, and how far its distribution
// is from another model's. The vocabulary goes by in blocks: no row of logits is ever whole.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/arch/arch.h"
#include "lib/eval/text_windows.h"
#include "lib/stream/stream.h"

namespace qp {

// A model whose Stream has run all layers.
struct StreamedModel {
  const arch::Architecture& arch;
  const WeightSource& weights;
  const Stream& stream;
};

struct TokenScores {
  std::vector<double> nll;    // -log p(token), natural
  std::vector<uint32_t> top;  // the likeliest token; the first of equals
};

struct PairScores {
  TokenScores model, base;
  std::vector<double> kl;  // KL(base || model), in nats; base and kl are empty without a base
};

// What can be said before any layer runs. Errors: usage (vocabularies of different sizes); input (a
// token beyond the vocabulary); limit (a block of the head exceeds `memory`).
void check_scorable(const arch::Architecture& model, const arch::Architecture* base,
                    const std::vector<ScoredToken>& tokens, gemm::Precision precision, uint64_t memory);

// Scores `tokens` under `model`, and against `base` (may be null): sums are f64, over blocks of the
// vocabulary that depend on nothing, so memory and threads change no bit.
// Errors: those of check_scorable(); input (logits that are not finite, naming window and token).
PairScores score_tokens(const StreamedModel& model, const StreamedModel* base,
                        const std::vector<ScoredToken>& tokens, gemm::Precision precision,
                        uint64_t memory, Progress& progress);

}  // namespace qp
