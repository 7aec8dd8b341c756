// The engine's command line: what the user gave of it, and the one to launch with. And the
// hardware.
#pragma once

#include <string>

#include "lib/target/engine.h"

namespace qp::target {

struct Flags {
  std::string quantization, kv_cache, dtype;  // "" when not given
  bool speculative = false;
};
Flags read_flags(const std::string& engine_args);

// Topics: flag-redundant, flag-contradicts.
void check_flags(Context& context, const Flags& flags);
std::string launch_command(const Context& context, const Flags& flags);

// Errors: usage.
void check_hardware_name(const std::string& hardware);
// The cell of the engine's tables for a scheme on the hardware asked for; nothing when there is
// none.
const HardwareRow* hardware_row(const Context& context, const Scheme& scheme, Where where);
// Topics: hw-capability, hw-method-capability, hw-scheme, hw-unsupported, hw-open, hw-fnuz,
// hw-cpu-capability, hw-not-known.
void check_hardware(Context& context, const Layer& layer, const Scheme& scheme,
                    const Support& support, Where where);

}  // namespace qp::target
