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

constexpr const char* kSizeKeys[] = {"intermediate_size", "moe_intermediate_size",
                                     "shared_expert_intermediate_size"};

// A tensor of MLPs that is not known to grow with a key: what it holds would no longer fit.
bool belongs_to_mlps(const Tensor& t, const Json& config) {
  bool named = t.name.find("mlp.") != t.name.npos || t.name.find("experts.") != t.name.npos ||
               t.name.find("feed_forward.") != t.name.npos;
  if (!named || t.name.find("_proj") == t.name.npos) {
    bool norm = t.name.find("ffn_sub_norm") != t.name.npos;  // of the inner size
    if (!norm) return false;
  }
  bool bias = t.name.ends_with("down_proj.bias");
  return !bias && classify(t.name, t.dtype, t.shape, config).kind != ModuleKind::vision;
}

// Other keys that hold one of the old sizes and mean MLPs: who reads them is not known.
bool other_keys(const Json& config, const std::map<std::string, uint64_t>& sizes) {
  auto known = [](const std::string& key) {
    return std::ranges::find(kSizeKeys, key) != std::end(kSizeKeys);
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
    if (!inner && belongs_to_mlps(t, m.config)) return false;
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
  for (const char* key : kSizeKeys) {
    auto a = here.find(key), b = there.find(key);
    if (a == here.end() || b == there.end()) continue;
    if (!a->is_number_unsigned() || !b->is_number_unsigned() || *a <= *b) continue;
    if (a->get<uint64_t>() / 2 > b->get<uint64_t>()) continue;  // that is another model
    sizes[key] = a->get<uint64_t>();
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
