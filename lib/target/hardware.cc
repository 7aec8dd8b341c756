// Which scheme runs on which device: compute capabilities of CUDA, and the engines' tables of
// others.
#include <algorithm>
#include <charconv>

#include "lib/base/error.h"
#include "lib/target/flags.h"

namespace qp::target {
namespace {

constexpr std::string_view kHardware[] = {"sm75",  "sm80",  "sm89",  "sm90", "sm100",
                                          "sm120", "cdna3", "cdna4", "a2",   "a3",
                                          "a5",    "xpu",   "gaudi", "cpu"};

// 90 of "sm90"; 0 of other hardware.
int capability_of(std::string_view hardware) {
  int n = 0;
  if (hardware.starts_with("sm"))
    std::from_chars(hardware.data() + 2, hardware.data() + hardware.size(), n);
  return n;
}

bool listed(std::string_view words, std::string_view word) {
  for (size_t at = 0; at < words.size();) {
    size_t end = std::min(words.find(' ', at), words.size());
    if (words.substr(at, end - at) == word) return true;
    at = end + 1;
  }
  return false;
}

}  // namespace

std::span<const std::string_view> hardware_names() { return kHardware; }

void check_hardware_name(const std::string& hardware) {
  if (hardware.empty() || std::ranges::find(kHardware, hardware) != std::end(kHardware)) return;
  std::string known;
  for (std::string_view name : kHardware) known += (known.empty() ? "" : ", ") + std::string(name);
  throw usage_error("--hw '" + printable(hardware) + "' is not known").hint("known: " + known);
}

const HardwareRow* hardware_row(const Context& c, const Scheme& scheme, Where where) {
  for (const HardwareRow& r : c.engine.hardware) {
    bool here = r.hardware == c.options.hardware && listed(r.methods, c.checkpoint.method) &&
                r.scheme == scheme.support && (r.bits == 0 || r.bits == scheme.bits) &&
                (r.where == Where::any || r.where == where);
    // Some methods run in float16 alone.
    if (here && r.label.starts_with("torch.bfloat16") && c.model.dtype != DType::bf16) continue;
    if (here) return &r;
  }
  return nullptr;
}

void check_hardware(Context& c, const Layer& layer, const Scheme& scheme, const Support& row,
                    Where where) {
  const std::string& hw = c.options.hardware;
  if (hw.empty()) return;
  std::string what = std::string(row.scheme) + " of " + std::to_string(scheme.bits) + " bits" +
                     (where == Where::experts ? " in experts" : "") + " on " + hw;
  bool e4m3 = param_set(scheme.params).params.front().dtype == "F8_E4M3";
  if (const HardwareRow* r = hardware_row(c, scheme, where)) {
    // Labels are names in the documents' tables, and errors in those of the code.
    bool code = r->cell == Cell::no && (r->code || !hw.starts_with('a'));
    std::string label(r->label);
    if (code) c.findings.add("hw-scheme", layer.name, what + ": it is not there", label);
    if (r->cell == Cell::no && !code)
      c.findings.add("hw-unsupported", layer.name, what + ": " + label + " is not supported there");
    if (r->cell == Cell::open)
      c.findings.add("hw-open", layer.name, what + ": " + label + " is still to be decided there");
    if (r->cell == Cell::yes && hw == "cdna3" && e4m3) c.findings.add("hw-fnuz", layer.name, what);
    return;
  }
  if (int n = capability_of(hw); n > 0) {
    bool scheme_asks =
        c.checkpoint.method == "compressed-tensors" || !c.findings.knows("hw-method-capability");
    std::string_view topic = scheme_asks ? "hw-capability" : "hw-method-capability";
    if (row.exactly != 0 && n != row.exactly) {
      c.findings.add(topic, layer.name,
                     what + ": it runs on sm" + std::to_string(row.exactly) + " alone",
                     std::to_string(row.exactly));
    } else if (n < row.capability) {
      c.findings.add(topic, layer.name,
                     what + ": it needs compute capability " + std::to_string(row.capability),
                     std::to_string(row.capability));
    }
    return;
  }
  if (hw == "cdna3" && e4m3 && c.findings.add("hw-fnuz", layer.name, what)) return;
  if (hw == "cpu" && c.checkpoint.method == "compressed-tensors" &&
      c.findings.add("hw-cpu-capability", layer.name, what))
    return;
  c.findings.add("hw-not-known", layer.name, what);
}

}  // namespace qp::target
