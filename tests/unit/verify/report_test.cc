#include "lib/verify/report.h"

#include <gtest/gtest.h>

#include <cctype>
#include <limits>

#include "lib/base/error.h"
#include "tests/unit/support/tensor_store.h"

namespace qp {
namespace {

// A reader of XML that knows no more than: tags nest, attributes are quoted and name-like, '<' and
// bare '&' occur nowhere else, characters are allowed ones. "" or what is wrong.
std::string xml_error(std::string_view s) {
  std::vector<std::string> open;
  size_t roots = 0;
  auto entity_ok = [](std::string_view t) {
    for (const char* e : {"&lt;", "&gt;", "&amp;", "&quot;", "&#39;"}) {
      if (t.starts_with(e)) return true;
    }
    return false;
  };
  for (char c : s) {
    if (static_cast<unsigned char>(c) < 0x20 && c != '\n' && c != '\t') return "control character";
  }
  if (s.starts_with("<?xml")) s.remove_prefix(s.find("?>") + 2);
  while (!s.empty()) {
    if (s[0] != '<') {
      if (s[0] == '&' && !entity_ok(s)) return "bare &";
      if (open.empty() && !std::isspace(static_cast<unsigned char>(s[0]))) return "text outside";
      s.remove_prefix(1);
      continue;
    }
    bool closing = s.starts_with("</");
    s.remove_prefix(closing ? 2 : 1);
    size_t n = s.find_first_of(" />\n");
    std::string name(s.substr(0, n));
    s.remove_prefix(n);
    if (closing) {
      if (open.empty() || open.back() != name) return "</" + name + "> closes nothing";
      open.pop_back();
    } else {
      roots += open.empty() ? 1u : 0u;
      while (s[0] == ' ') {
        size_t eq = s.find('=');
        if (eq == std::string_view::npos || s[eq + 1] != '"') return "attribute of " + name;
        size_t end = s.find('"', eq + 2);
        for (std::string_view v = s.substr(eq + 2, end - eq - 2); !v.empty(); v.remove_prefix(1)) {
          if (v[0] == '<' || (v[0] == '&' && !entity_ok(v))) return "value in " + name;
        }
        s.remove_prefix(end + 1);
      }
      if (s[0] == '/') {
        s.remove_prefix(1);
      } else {
        open.push_back(name);
      }
    }
    if (s[0] != '>') return "tag " + name + " does not end";
    s.remove_prefix(1);
  }
  if (!open.empty()) return open.back() + " is open";
  return roots == 1 ? "" : "roots";
}

size_t count(std::string_view text, std::string_view what) {
  size_t n = 0;
  for (size_t at = text.find(what); at != std::string_view::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

const std::string kNasty = "a<b>&\"'\x01\xff\n</script><script>alert(1)</script>";

VerifyReport sample() {
  VerifyReport r;
  r.checkpoint = "out" + kNasty;
  r.base = "base";
  r.format = "compressed-tensors";
  r.rules = {{"index", "the index parses"}, {"shard", "shards are sound"}};
  for (int i = 0; i < 3; ++i) {
    TensorReport t;
    t.name = "model.layers." + std::to_string(i) + ".mlp.up_proj" + (i == 1 ? kNasty : "") + ".weight";
    t.module = "up_proj" + kNasty;
    t.layer = i;
    t.stored = "int4 group 128";
    t.shape = {4, 4};
    t.quantized = true;
    t.errors = TensorErrors{16, 0, i == 2 ? 0.0 : 1.0 + i, 30, 40, 34, i == 2 ? 0.0 : 0.5};
    r.tensors.push_back(std::move(t));
  }
  r.histograms.push_back({"int4 group 128", int_scheme(4, Strategy::group, 128), std::vector<uint64_t>(16, 3)});
  r.findings = {{Severity::warning, "saturated", r.tensors[0].name, "30 % of the codes" + kNasty, "do " + kNasty},
                {Severity::error, "nan-scale", r.tensors[1].name, "3 scales are NaN", "again"},
                {Severity::error, "index", "", "does not parse", ""},
                {Severity::error, "min-sqnr", r.tensors[1].name, "SQNR is low", ""}};
  r.bytes = 1000;
  r.base_bytes = 4000;
  r.parameters = 500;
  return r;
}

TEST(Report, EscapesForXmlAndHtml) {
  EXPECT_EQ(escape_xml("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
  EXPECT_EQ(escape_xml("tab\tline\n"), "tab\tline\n");
  EXPECT_EQ(escape_xml(std::string("\0", 1)), "\xef\xbf\xbd");
  EXPECT_EQ(escape_xml("\xc3\xa9"), "\xc3\xa9");                        // e acute
  EXPECT_EQ(escape_xml("\xc3"), "\xef\xbf\xbd");                        // cut short
  EXPECT_EQ(escape_xml("\xc0\xbc"), "\xef\xbf\xbd\xef\xbf\xbd");        // overlong '<'
  EXPECT_EQ(escape_xml("\xef\xbf\xbf"), "\xef\xbf\xbd");                // U+FFFF is no XML
  EXPECT_EQ(escape_xml("\xed\xa0\x80"), "\xef\xbf\xbd");                // a surrogate
}

TEST(Report, JunitIsWellFormedAndCounts) {
  std::string xml = report_junit(sample());
  EXPECT_EQ(xml_error(xml), "");
  EXPECT_EQ(count(xml, "<testcase "), 2u + 3u + 3u);  // rules, numbers, comparisons
  EXPECT_EQ(count(xml, "<failure "), 3u);
  EXPECT_NE(xml.find("tests=\"8\" failures=\"3\""), std::string::npos);
  VerifyReport strict = sample();
  strict.strict = true;
  EXPECT_EQ(count(report_junit(strict), "<failure "), 4u);
}

TEST(Report, HtmlHoldsNoTextUnescaped) {
  std::string html = report_html(sample());
  EXPECT_EQ(count(html, "<script>"), 1u);
  EXPECT_EQ(count(html, "alert(1)</script>"), 0u);
  EXPECT_EQ(count(html, "http"), 0u);  // nothing from elsewhere
  EXPECT_EQ(count(html, "<svg viewBox=\"0 0 860"), 3u);
  EXPECT_EQ(count(html, "class=\"verdict error\""), 1u);
}

TEST(Report, JsonIsCompleteAndParses) {
  VerifyReport r = sample();
  r.sort();
  Json j = parse_json(report_json(r).dump(2, ' ', false, Json::error_handler_t::replace), "report");
  EXPECT_EQ(j["sound"], false);
  EXPECT_EQ(j["errors"], 3);
  EXPECT_EQ(j["warnings"], 1);
  EXPECT_EQ(j["size"]["ratio"], 4.0);
  EXPECT_EQ(j["size"]["bits_per_weight"], 16.0);
  ASSERT_EQ(j["tensors"].size(), 3u);
  EXPECT_NEAR(j["tensors"][0]["sqnr_db"].get<double>(), 13.010299956639813, 1e-9);  // 10 log10(40/2): the worst first
  EXPECT_TRUE(j["tensors"][2]["sqnr_db"].is_null());                                // identical
  EXPECT_EQ(j["tensors"][2]["identical"], true);
  EXPECT_EQ(j["findings"][0]["severity"], "error");
  EXPECT_EQ(j["findings"][3]["severity"], "warning");
  EXPECT_EQ(j["histograms"][0]["values"][0], -8.0);
  EXPECT_EQ(j["histograms"][0]["values"][15], 7.0);
}

TEST(Report, SoundnessAndStrict) {
  VerifyReport r;
  EXPECT_TRUE(r.sound());
  r.findings.push_back({Severity::note, "tokenizer", "", "none"});
  EXPECT_TRUE(r.sound());
  r.findings.push_back({Severity::warning, "saturated", "w", "many"});
  EXPECT_TRUE(r.sound());
  r.strict = true;
  EXPECT_FALSE(r.sound());
  r.strict = false;
  r.findings.push_back({Severity::error, "nan-scale", "w", "one"});
  EXPECT_FALSE(r.sound());
}

TEST(Report, Thresholds) {
  TensorErrors e{4, 0, 1, 30, 39, 34, 1};  // SQNR 15.91 dB, cosine 0.9940, MSE 0.25
  auto failed = [&](Thresholds t) { return check_thresholds(t, "w", e).size(); };
  EXPECT_EQ(failed({}), 0u);
  EXPECT_EQ(failed({.min_sqnr = 15.9}), 0u);
  EXPECT_EQ(failed({.min_sqnr = 16}), 1u);
  EXPECT_EQ(failed({.min_cosine = 0.99}), 0u);
  EXPECT_EQ(failed({.min_cosine = 0.995}), 1u);
  EXPECT_EQ(failed({.max_mse = 0.25}), 0u);
  EXPECT_EQ(failed({.max_mse = 0.24}), 1u);
  EXPECT_EQ(failed({.max_abs = 1}), 0u);
  EXPECT_EQ(failed({.max_abs = 0.9}), 1u);
  TensorErrors exact{4, 0, 0, 30, 30, 30, 0};
  EXPECT_TRUE(check_thresholds({.min_sqnr = 300, .min_cosine = 1, .max_mse = 0, .max_abs = 0}, "w", exact).empty());
  TensorErrors nan{4, 4, 0, 0, 0, 0, 0};
  EXPECT_FALSE(check_thresholds({.min_sqnr = 1}, "w", nan).empty());
}

TEST(Report, EndingsDecideTheKind) {
  for (const char* good : {"a.json", "b.xml", "c.html", "c.htm"}) EXPECT_NO_THROW(check_report_path(good));
  for (const char* bad : {"a.txt", "json", "x.json.gz", ""}) EXPECT_THROW(check_report_path(bad), Error);
  TempDir dir;
  write_report(sample(), dir / "r.xml");
  std::ifstream in(dir / "r.xml");
  std::string text{std::istreambuf_iterator<char>(in), {}};
  EXPECT_EQ(xml_error(text), "");
}

TEST(Report, EmptyReportsAreWritten) {
  VerifyReport r;
  EXPECT_EQ(xml_error(report_junit(r)), "");
  EXPECT_FALSE(report_html(r).empty());
  EXPECT_EQ(report_json(r)["sound"], true);
}

TEST(Report, CodeValues) {
  EXPECT_EQ(code_value(int_scheme(4, Strategy::channel), 0), -8);
  EXPECT_EQ(code_value(fp8_scheme(Strategy::tensor), 0x7e), 448);
  EXPECT_TRUE(std::isnan(code_value(fp8_scheme(Strategy::tensor), 0xff)));
}

}  // namespace
}  // namespace qp
