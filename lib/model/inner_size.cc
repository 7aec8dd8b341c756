#include "lib/model/inner_size.h"

#include <algorithm>
#include <array>
#include <utility>

#include "lib/base/checked.h"
#include "lib/model/modules.h"

namespace qp {
namespace {

struct Member {
  std::string_view name;
  bool rows;
};
constexpr std::array<Member, 6> kMembers = {{{"gate_proj", true},
                                             {"up_proj", true},
                                             {"down_proj", false},
                                             {"w1", true},
                                             {"w3", true},
                                             {"w2", false}}};

uint64_t number(const Json& config, std::string_view key) {
  auto it = config.find(key);
  return it != config.end() && it->is_number_unsigned() ? it->get<uint64_t>() : 0;
}

// The first of these keys that is there; "" when that is no size.
std::string_view first_of(const Json& config, std::initializer_list<std::string_view> keys) {
  auto it = std::ranges::find_if(keys, [&](std::string_view k) { return config.contains(k); });
  return it == keys.end() || number(config, *it) == 0 ? std::string_view() : *it;
}

}  // namespace

const Json& decoder_config(const Json& config) {
  if (!config.is_object()) return config;
  auto text = config.find("text_config");
  return text != config.end() && text->is_object() ? *text : config;
}

Json& decoder_config(Json& config) {
  return const_cast<Json&>(decoder_config(std::as_const(config)));
}

std::optional<InnerSize> inner_size(std::string_view name, const Shape& shape, const Json& config) {
  bool bias = name.ends_with(".bias");
  if (!bias && !name.ends_with(".weight")) return std::nullopt;
  std::string_view module = name.substr(0, name.rfind('.'));
  auto dot = module.rfind('.');
  if (dot == module.npos) return std::nullopt;
  auto member = std::ranges::find(kMembers, module.substr(dot + 1), &Member::name);
  if (member == kMembers.end() || shape.rank() != (bias ? 1u : 2u)) return std::nullopt;
  if (bias && !member->rows) return std::nullopt;  // of the hidden size
  if (classify(name, DType::bf16, shape, config).kind == ModuleKind::vision) return std::nullopt;
  const Json& c = decoder_config(config);
  if (!c.is_object()) return std::nullopt;
  InnerSize found{.mlp = std::string(module.substr(0, dot)), .key = {}, .rows = member->rows};
  constexpr auto dense = kInnerSizeKeys[0], routed = kInnerSizeKeys[1], shared = kInnerSizeKeys[2];
  std::string_view key = dense;
  if (module.find("shared_expert") != module.npos) {
    key = first_of(c, {shared, routed});
    if (key == routed)
      found.times = number(c, first_of(c, {"n_shared_experts", "num_shared_experts"}));
  } else if (module.find("experts.") != module.npos) {
    key = first_of(c, {routed, dense});
  }
  uint64_t here = bias || !member->rows ? shape.cols() : shape.rows();
  if (key.empty() || found.times == 0) return std::nullopt;
  if (checked_mul(number(c, key), found.times) != here) return std::nullopt;
  found.key = key;
  return found;
}

}  // namespace qp
