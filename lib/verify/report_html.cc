// One self-contained page: no file, font or script from elsewhere; every text escaped.
#include <cmath>
#include <cstdio>

#include "lib/base/error.h"
#include "lib/verify/report.h"
#include "lib/verify/report_charts.h"

namespace qp {
namespace {

constexpr size_t kMaxRows = 5000;  // a page of 92,000 rows helps nobody; the JSON has all

constexpr const char* kStyle = R"(
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#5b6470;--line:#d9dee4;--box:#f5f7f9;
--ok:#11763f;--bad:#b3261e;--warn:#8a5a00;--c0:#0072b2;--c1:#8b95a1;--c2:#009e73;--c3:#d55e00;--c4:#b0559b;
--c5:#a87900;--c6:#3a9bd4;--c7:#444b55}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e4e8ec;--soft:#9aa5b1;--line:#333a42;--box:#1d2126;
--ok:#4cc38a;--bad:#ff7b72;--warn:#e3b341;--c0:#5aaeee;--c1:#7d8793;--c2:#2fc79a;--c3:#ff8a4c;--c4:#dd86c8;
--c5:#e0b43c;--c6:#8cd0ff;--c7:#c3cad2}}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:60rem;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}
h3{font-size:1rem;margin:1rem 0 .2rem}
p{margin:.3rem 0}.soft{color:var(--soft)}
code{font:13px ui-monospace,monospace;overflow-wrap:anywhere}
.verdict{font-weight:600}.ok{color:var(--ok)}.error{color:var(--bad)}.warning{color:var(--warn)}
.note{color:var(--soft)}
dl{display:grid;grid-template-columns:repeat(auto-fit,minmax(11rem,1fr));gap:.6rem;margin:1rem 0}
dl div{background:var(--box);border-radius:6px;padding:.5rem .8rem}
dt{color:var(--soft);font-size:13px}
dd{margin:0;font-size:1.15rem;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
svg{width:100%;height:auto;display:block}svg text{fill:var(--soft);font-size:12px}
svg .grid{stroke:var(--line)}
.legend{font-size:13px}.legend span{display:inline-block;margin-right:1rem}
svg.key{width:24px;height:8px;display:inline-block;margin-right:5px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{position:sticky;top:0;background:var(--bg);white-space:nowrap}
th button{all:unset;cursor:pointer;font-weight:600}
th button:focus-visible{outline:2px solid var(--c0)}
th[aria-sort=ascending] button::after{content:" \2191"}
th[aria-sort=descending] button::after{content:" \2193"}
.s,.n{white-space:nowrap}.n{text-align:right;font-variant-numeric:tabular-nums}
)";

// Sorts the table whose head is pressed: by data-v as a number where there is one, else by text.
constexpr const char* kScript = R"(
for(const b of document.querySelectorAll('th button'))b.onclick=()=>{
const th=b.parentNode,body=th.closest('table').tBodies[0],i=th.cellIndex,
up=th.getAttribute('aria-sort')!=='ascending';
for(const h of th.parentNode.cells)h.removeAttribute('aria-sort');
th.setAttribute('aria-sort',up?'ascending':'descending');
const key=r=>{const c=r.cells[i];return c.dataset.v!==undefined?Number(c.dataset.v):c.textContent};
[...body.rows].sort((p,q)=>{
const x=key(p),y=key(q);const d=x<y?-1:x>y?1:0;return up?d:-d}).forEach(r=>body.append(r))};
)";

std::string number(double v, const char* format = "%.4g") {
  char text[40];
  std::snprintf(text, sizeof text, format, v);
  return text;
}

std::string size_text(uint64_t bytes) {
  double v = static_cast<double>(bytes);
  return v >= 1e9   ? number(v / 1e9, "%.2f GB")
         : v >= 1e6 ? number(v / 1e6, "%.2f MB")
                    : number(v / 1e3, "%.2f kB");
}

void tile(std::string& out, const std::string& name, const std::string& value) {
  out += "<div><dt>" + escape_xml(name) + "</dt><dd>" + escape_xml(value) + "</dd></div>\n";
}

void head(std::string& out, const VerifyReport& r) {
  bool sound = r.sound();
  out += "<h1>" + escape_xml(r.checkpoint) + "</h1>\n<p class=\"verdict " +
         std::string(sound ? "ok" : "error") + "\">" + (sound ? "Sound" : "Failed") + ": " +
         std::to_string(r.count(Severity::error)) + " errors, " +
         std::to_string(r.count(Severity::warning)) + " warnings, " +
         std::to_string(r.count(Severity::note)) + " notes" +
         (r.strict ? " (warnings fail: --strict)" : "") + "</p>\n";
  out += "<p class=\"soft\">" +
         escape_xml(r.format + (r.architecture.empty() ? "" : ", " + r.architecture)) +
         (r.base.empty() ? "" : "; compared with <code>" + escape_xml(r.base) + "</code>") +
         "; qverify " QP_VERSION "</p>\n";
  if (r.sampling) {
    out += "<p class=\"warning\">A verdict of a sample: " + escape_xml(sample_text(r)) + "</p>\n";
  }
  out += "<dl>\n";
  tile(out, "tensors", std::to_string(r.tensors.size()));
  tile(out, "size", size_text(r.bytes));
  tile(out, "bits per weight", number(r.bits_per_weight(), "%.2f"));
  if (const TensorReport* w = r.worst()) {
    if (r.base_bytes > 0)
      tile(out, "of the base's size",
           number(100 * static_cast<double>(r.bytes) / static_cast<double>(r.base_bytes),
                  "%.1f %%"));
    tile(out, "SQNR over all, dB", db_text(r.overall.sqnr_db()));
    if (r.overall_quantized.count > 0)
      tile(out, "SQNR over the quantized, dB", db_text(r.overall_quantized.sqnr_db()));
    tile(out, "worst SQNR, dB", db_text(w->errors->sqnr_db()));
  }
  out += "</dl>\n";
}

void evaluation(std::string& out, const EvalResult& e) {
  out += "<h2>Evaluation</h2>\n";
  if (e.perplexity) {
    out += "<p class=\"soft\">" + escape_xml(e.text) + ": " + std::to_string(e.windows) +
           " windows of " + std::to_string(e.seqlen) + " tokens, " +
           std::to_string(e.perplexity->tokens) + " scored (" + escape_xml(e.definition) +
           "); matrix products in " + escape_xml(e.compute);
    for (const auto& [what, n] : e.activations) {
      out += "; activations " + escape_xml(what) + " in " + std::to_string(n) + " linears";
    }
    out += "</p>\n";
  }
  out += "<dl>\n";
  if (e.perplexity) tile(out, "perplexity", estimate_text(e.perplexity->ppl));
  if (e.base_perplexity) tile(out, "the base's", estimate_text(e.base_perplexity->ppl));
  if (e.divergence) {
    const Divergence& d = *e.divergence;
    tile(out, "ratio of perplexities", estimate_text(d.ratio));
    tile(out, "mean KL divergence", estimate_text(d.kl));
    tile(out, "median, 99 %, max KL",
         number(d.kl_median, "%.3g") + ", " + number(d.kl_percentiles[2], "%.3g") + ", " +
             number(d.kl_max, "%.3g"));
    tile(out, "same first choice, %", estimate_text({100 * d.top1.value, 100 * d.top1.error}));
    tile(out, "RMS of p(token), %", estimate_text({100 * d.rms_dp.value, 100 * d.rms_dp.error}));
  }
  if (e.choices) {
    tile(out, "acc, " + std::to_string(e.choices->items.size()) + " items",
         estimate_text(e.choices->accuracy));
    tile(out, "acc_norm", estimate_text(e.choices->accuracy_norm));
    if (e.choices->base_accuracy)
      tile(out, "the base's acc", estimate_text(*e.choices->base_accuracy));
  }
  out += "</dl>\n";
  if (std::string c = chart_kl_histogram(e); !c.empty())
    out += "<h3>Tokens by KL divergence from the base</h3>\n" + c;
  if (std::string c = chart_kl_positions(e); !c.empty())
    out += "<h3>Mean KL divergence by position in the window</h3>\n" + c;
  if (std::string c = chart_hidden_states(e); !c.empty()) {
    out +=
        "<h3>Relative error of the hidden states after each layer</h3>\n<p "
        "class=\"soft\">|checkpoint - base| / |base| over all tokens.</p>\n" +
        c;
  }
}

void charts(std::string& out, const VerifyReport& r) {
  if (r.eval) evaluation(out, *r.eval);
  if (std::string c = chart_layers(r); !c.empty()) {
    out +=
        "<h2>SQNR per layer</h2>\n<p class=\"soft\">Higher is better; the worst tensor of each "
        "kind in each layer. "
        "Tensors equal to the base are left out.</p>\n" +
        c;
  }
  if (std::string c = chart_sizes(r); !c.empty()) out += "<h2>Size before and after</h2>\n" + c;
  if (!r.histograms.empty()) {
    out +=
        "<h2>Codes</h2>\n<p class=\"soft\">How often each code occurs, over all tensors of a "
        "scheme.</p>\n";
  }
  for (const CodeHistogram& h : r.histograms)
    out += "<h3>" + escape_xml(h.scheme) + "</h3>\n" + chart_codes(h);
}

void findings(std::string& out, const VerifyReport& r) {
  out += "<h2>Findings</h2>\n";
  if (r.findings.empty()) {
    out += "<p>None.</p>\n";
    return;
  }
  out +=
      "<div "
      "class=\"scroll\"><table><thead><tr><th>severity</th><th>rule</th><th>tensor</th><th>what, "
      "and what to do</th></tr></thead><tbody>\n";
  size_t rows = 0;
  for (const Finding& f : r.findings) {
    if (++rows > kMaxRows) break;
    std::string severity(name_of(f.severity));
    out += "<tr><td class=\"" + severity + "\">" + severity + "</td><td>" + escape_xml(f.rule) +
           "</td><td><code>" + escape_xml(f.tensor) + "</code></td><td>" + escape_xml(f.what) +
           (f.hint.empty() ? "" : "; <span class=\"soft\">" + escape_xml(f.hint) + "</span>") +
           "</td></tr>\n";
  }
  out += "</tbody></table></div>\n";
  if (r.findings.size() > kMaxRows)
    out += "<p>.. and " + std::to_string(r.findings.size() - kMaxRows) +
           " more in the JSON report.</p>\n";
}

// A cell with the value it sorts by; what is no number sorts last.
std::string cell(double v, const std::string& text) {
  double key = std::isnan(v) ? -1e300 : std::isinf(v) ? std::copysign(1e300, v) : v;
  return "<td class=\"n\" data-v=\"" + number(key, "%.9g") + "\">" + escape_xml(text) + "</td>";
}

void tensors(std::string& out, const VerifyReport& r) {
  if (r.tensors.empty()) return;
  bool compared = r.worst() != nullptr;
  out += "<h2>Tensors</h2>\n<div class=\"scroll\"><table><thead><tr>";
  auto column = [&](const char* name, bool right) {
    out += std::string("<th") + (right ? " class=\"n\"" : "") + "><button type=\"button\">" + name +
           "</button></th>";
  };
  column("tensor", false);
  column("stored", false);
  column("shape", false);
  column("bytes", true);
  if (compared) {
    for (const char* name : {"SQNR dB", "cosine", "MSE", "max abs"}) column(name, true);
  }
  out += "</tr></thead><tbody>\n";
  size_t rows = 0;
  for (const TensorReport& t : r.tensors) {
    if (++rows > kMaxRows) break;
    out += "<tr><td><code>" + escape_xml(t.name) + "</code></td><td class=\"s\">" +
           escape_xml(t.stored) + "</td><td class=\"n\">" + t.shape.str() + "</td>" +
           cell(static_cast<double>(t.bytes), std::to_string(t.bytes));
    if (compared && t.errors) {
      const TensorErrors& e = *t.errors;
      out += cell(e.sqnr_db(), db_text(e.sqnr_db())) +
             cell(e.cosine(), number(e.cosine(), "%.6f")) + cell(e.mse(), number(e.mse(), "%.3e")) +
             cell(e.max_abs, number(e.max_abs, "%.3e"));
    } else if (compared) {
      for (int i = 0; i < 4; ++i) out += cell(HUGE_VAL, "");
    }
    out += "</tr>\n";
  }
  out += "</tbody></table></div>\n";
  if (r.tensors.size() > kMaxRows)
    out += "<p>.. and " + std::to_string(r.tensors.size() - kMaxRows) +
           " more in the JSON report.</p>\n";
}

}  // namespace

std::string report_html(const VerifyReport& r) {
  std::string out =
      "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
      "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>qverify: " +
      escape_xml(r.checkpoint) + "</title>\n<style>" + kStyle + "</style></head>\n<body><main>\n";
  head(out, r);
  charts(out, r);
  findings(out, r);
  tensors(out, r);
  return out + "</main>\n<script>" + kScript + "</script>\n</body></html>\n";
}

}  // namespace qp
