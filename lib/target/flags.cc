#include "lib/target/flags.h"

#include <sstream>

#include "lib/base/error.h"

namespace qp::target {

// "--key value" and "--key=value"; what is not asked about here is passed on as it is.
Flags read_flags(const std::string& engine_args) {
  Flags out;
  std::istringstream in(engine_args);
  std::string word, value;
  while (in >> word) {
    value.clear();
    if (auto eq = word.find('='); eq != word.npos) {
      value = word.substr(eq + 1);
      word.resize(eq);
    }
    auto take = [&](std::string& to) {
      if (value.empty()) in >> value;
      to = value;
    };
    if (word == "--quantization" || word == "-q") take(out.quantization);
    if (word == "--kv-cache-dtype") take(out.kv_cache);
    if (word == "--dtype") take(out.dtype);
    if (word.starts_with("--speculative")) out.speculative = true;
  }
  return out;
}

void check_flags(Context& c, const Flags& f) {
  const std::string& method = c.checkpoint.method;
  if (f.quantization.empty() || f.quantization.starts_with("w8a8_")) return;
  if (method.empty()) {
    c.findings.add(
        "flag-online", "",
        "--quantization " + printable(f.quantization) + ", and the checkpoint is not quantized");
  } else if (f.quantization == method || f.quantization.starts_with(method)) {
    c.findings.add("flag-redundant", "",
                   "--quantization " + printable(f.quantization) + ": the config says so already");
  } else {
    c.findings.add("flag-contradicts", "",
                   "--quantization " + printable(f.quantization) + ", and quant_method is " +
                       printable(method));
  }
}

std::string launch_command(const Context& c, const Flags&) {
  std::string out(c.engine.command);
  auto at = out.find("{}");
  if (at != out.npos) out.replace(at, 2, c.checkpoint.path);
  auto flag = [&](std::string_view name, uint64_t n) {
    if (!name.empty() && n > 1)
      out += " " + std::string(name) + (name.ends_with('=') ? "" : " ") + std::to_string(n);
  };
  flag(c.engine.tp_flag, c.options.tp);
  if (c.engine.name == "vllm" && c.options.ep > 1) out += " --enable-expert-parallel";
  if (c.engine.name != "vllm") flag(c.engine.ep_flag, c.options.ep);
  flag(c.engine.pp_flag, c.options.pp);
  bool npu = c.options.hardware.starts_with('a') && c.engine.name == "sglang";
  if (npu) out += " --device npu --attention-backend ascend";
  if (!c.options.engine_args.empty()) out += " " + c.options.engine_args;
  return out;
}

}  // namespace qp::target
