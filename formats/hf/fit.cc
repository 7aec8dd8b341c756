#include "formats/hf/fit.h"

#include <algorithm>
#include <optional>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/model/inner_size.h"
#include "lib/model/modules.h"
#include "lib/qmap/grown.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

// A tensor of a decoder's MLPs with the inner size: a projection, or BitNet's norm.
bool has_inner_size(const Tensor& t, const Json& config) {
  auto has = [&](std::string_view part) { return t.name.find(part) != t.name.npos; };
  bool projection = (has("mlp.") || has("experts.") || has("feed_forward.")) && has("_proj") &&
                    !t.name.ends_with("down_proj.bias");
  return (projection || has("ffn_sub_norm")) &&
         classify(t.name, t.dtype, t.shape, config).kind != ModuleKind::vision;
}

// Other keys that hold one of the old sizes and mean MLPs: who reads them is not known.
bool other_keys(const Json& config, const std::map<std::string, uint64_t>& sizes) {
  auto known = [](const std::string& key) {
    return std::ranges::find(kInnerSizeKeys, key) != kInnerSizeKeys.end();
  };
  for (const auto& [key, value] : config.items()) {
    bool means = key.find("intermediate") != key.npos || key.find("ff_dim") != key.npos ||
                 key.find("ffn_") != key.npos;
    if (!means || known(key)) continue;
    for (const auto& [size, larger] : sizes) {
      if (value == config.at(size) || value.is_array()) return true;
    }
  }
  return false;
}

// Pads every MLP whose size a key of `sizes` says; false when one of them cannot be.
bool pad(Model& m, const std::map<std::string, uint64_t>& sizes, std::vector<LedgerEntry>& ledger) {
  std::map<std::string, int> members;  // of an MLP: gate, up and down, or its outputs would change
  if (other_keys(decoder_config(m.config), sizes)) return false;
  for (Tensor& t : m.tensors) {
    auto inner = inner_size(t.name, t.shape, m.config);
    if (!inner && has_inner_size(t, m.config)) return false;  // by which key is not known
    auto size = inner ? sizes.find(inner->key) : sizes.end();
    if (size == sizes.end()) continue;
    Shape to = t.shape;
    auto padded_size = checked_mul(size->second, inner->times);
    if (!padded_size) return false;
    to[inner->rows ? 0 : to.rank() - 1] = *padded_size;
    auto larger = padded(m, t, to);
    if (!larger) return false;
    if (t.shape.rank() == 2) ++members[inner->mlp];
    ledger.push_back({t.name, "padded", t.shape.str() + " with zeros to " + to.str()});
    t = std::move(*larger);
  }
  for (const auto& [mlp, n] : members) {
    if (n != 3) return false;
  }
  for (const auto& [key, size] : sizes) {
    Json& value = decoder_config(m.config)[key];
    ledger.push_back(
        {"config.json", "padded", key + " " + value.dump() + " to " + std::to_string(size)});
    value = size;
  }
  return !members.empty();
}

}  // namespace

std::map<std::string, uint64_t> larger_sizes(const Model& checkpoint, const Model& base) {
  std::map<std::string, uint64_t> sizes;
  const Json &here = decoder_config(checkpoint.config), &there = decoder_config(base.config);
  if (!here.is_object() || !there.is_object()) return sizes;
  for (std::string_view key : kInnerSizeKeys) {
    auto a = here.find(key), b = there.find(key);
    if (a == here.end() || b == there.end()) continue;
    if (!a->is_number_unsigned() || !b->is_number_unsigned() || *a <= *b) continue;
    if (a->get<uint64_t>() / 2 > b->get<uint64_t>()) continue;  // that is another model
    sizes[std::string(key)] = a->get<uint64_t>();
  }
  return sizes;
}

std::unique_ptr<Store> fitted(const Store& store, const Changes& changes,
                              std::vector<LedgerEntry>& ledger) {
  Model m = store.model();
  for (Tensor& t : m.tensors) {
    std::string module = t.name.ends_with(".weight") ? t.name.substr(0, t.name.size() - 7) : t.name;
    if (changes.left_out.contains(module) && t.quantized()) {
      t.dequantize = true;
    } else if (changes.group_size != 0 && t.quantized()) {
      regroup(m, t, changes.group_size);
    }
  }
  if (!changes.sizes.empty() && !pad(m, changes.sizes, ledger)) return nullptr;
  return store.with(std::move(m));
}

}  // namespace qp
