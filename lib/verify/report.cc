#include "lib/verify/report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>

#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/tensor/minifloat.h"
#include "lib/verify/text.h"

namespace qp {
namespace {

Json errors_json(const TensorErrors& e) {
  return {{"identical", e.identical()}, {"sqnr_db", finite(e.sqnr_db())}, {"mse", e.mse()},
          {"cosine", finite(e.cosine())}, {"max_abs", e.max_abs},          {"signal", e.signal()},
          {"nonfinite", e.nonfinite}};
}

Json tensor_json(const TensorReport& t) {
  Json out = {{"name", t.name}, {"stored", t.stored}, {"shape", t.shape.dims()}, {"bytes", t.bytes}};
  if (t.quantized) out["saturated"] = t.saturated;
  if (t.ignored) out["ignored"] = true;
  if (t.bytes_read < t.bytes) out["bytes_read"] = t.bytes_read;
  if (t.errors) out.update(errors_json(*t.errors));
  return out;
}

template <class T>
void put(Json& object, const char* key, const std::optional<T>& value) {
  if (value) object[key] = *value;
}

bool ends_with_any(const std::string& path, std::initializer_list<const char*> ends) {
  return std::ranges::any_of(ends, [&](const char* e) { return path.ends_with(e); });
}

}  // namespace

std::vector<Finding> check_thresholds(const Thresholds& t, const std::string& tensor, const TensorErrors& e) {
  std::vector<Finding> out;
  auto fail = [&](const char* rule, std::string what) {
    out.push_back({Severity::error, rule, tensor, std::move(what),
                   "use a finer scheme for it, or --ignore it here"});
  };
  // Written so that NaN fails.
  if (t.min_sqnr && !(e.sqnr_db() >= *t.min_sqnr)) {
    fail("min-sqnr", "SQNR is " + db_text(e.sqnr_db()) + " dB (expected at least " + number(*t.min_sqnr) + ")");
  }
  if (t.min_cosine && !(e.cosine() >= *t.min_cosine)) {
    fail("min-cosine", "cosine is " + number(e.cosine()) + " (expected at least " + number(*t.min_cosine) + ")");
  }
  if (t.max_mse && !(e.mse() <= *t.max_mse)) {
    fail("max-mse", "mean squared error is " + number(e.mse()) + " (expected at most " + number(*t.max_mse) + ")");
  }
  if (t.max_abs && !(e.max_abs <= *t.max_abs)) {
    fail("max-abs", "largest difference is " + number(e.max_abs) + " (expected at most " + number(*t.max_abs) + ")");
  }
  if (t.any() && e.nonfinite > 0) {
    fail("min-sqnr", std::to_string(e.nonfinite) + " values are NaN or infinite in it or in the base");
  }
  return out;
}

namespace {

bool is_matrix(const TensorReport& t) {
  return t.quantized && t.errors && t.errors->b2 > 0 && t.errors->a2 > 0 && t.shape.rank() >= 2 && t.elements >= 1024;
}

// What is not quantized differs: factors were folded into it, and so into what reads it.
bool has_folds(const std::vector<TensorReport>& tensors) {
  return std::ranges::any_of(tensors, [](const TensorReport& t) {
    return !t.quantized && t.errors && !t.errors->identical() && !(t.errors->sqnr_db() >= 40);
  });
}

void find_unrelated(const std::vector<TensorReport>& tensors, std::vector<Finding>& out) {
  constexpr double kNone = 0.2, kMost = 0.5;
  std::vector<double> cosines;
  for (const TensorReport& t : tensors) {
    if (is_matrix(t) && !std::isnan(t.errors->cosine())) cosines.push_back(t.errors->cosine());
  }
  if (cosines.size() < 3) return;
  auto upper = cosines.begin() + static_cast<std::ptrdiff_t>(cosines.size() * 3 / 4);
  std::ranges::nth_element(cosines, upper);
  if (*upper < kMost) return;  // rotated: nothing is like the base
  bool folded = has_folds(tensors);  // a few loud channels may then be all that a cosine sees
  for (const TensorReport& t : tensors) {
    if (!is_matrix(t) || t.ignored || !(t.errors->cosine() < kNone)) continue;
    out.push_back({folded ? Severity::warning : Severity::error, "unrelated", t.name,
                   "has nothing in common with the base's (cosine " + number(t.errors->cosine()) + "; others have " +
                       number(*upper) + ")",
                   folded ? "fine if factors were folded into it (AWQ, SmoothQuant); else it is another's, or damaged"
                          : "is it another expert's or layer's, or is its scale damaged? quantize it again"});
  }
}

void find_far_codes(const std::vector<TensorReport>& tensors, std::vector<Finding>& out) {
  constexpr uint64_t kTail = 8;  // near values to a far one: a tail, of GPTQ's corrections
  if (has_folds(tensors)) return;
  for (const TensorReport& t : tensors) {
    if (!is_matrix(t) || t.ignored || t.bits < 3 || !(t.errors->cosine() > 0.5)) continue;
    const TensorErrors& e = *t.errors;
    if (e.far == 0 || e.near > kTail * e.far) continue;
    out.push_back({Severity::warning, "far-codes", t.name,
                   std::to_string(e.far) + " values are further from the base's than rounding moves any",
                   "codes or scales are damaged, or it was made by gptq from inputs with very loud channels; compare its checksum, or make it again"});
  }
}

}  // namespace

std::vector<Finding> check_related(const std::vector<TensorReport>& tensors) {
  std::vector<Finding> out;
  find_unrelated(tensors, out);
  find_far_codes(tensors, out);
  return out;
}

double code_value(const Scheme& s, size_t k) {
  switch (s.code_kind()) {
    case CodeKind::e4m3: return e4m3_to_f32(static_cast<uint8_t>(k));
    case CodeKind::e2m1: return e2m1_to_f32(static_cast<uint8_t>(k));
    case CodeKind::codebook:
    case CodeKind::integer: break;
  }
  return static_cast<double>(k) - std::ldexp(1.0, s.weights.num_bits - 1);
}

std::string sample_text(const VerifyReport& r) {
  if (!r.sampling) return "";
  double share = r.bytes == 0 ? 0 : 100 * static_cast<double>(r.bytes_read) / static_cast<double>(r.bytes);
  char text[160];
  std::snprintf(text, sizeof text, "%.2f %% of the bytes of tensors read: %g %% of the rows of each, seed %llu", share,
                100 * r.sampling->share, static_cast<unsigned long long>(r.sampling->seed));
  return text;
}

size_t VerifyReport::count(Severity severity) const {
  return static_cast<size_t>(std::ranges::count(findings, severity, &Finding::severity));
}

double VerifyReport::bits_per_weight() const {
  return parameters == 0 ? 0 : 8.0 * static_cast<double>(bytes) / static_cast<double>(parameters);
}

const TensorReport* VerifyReport::worst() const {
  const TensorReport* out = nullptr;
  for (const TensorReport& t : tensors) {
    if (!t.errors) continue;
    double db = t.errors->sqnr_db();
    if (std::isnan(db)) return &t;
    if (out == nullptr || db < out->errors->sqnr_db()) out = &t;
  }
  return out;
}

void VerifyReport::sort() {
  std::ranges::stable_sort(findings, std::greater(), &Finding::severity);
  std::ranges::sort(histograms, {}, &CodeHistogram::scheme);  // they came in the order of threads
  auto key = [](const TensorReport& t) {
    if (!t.errors) return std::pair(1, 0.0);
    double db = t.errors->sqnr_db();
    return std::pair(0, std::isnan(db) ? -HUGE_VAL : db);
  };
  std::ranges::stable_sort(tensors, [&](const auto& a, const auto& b) { return key(a) < key(b); });
}

Json report_json(const VerifyReport& r) {
  Json out = {{"tool", "qverify"}, {"version", QP_VERSION}, {"checkpoint", r.checkpoint}};
  if (!r.base.empty()) out["base"] = r.base;
  out["format"] = r.format;
  out["architecture"] = r.architecture;
  out["sound"] = r.sound();
  if (r.sampling) {
    out["sample"] = {{"share", r.sampling->share}, {"seed", r.sampling->seed}, {"bytes_read", r.bytes_read},
                     {"bytes", r.bytes}};
  }
  out["errors"] = r.count(Severity::error);
  out["warnings"] = r.count(Severity::warning);
  out["notes"] = r.count(Severity::note);
  out["size"] = {{"bytes", r.bytes}, {"parameters", r.parameters}, {"bits_per_weight", r.bits_per_weight()}};
  if (!r.base.empty()) {
    out["size"]["base_bytes"] = r.base_bytes;
    out["size"]["base_parameters"] = r.base_parameters;
    if (r.bytes > 0) out["size"]["ratio"] = static_cast<double>(r.base_bytes) / static_cast<double>(r.bytes);
    out["overall"] = errors_json(r.overall);
    out["overall_quantized"] = errors_json(r.overall_quantized);
    if (const TensorReport* w = r.worst()) out["worst"] = w->name;
  }
  Json bounds = Json::object();
  put(bounds, "min_sqnr", r.thresholds.min_sqnr);
  put(bounds, "min_cosine", r.thresholds.min_cosine);
  put(bounds, "max_mse", r.thresholds.max_mse);
  put(bounds, "max_abs", r.thresholds.max_abs);
  put(bounds, "max_kl", r.eval_bounds.max_kl);
  put(bounds, "max_ppl_increase", r.eval_bounds.max_ppl_increase);
  put(bounds, "min_top1", r.eval_bounds.min_top1);
  out["thresholds"] = std::move(bounds);
  if (r.eval) out["evaluation"] = eval_json(*r.eval);
  if (!r.target.is_null()) out["target"] = r.target;
  out["findings"] = Json::array();
  for (const Finding& f : r.findings) {
    out["findings"].push_back({{"severity", name_of(f.severity)}, {"rule", f.rule}, {"tensor", f.tensor},
                               {"what", f.what}, {"hint", f.hint}});
  }
  out["histograms"] = Json::array();
  for (const CodeHistogram& h : r.histograms) {
    Json values = Json::array();
    for (size_t k = 0; k < h.counts.size(); ++k) values.push_back(finite(code_value(h.numbers, k)));
    out["histograms"].push_back({{"scheme", h.scheme}, {"counts", h.counts}, {"values", std::move(values)}});
  }
  out["tensors"] = Json::array();
  for (const TensorReport& t : r.tensors) out["tensors"].push_back(tensor_json(t));
  return out;
}

void check_report_path(const std::string& path) {
  if (ends_with_any(path, {".json", ".xml", ".html", ".htm"})) return;
  throw usage_error("--report '" + printable(path) + "' has no known ending (expected .json, .xml or .html)");
}

void write_report(const VerifyReport& report, const std::string& path) {
  check_report_path(path);
  if (path.ends_with(".json")) {
    write_file_atomically(path, report_json(report).dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
  } else {
    write_file_atomically(path, path.ends_with(".xml") ? report_junit(report) : report_html(report));
  }
}

}  // namespace qp
