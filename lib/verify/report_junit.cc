// JUnit XML as CI systems read it: a testcase per structure rule, per tensor's numbers and, with a
// base, per comparison.
#include <map>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/verify/report.h"

namespace qp {
namespace {

// Decodes one UTF-8 character at `at`; 0 bytes when there is none.
size_t utf8_length(std::string_view s, size_t at, uint32_t& code) {
  auto u = [&](size_t i) { return static_cast<unsigned char>(s[i]); };
  unsigned char c = u(at);
  size_t n = c < 0x80 ? 1 : c >= 0xc2 && c < 0xe0 ? 2 : c >= 0xe0 && c < 0xf0 ? 3 : c >= 0xf0 && c < 0xf5 ? 4 : 0;
  if (n == 0 || at + n > s.size()) return 0;
  code = n == 1 ? c : c & (0x7fu >> n);
  for (size_t i = 1; i < n; ++i) {
    if ((u(at + i) & 0xc0) != 0x80) return 0;
    code = code << 6 | (u(at + i) & 0x3fu);
  }
  bool overlong = (n == 3 && code < 0x800) || (n == 4 && code < 0x10000);
  return overlong || code > 0x10ffff ? 0 : n;
}

struct Case {
  std::string name;
  std::vector<const Finding*> findings;
};

std::string text_of(const Finding& f) {
  return f.what + (f.hint.empty() ? "" : "; " + f.hint);
}

class Suite {
 public:
  explicit Suite(std::string name) : name_(std::move(name)) {}

  void add(const std::string& name) {
    place_.emplace(name, cases_.size());
    cases_.push_back({name, {}});
  }
  void find(const std::string& name, const Finding* f) {
    if (!place_.contains(name)) add(name);
    cases_[place_[name]].findings.push_back(f);
  }
  size_t size() const { return cases_.size(); }
  size_t failures(bool strict) const {
    size_t n = 0;
    for (const Case& c : cases_) n += fails(c, strict) ? 1u : 0u;
    return n;
  }

  void write(std::string& out, bool strict) const {
    if (cases_.empty()) return;
    out += "  <testsuite name=\"" + escape_xml(name_) + "\" tests=\"" + std::to_string(size()) + "\" failures=\"" +
           std::to_string(failures(strict)) + "\" errors=\"0\" skipped=\"0\" time=\"0\">\n";
    for (const Case& c : cases_) write_case(out, c, strict);
    out += "  </testsuite>\n";
  }

 private:
  static bool fatal(const Finding& f, bool strict) {
    return f.severity == Severity::error || (strict && f.severity == Severity::warning);
  }
  static bool fails(const Case& c, bool strict) {
    for (const Finding* f : c.findings) {
      if (fatal(*f, strict)) return true;
    }
    return false;
  }

  void write_case(std::string& out, const Case& c, bool strict) const {
    out += "    <testcase classname=\"qverify." + escape_xml(name_) + "\" name=\"" + escape_xml(c.name) + "\" time=\"0\"";
    if (c.findings.empty()) {
      out += "/>\n";
      return;
    }
    out += ">\n";
    // One failure per testcase, as the format wants it; its text has all of them.
    const Finding* first = nullptr;
    std::string bad, rest;
    for (const Finding* f : c.findings) {
      std::string line = f->rule + (f->tensor.empty() || f->tensor == c.name ? "" : ": " + f->tensor) + ": " + text_of(*f) + "\n";
      if (fatal(*f, strict)) {
        first = first ? first : f;
        bad += line;
      } else {
        rest += std::string(name_of(f->severity)) + ": " + line;
      }
    }
    if (first != nullptr) {
      out += "      <failure type=\"" + escape_xml(first->rule) + "\" message=\"" + escape_xml(text_of(*first)) + "\">" +
             escape_xml(bad) + "</failure>\n";
    }
    if (!rest.empty()) out += "      <system-out>" + escape_xml(rest) + "</system-out>\n";
    out += "    </testcase>\n";
  }

  std::string name_;
  std::vector<Case> cases_;
  std::map<std::string, size_t> place_;
};

bool is_comparison(const std::string& rule) {
  static const char* kRules[] = {"min-sqnr",     "min-cosine",  "max-mse",     "max-abs",   "missing-in-checkpoint",
                                 "not-in-base",  "shape",       "kept-differs", "no-common-name", "base-nan",
                                 "far-codes",    "unrelated"};
  for (const char* r : kRules) {
    if (rule == r) return true;
  }
  return false;
}

}  // namespace

std::string escape_xml(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    uint32_t code = 0;
    size_t n = utf8_length(text, at, code);
    bool allowed = n > 0 && (code >= 0x20 || code == 9 || code == 10) && code != 0x7f && code != 0xfffe &&
                   code != 0xffff && (code < 0xd800 || code > 0xdfff);
    if (!allowed) {
      out += "\xef\xbf\xbd";
    } else if (code == '<') {
      out += "&lt;";
    } else if (code == '>') {
      out += "&gt;";
    } else if (code == '&') {
      out += "&amp;";
    } else if (code == '"') {
      out += "&quot;";
    } else if (code == '\'') {
      out += "&#39;";
    } else {
      out += text.substr(at, n);
    }
    at += n == 0 ? 1 : n;
  }
  return out;
}

std::string report_junit(const VerifyReport& r) {
  Suite structure("structure"), numbers("numbers"), comparison("comparison"), evaluation("evaluation");
  std::map<std::string_view, bool> known;
  std::map<std::string, std::string> measured;  // rule -> testcase
  if (r.eval) {
    for (const auto& [name, rules] : eval_cases(*r.eval)) {
      evaluation.add(name);
      for (const std::string& rule : rules) measured[rule] = name;
    }
  }
  for (const auto& [id, what] : r.rules) {
    structure.add(id);
    known[id] = true;
  }
  for (const TensorReport& t : r.tensors) {
    numbers.add(t.name);
    if (t.errors) comparison.add(t.name);
  }
  for (const Finding& f : r.findings) {
    if (known.contains(f.rule)) {
      structure.find(f.rule, &f);
    } else if (measured.contains(f.rule)) {
      evaluation.find(measured[f.rule], &f);
    } else if (is_comparison(f.rule)) {
      comparison.find(f.tensor.empty() ? f.rule : f.tensor, &f);
    } else {
      numbers.find(f.tensor.empty() ? f.rule : f.tensor, &f);
    }
  }
  const Suite* suites[] = {&structure, &numbers, &comparison, &evaluation};
  size_t tests = 0, failures = 0;
  for (const Suite* s : suites) {
    tests += s->size();
    failures += s->failures(r.strict);
  }
  std::string out = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"" +
                    escape_xml("qverify " + r.checkpoint) + "\" tests=\"" + std::to_string(tests) +
                    "\" failures=\"" + std::to_string(failures) + "\" errors=\"0\" time=\"0\">\n";
  if (r.sampling) {
    out += "  <properties><property name=\"sample\" value=\"" + escape_xml(sample_text(r)) + "\"/></properties>\n";
  }
  for (const Suite* s : suites) s->write(out, r.strict);
  return out + "</testsuites>\n";
}

}  // namespace qp
