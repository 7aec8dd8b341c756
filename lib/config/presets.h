// The schemes that have a name. Pure data: one row each in presets.cc.
#pragma once

#include <span>
#include <string>
#include <optional>
#include <string_view>
#include <vector>

#include "lib/model/modules.h"
#include "lib/scheme/scheme.h"

namespace qp {

struct Preset {
  std::string name;
  std::string summary;
  Scheme scheme;
  std::vector<std::string_view> aliases;  // what peers call it, matched without case
  std::optional<Scheme> experts = {};  // what experts get instead
};

std::span<const Preset> presets();

// The scheme of a preset name or alias, without case. Errors: usage; an unknown name gets a
// "did you mean", a known one that cannot be made yet says what to use instead.
Scheme find_scheme(std::string_view name);
// What experts get instead, for presets that say so. Errors: none, an unknown name has none.
std::optional<Scheme> expert_scheme(std::string_view name);

// Module kinds a scheme can be applied to when a rule names them: linears and experts, the head
// under every scheme, embeddings under weight-only integers (what engines load;
// reference/compressed-tensors.md 5.1).
bool accepts(const Scheme& scheme, ModuleKind kind);

// --num-bits, --group-size, --symmetric applied to a scheme; empty or 0 leaves a value alone.
// group_size: a number, "channel" or "tensor". Without a base scheme: weight-only integers.
struct SchemeOverrides {
  int num_bits = 0;
  std::string group_size;
  std::string symmetric;  // "", "true", "false"
  std::string numerics;   // a row of lib/scheme/numerics.cc
  bool any() const { return num_bits != 0 || !group_size.empty() || !symmetric.empty(); }
};
Scheme compose_scheme(std::string_view base, const SchemeOverrides& overrides);

}  // namespace qp
