// What an evaluation measured: plain numbers, for terminals and reports.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace qp {

// A mean and its standard error.
struct Estimate {
  double value = 0, error = 0;
};

struct Perplexity {
  uint64_t tokens = 0;
  Estimate nll;  // natural logarithm, per token
  Estimate ppl;  // exp(nll); its error to first order
};

// The base's distribution against the checkpoint's, token by token.
struct Divergence {
  Estimate kl;  // KL(base || checkpoint), nats
  double kl_median = 0, kl_max = 0;
  // 90, 95, 99, 99.9 %: between two values, linearly.
  static constexpr std::array<double, 4> kPercents = {90, 95, 99, 99.9};
  std::array<double, 4> kl_percentiles{};
  Estimate top1;       // share of tokens for which both have the same first choice
  Estimate log_ratio;  // ln(ppl / base ppl); paired, so smaller than the errors of both
  Estimate ratio;      // ppl / base ppl
  double correlation = 0;  // of the two models' nll
  Estimate rms_dp;     // of the correct token's probability: root of the mean squared difference
  double mean_dp = 0;  // checkpoint - base
};

// Hidden states after a layer, checkpoint against base, over all tokens.
struct LayerError {
  double mse = 0, relative = 0, cosine = 0;  // relative: |a - b| / |b|
};

// Answers picked by likelihood.
struct ChoiceScore {
  std::vector<double> log_likelihood;  // of each choice
  std::vector<size_t> bytes;           // length of each choice
  size_t answer = 0, picked = 0, picked_norm = 0;
};
struct Choices {
  std::string file;
  Estimate accuracy, accuracy_norm;  // by sum, and by sum / bytes
  std::optional<Estimate> base_accuracy, base_accuracy_norm;
  std::vector<ChoiceScore> items, base_items;
};

struct EvalResult {
  std::string text;         // what was read, for people
  std::string tokens_hash;  // XXH3 of the windows: equal texts, equal cuts
  std::string definition;   // "hf", "llama.cpp"
  std::string compute;      // "bf16", "f32"
  size_t seqlen = 0, stride = 0, windows = 0, left_out = 0;
  std::vector<std::pair<std::string, size_t>> activations;  // simulated: what, linears
  std::vector<std::string> not_simulated;                   // why
  std::optional<Perplexity> perplexity, base_perplexity;
  std::optional<Divergence> divergence;
  std::vector<LayerError> layers;
  // For charts. Mean KL by position in the window; and tokens by KL, ten bins a decade.
  std::vector<std::pair<size_t, double>> kl_by_position;
  std::vector<std::pair<double, uint64_t>> kl_histogram;  // lower edge, tokens
  std::optional<Choices> choices;
};

}  // namespace qp
