#include "cmd/tool/target_options.h"

#include "lib/base/error.h"

namespace qp {
namespace {

constexpr const char* kGroup = "Target";
constexpr uint64_t kMaxRanks = 4096;

}  // namespace

void TargetOptions::declare(CLI::App& app, const std::string& what) {
  app.add_option("--target", asked, what + ": vllm, sglang, transformers, llama.cpp")
      ->type_name("ENGINE[@VERSION]")
      ->group(kGroup);
  auto ranks = [&](const char* name, uint64_t& n, const char* help) {
    app.add_option(name, n, help)->type_name("N")->capture_default_str()->group(kGroup);
  };
  ranks("--tp", options.tp, "Tensor-parallel ranks");
  ranks("--ep", options.ep, "Expert-parallel ranks");
  ranks("--pp", options.pp, "Pipeline stages");
  app.add_option("--hw", options.hardware,
                 "Device: sm80, sm90, sm100, cdna3, cdna4, a2, a3, a5, xpu, gaudi, cpu")
      ->type_name("HW")
      ->group(kGroup);
}

void TargetOptions::check(bool more, const std::string& others) {
  bool any = options.tp != 1 || options.ep != 1 || options.pp != 1 || !options.hardware.empty();
  if (!given()) {
    if (any || more)
      throw usage_error("--tp, --ep, --pp, --hw" + others + " need --target");
    return;
  }
  engine = &target::engine_from_name(asked);
  for (uint64_t n : {options.tp, options.ep, options.pp}) {
    if (n == 0 || n > kMaxRanks)
      throw usage_error("--tp, --ep and --pp are from 1 to " + std::to_string(kMaxRanks));
  }
}

void TargetOptions::warn_of_version(Tool& tool) const {
  size_t at = asked.find('@');
  if (engine == nullptr || at == asked.npos) return;
  std::string version = asked.substr(at + 1);
  if (target::version_of(*engine).starts_with(version)) return;  // "0.33" is 0.33.0
  tool.warn("--target " + printable(asked) + ": the rules are those of " +
            std::string(target::name_of(*engine)) + " " + std::string(target::version_of(*engine)) +
            ", and no others are known");
}

}  // namespace qp
