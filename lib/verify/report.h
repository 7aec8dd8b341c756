// What qverify found, and how it is written down: JSON, JUnit XML, one HTML page.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "lib/base/json.h"
#include "lib/scheme/scheme.h"
#include "lib/verify/compare.h"
#include "lib/verify/eval_bounds.h"
#include "lib/verify/numbers.h"
#include "lib/verify/sample.h"

namespace qp {

// Bounds on every compared tensor that is not ignored. A tensor fails when a value is beyond its
// bound or cannot be told (NaN).
struct Thresholds {
  std::optional<double> min_sqnr, min_cosine, max_mse, max_abs;
  bool any() const { return min_sqnr || min_cosine || max_mse || max_abs; }
};
// One finding ("min-sqnr", "min-cosine", "max-mse", "max-abs") per bound that is not held.
std::vector<Finding> check_thresholds(const Thresholds& bounds, const std::string& tensor,
                                      const TensorErrors& errors);

// Findings that need the other tensors, once all are compared. unrelated: a quantized tensor with
// nothing of the base's (cosine below 0.2) where others have (the upper quartile is above 0.5): an
// expert or a layer in another's place. far-codes: of three bits or more, values that no rounding
// moves so far, unless scales were folded (an unquantized tensor differs); a warning, for gptq may move
// values as far where some inputs are very loud.
struct TensorReport;
std::vector<Finding> check_related(const std::vector<TensorReport>& tensors);

struct TensorReport {
  std::string name;
  std::string module;   // last word of the module: "q_proj"
  int64_t layer = -1;   // number after "layers.", or -1
  std::string stored;   // scheme, ggml type or dtype
  Shape shape;
  uint64_t bytes = 0, elements = 0, saturated = 0;
  uint64_t bits = 0;  // of a stored code; 0 for floats
  uint64_t bytes_read = 0;  // of a sample; else all
  bool quantized = false, ignored = false;
  std::optional<TensorErrors> errors;  // against the base
};

// Codes of all tensors under one scheme; entry k counts code k.
struct CodeHistogram {
  std::string scheme;
  Scheme numbers;  // what code k stands for
  std::vector<uint64_t> counts;
};
// The number code k stands for before scaling (NaN for E4M3's NaN).
double code_value(const Scheme& scheme, size_t k);

struct VerifyReport {
  std::string checkpoint, base;      // as the user named them; base may be ""
  std::string format, architecture;  // of the checkpoint, once it could be opened
  bool strict = false;
  std::vector<std::pair<std::string, std::string>> rules;  // structure checks made: id, what
  std::vector<Finding> findings;
  std::vector<TensorReport> tensors;
  std::vector<CodeHistogram> histograms;
  Thresholds thresholds;
  uint64_t bytes = 0, parameters = 0, base_bytes = 0, base_parameters = 0;
  std::optional<Sampling> sampling;  // the verdict on numbers is of a sample
  uint64_t bytes_read = 0;           // of `bytes`
  std::optional<EvalResult> eval;    // when it was run
  EvalBounds eval_bounds;
  Json target;                      // what an engine will do (--target), or null
  TensorErrors overall, overall_quantized;  // sums over the compared tensors, in the base's order

  size_t count(Severity severity) const;
  bool sound() const { return count(Severity::error) == 0 && (!strict || count(Severity::warning) == 0); }
  double bits_per_weight() const;
  const TensorReport* worst() const;  // lowest SQNR among the compared, null without any
  // Errors first, then warnings, then notes; compared tensors worst first, the others as stored.
  void sort();
};

Json report_json(const VerifyReport& report);
// "5.1 % of 2.2 GB read (a sample of 5 % of the rows, seed 0)", or "".
std::string sample_text(const VerifyReport& report);
std::string report_junit(const VerifyReport& report);
std::string report_html(const VerifyReport& report);

// Writes `report` to `path` as its ending says. Errors: usage (another ending), system.
void write_report(const VerifyReport& report, const std::string& path);
// Refuses endings that write_report does not know, before any work.
void check_report_path(const std::string& path);

// Text safe in XML and HTML, in content and in quoted attributes; what XML cannot hold becomes
// U+FFFD.
std::string escape_xml(std::string_view text);

}  // namespace qp
