// The algorithms that choose codes, as people name them: what each is, what it needs, its options.
#pragma once

#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qp {

struct AlgorithmOption {
  std::string_view name, summary;  // the summary says the default
};

struct Algorithm {
  std::string_view name, summary;
  bool runs_model;  // needs the token windows that qcalibrate stored
  bool edits;       // changes the model before codes are chosen (lib/transform)
  std::vector<AlgorithmOption> options;
};

std::span<const Algorithm> algorithms();
// Errors: usage, an unknown name, with "did you mean".
const Algorithm& find_algorithm(std::string_view name);

// One step of what a rule or `-a` names: NAME[:KEY=VALUE[:KEY=VALUE ..]]; steps are separated by ','.
// Steps that edit the model come first; then one that chooses codes.
struct AlgorithmStep {
  const Algorithm* algorithm = nullptr;
  std::map<std::string, std::string, std::less<>> options;

  // Options with their defaults. Errors: usage, naming the key, for what is no number in [lo, hi],
  // no boolean, none of the words.
  double number(std::string_view key, double otherwise, double lo, double hi) const;
  bool flag(std::string_view key, bool otherwise) const;
  size_t word(std::string_view key, std::span<const std::string_view> words, size_t otherwise) const;
};
// The last step chooses codes: where none is named, `clip` after awq, else `rtn`.
// Errors: usage (unknown name or key, nothing, a step behind the one that chooses codes, one twice).
std::vector<AlgorithmStep> parse_algorithm(std::string_view text);

}  // namespace qp
