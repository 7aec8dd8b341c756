#include "lib/config/algorithms.h"

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "lib/base/error.h"

namespace qp {
namespace {

constexpr AlgorithmOption kNegative = {
    "negative_scales",
    "symmetric integers: a group's largest weight gets the lowest code, whatever its sign (true)"};

const Algorithm kAlgorithms[] = {
    {"rtn", "round to nearest: scales from the range of each group", false, false, {}},
    {"mse",
     "clip search: the scale of each group that rounds its weights with the least error",
     false,
     false,
     {kNegative}},
    {"hqq",
     "half-quadratic: zero points (or scales) that spare outliers, by turns with the codes",
     false,
     false,
     {kNegative}},
    {"imatrix",
     "ggml's types: their searches, weighed with the mean squares of what each column reads",
     false,
     false,
     {}},
    {"clip",
     "clip search by inputs: the scale of each group that spoils the output least",
     true,
     false,
     {kNegative}},
    {"gptq",
     "errors are made up for in the columns that follow, by the inputs' second moments",
     true,
     false,
     {{"damp",
       "what is added to the moments' diagonal, in parts of its mean (0.01; doubled while they "
       "cannot be factored)"},
      {"order", "of columns: group (group-aware, the default), desc_act, none"},
      {"clip", "search each group's scale (true), or take its range"},
      kNegative,
      {"static_groups", "with desc_act: scales are fitted before the walk (false)"},
      {"sweeps",
       "over the codes behind the walk, scales and codes in turn made the best ones as the others "
       "are (0; 4 is plenty: six times as long as without), damped by 0.1 at least"},
      {"alpha",
       "0 to 1: how far weights move towards what the unquantized model's inputs ask for (tokens / "
       "(tokens + 4 channels)); 0: no second pass"}}},
    {"autoround",
     "rounding and ranges of a layer are learned together, by the signs of gradients",
     true,
     false,
     {{"iters", "steps per layer (200); 0: ranges alone, no gradients"},
      {"batch_size", "windows per step (8)"},
      {"lr", "of the roundings (1 / iters)"},
      {"minmax_lr", "of the ranges (as lr)"},
      {"minmax", "learn the ranges, too (true)"},
      kNegative,
      {"best",
       "keep the best state measured, not the last (true); measured at 1/2, 3/4 and all of 50 "
       "iters or more, else at the end"},
      {"seed", "of the order of windows (42)"}}},
    {"rotate",
     "first: Hadamard rotations, fused into the weights, spread outliers",
     false,
     true,
     {{"seed", "of the signs (0)"}, {"values", "rotate the values of attention, too (true)"}}},
    {"smoothquant",
     "first: outliers of activations move into the weights that read them",
     false,
     true,
     {{"alpha",
       "how much of them moves, 0 to 1 (0.8 behind norms; behind linears 0.5, or 0.9 for static "
       "scales)"}}},
    {"awq",
     "first: channels with large inputs are scaled up before rounding; then clip",
     true,
     true,
     {{"ratios", "candidates of the search (20)"},
      {"duo", "weigh with the weights' shares, too (true)"},
      {"tokens", "that outputs are compared over (16384)"},
      {"pre_scale",
       "where no weight before can take factors, store them as pre_quant_scale (false)"}}},
};

std::string short_number(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", x);
  return text;
}

std::vector<std::string> split(std::string_view text, char at) {
  std::vector<std::string> parts(1);
  for (char c : text) {
    if (c == at)
      parts.emplace_back();
    else
      parts.back() += c;
  }
  return parts;
}

Error wrong(const AlgorithmStep& step, std::string_view key, const std::string& expected) {
  return usage_error(std::string(step.algorithm->name) + ": " + std::string(key) + " is '" +
                     printable(step.options.find(key)->second) + "' (expected " + expected + ")");
}

}  // namespace

std::span<const Algorithm> algorithms() { return kAlgorithms; }

const Algorithm& find_algorithm(std::string_view name) {
  std::vector<std::string_view> names;
  for (const Algorithm& a : kAlgorithms) {
    if (a.name == name) return a;
    names.push_back(a.name);
  }
  std::string all, hint = did_you_mean(name, names);
  for (std::string_view n : names) all += (all.empty() ? "" : ", ") + std::string(n);
  throw usage_error("unknown algorithm '" + printable(name) + "' (expected " + all + ")")
      .hint(hint);
}

double AlgorithmStep::number(std::string_view key, double otherwise, double lo, double hi) const {
  auto it = options.find(key);
  if (it == options.end()) return otherwise;
  double x = 0;
  const char* end = it->second.data() + it->second.size();
  auto [stop, error] = std::from_chars(it->second.data(), end, x);
  if (error != std::errc() || stop != end || !(x >= lo && x <= hi)) {
    throw wrong(*this, key, "a number from " + short_number(lo) + " to " + short_number(hi));
  }
  return x;
}

bool AlgorithmStep::flag(std::string_view key, bool otherwise) const {
  constexpr std::string_view kWords[] = {"false", "true"};
  return word(key, kWords, otherwise ? 1 : 0) == 1;
}

size_t AlgorithmStep::word(std::string_view key, std::span<const std::string_view> words,
                           size_t otherwise) const {
  auto it = options.find(key);
  if (it == options.end()) return otherwise;
  auto found = std::ranges::find(words, it->second);
  if (found != words.end()) return static_cast<size_t>(found - words.begin());
  std::string all;
  for (std::string_view w : words) all += (all.empty() ? "" : " or ") + std::string(w);
  throw wrong(*this, key, all);
}

std::vector<AlgorithmStep> parse_algorithm(std::string_view text) {
  std::vector<AlgorithmStep> steps;
  for (const std::string& part : split(text, ',')) {
    std::vector<std::string> words = split(part, ':');
    AlgorithmStep step{&find_algorithm(words[0]), {}};
    for (size_t i = 1; i < words.size(); ++i) {
      size_t eq = words[i].find('=');
      std::string key = words[i].substr(0, eq);
      std::vector<std::string_view> known;
      for (const AlgorithmOption& o : step.algorithm->options) known.push_back(o.name);
      if (eq == std::string::npos || std::ranges::find(known, key) == known.end()) {
        std::string all;
        for (std::string_view k : known) all += (all.empty() ? "" : ", ") + std::string(k);
        throw usage_error(words[0] + ": unknown option '" + printable(words[i]) +
                          "' (expected KEY=VALUE" +
                          (known.empty() ? "; it has none)" : ", KEY one of " + all + ")"))
            .hint(did_you_mean(key, known));
      }
      step.options[key] = words[i].substr(eq + 1);
    }
    steps.push_back(std::move(step));
  }
  for (size_t i = 0; i < steps.size(); ++i) {
    const Algorithm& a = *steps[i].algorithm;
    if (i + 1 < steps.size() && !a.edits) {
      throw usage_error("'" + printable(text) + "': '" + std::string(a.name) +
                        "' chooses codes already; nothing can follow it");
    }
    for (size_t k = 0; k < i; ++k) {
      if (steps[k].algorithm == &a)
        throw usage_error("'" + printable(text) + "' names " + std::string(a.name) + " twice");
    }
    // The table has steps in the order in which they are taken.
    if (i > 0 && a.edits && &a < steps[i - 1].algorithm) {
      throw usage_error("'" + printable(text) + "': " + std::string(a.name) + " is taken before " +
                        std::string(steps[i - 1].algorithm->name))
          .hint("name it first");
    }
  }
  if (const Algorithm& last = *steps.back().algorithm; last.edits) {
    steps.push_back({&find_algorithm(last.name == "awq" ? "clip" : "rtn"), {}});
  }
  return steps;
}

}  // namespace qp
