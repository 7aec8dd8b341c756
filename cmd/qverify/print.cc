// What qverify prints for people.
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <map>

#include "cmd/qverify/verify.h"
#include "cmd/tool/table.h"

namespace qp {
namespace {

constexpr size_t kPerRule = 10;  // findings of one rule that are printed; reports have all

std::string number(double v, const char* format) {
  char text[32];
  std::snprintf(text, sizeof text, format, v);
  return text;
}

void print_findings(const VerifyReport& r, std::ostream& out, Severity least) {
  std::map<std::pair<std::string, Severity>, size_t> seen, all;
  for (const Finding& f : r.findings) ++all[{f.rule, f.severity}];
  for (const Finding& f : r.findings) {
    if (f.severity < least) continue;
    std::pair key(f.rule, f.severity);
    size_t n = ++seen[key];
    if (n > kPerRule) {
      if (n == all[key]) out << name_of(f.severity) << ": " << f.rule << ": and " << n - kPerRule << " more; --report has all\n";
      continue;
    }
    out << name_of(f.severity) << ": " << f.rule << ": " << (f.tensor.empty() ? "" : printable(f.tensor) + ": ")
        << f.what << (f.hint.empty() ? "" : "; " + f.hint) << "\n";
  }
}

void print_table(const VerifyReport& r, size_t top) {
  Table table({"tensor", "stored", "SQNR dB", "cosine", "MSE", "max abs"}, {false, false, true, true, true, true});
  size_t compared = 0, exact = 0;
  for (const TensorReport& t : r.tensors) {
    if (!t.errors) continue;
    const TensorErrors& e = *t.errors;
    exact += e.identical() ? 1u : 0u;
    if (compared++ >= top) continue;
    table.add({printable(t.name), t.stored, db_text(e.sqnr_db()), number(e.cosine(), "%.6f"), number(e.mse(), "%.3e"),
               number(e.max_abs, "%.3e")});
  }
  if (compared == 0) return;
  if (top > 0) table.print(std::cout);
  std::cout << compared << " tensors compared, " << exact << " exact\n";
}

void print_choices(const Choices& c) {
  auto line = [](const char* name, const Estimate& e, const std::optional<Estimate>& base) {
    std::cout << name << ": " << estimate_text(e);
    if (base) std::cout << " (base " << estimate_text(*base) << ")";
    std::cout << "\n";
  };
  std::cout << "choices: " << c.items.size() << " items of " << printable(c.file) << "\n";
  line("  acc", c.accuracy, c.base_accuracy);
  line("  acc_norm", c.accuracy_norm, c.base_accuracy_norm);
}

void print_evaluation(const EvalResult& e) {
  std::string simulated;
  for (const auto& [what, n] : e.activations) simulated += "; activations " + what + " in " + std::to_string(n) + " linears";
  if (e.perplexity) {
    std::cout << "evaluation: " << printable(e.text) << ": " << e.windows << " windows of " << e.seqlen << " tokens, "
              << e.perplexity->tokens << " scored (" << e.definition << "), " << e.compute << simulated << "\n"
              << "  perplexity: " << estimate_text(e.perplexity->ppl) << "\n";
  }
  if (e.divergence) {
    const Divergence& d = *e.divergence;
    std::cout << "  base's:     " << estimate_text(e.base_perplexity->ppl) << "; ratio " << estimate_text(d.ratio) << "\n"
              << "  KL:         " << estimate_text(d.kl) << "; median " << number(d.kl_median, "%.4g");
    for (size_t i = 0; i < d.kPercents.size(); ++i) {
      std::cout << ", " << number(d.kPercents[i], "%g") << "% " << number(d.kl_percentiles[i], "%.4g");
    }
    std::cout << ", max " << number(d.kl_max, "%.4g") << "\n"
              << "  top-1:      " << estimate_text({100 * d.top1.value, 100 * d.top1.error}) << " % alike; RMS of p(token) "
              << estimate_text({100 * d.rms_dp.value, 100 * d.rms_dp.error}) << " %\n";
  }
  if (!e.layers.empty()) {
    auto worst = std::ranges::max_element(e.layers, {}, &LayerError::relative);
    std::cout << "  hidden states: relative error " << number(e.layers.back().relative, "%.4g") << " after the last layer, worst "
              << number(worst->relative, "%.4g") << " after layer " << worst - e.layers.begin() << "\n";
  }
  if (e.choices) print_choices(*e.choices);
}

}  // namespace

void VerifyCommand::print(Tool& tool) const {
  const VerifyReport& r = report_;
  if (tool.options.json) {
    std::cout << report_json(r).dump(2, ' ', false, Json::error_handler_t::replace) << "\n";
    return;
  }
  if (tool.options.quiet) {
    print_findings(r, std::cerr, r.strict ? Severity::warning : Severity::error);
    return;
  }
  print_findings(r, std::cout, Severity::note);
  print_table(r, top_);
  auto bytes = static_cast<double>(r.bytes), before = static_cast<double>(r.base_bytes);
  if (r.bytes > 0) {
    std::cout << "size: " << (r.base_bytes > 0 ? human_bytes(before) + " -> " : "") << human_bytes(bytes);
    if (r.base_bytes > r.bytes) std::cout << " (" << number(before / bytes, "%.2f") << " x smaller)";
    if (r.base_bytes > 0 && r.base_bytes < r.bytes) std::cout << " (" << number(bytes / before, "%.2f") << " x larger)";
    std::cout << ", " << number(r.bits_per_weight(), "%.2f") << " bits per weight\n";
  }
  if (const TensorReport* w = r.worst()) {
    std::cout << "SQNR: " << db_text(r.overall.sqnr_db()) << " dB over all";
    if (r.overall_quantized.count > 0) std::cout << ", " << db_text(r.overall_quantized.sqnr_db()) << " dB over the quantized";
    std::cout << "; worst " << db_text(w->errors->sqnr_db()) << " dB: " << printable(w->name) << "\n";
  }
  if (r.eval) print_evaluation(*r.eval);
  target_.print();
  if (r.sampling) std::cout << "sample: " << sample_text(r) << "; the verdict is of this sample\n";
  const char* sound = r.sampling ? "sound in the sample" : "sound";
  std::cout << printable(r.checkpoint) << ": " << (r.sound() ? sound : "FAILED") << ": "
            << (r.target.is_null() ? std::to_string(r.tensors.size()) + " tensors, " : "")
            << r.count(Severity::error) << " errors, " << r.count(Severity::warning) << " warnings, "
            << r.count(Severity::note) << " notes" << (r.strict ? " (strict)" : "") << "\n";
}

}  // namespace qp
