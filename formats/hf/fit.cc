#include "formats/hf/fit.h"

#include <optional>

#include "lib/base/error.h"
#include "lib/model/inner_size.h"
#include "lib/qmap/grown.h"
#include "lib/qmap/store.h"

namespace qp {
namespace {

constexpr const char* kSizeKeys[] = {"intermediate_size", "moe_intermediate_size",
                                     "shared_expert_intermediate_size"};

// Pads every MLP whose size a key of `sizes` says; false when one of them cannot be.
bool pad(Model& m, const std::map<std::string, uint64_t>& sizes, std::vector<LedgerEntry>& ledger) {
  std::map<std::string, int> members;  // of an MLP: gate, up and down, or its outputs would change
  for (Tensor& t : m.tensors) {
    auto inner = inner_size(t.name, t.shape, m.config);
    auto size = inner ? sizes.find(inner->key) : sizes.end();
    if (size == sizes.end()) continue;
    Shape to = t.shape;
    to[inner->rows ? 0 : to.rank() - 1] = size->second * inner->times;
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
