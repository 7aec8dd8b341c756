#include "lib/qmap/latents.h"

#include <algorithm>

#include "lib/qmap/decode.h"

namespace qp {
namespace {

constexpr std::string_view kName = ".kv_b_proj.weight", kWeight = ".weight";

uint64_t count(const Json& config, const char* key) {
  return static_cast<uint64_t>(std::max<int64_t>(0, json_int(config, key, 0)));
}

}  // namespace

std::optional<std::pair<Tensor, Tensor>> latents_of(const Model& m, const Tensor& t) {
  bool plain = !t.quantized() && t.scheme < 0 && t.parts.size() == 1 && t.shape.rank() == 2;
  if (!plain || !t.name.ends_with(kName) || !m.config.is_object()) return std::nullopt;
  uint64_t heads = count(m.config, "num_attention_heads"), rank = t.shape[1];
  uint64_t nope = count(m.config, "qk_nope_head_dim"), value = count(m.config, "v_head_dim");
  bool fits = heads > 0 && nope > 0 && value > 0 && t.shape[0] % heads == 0 &&
              t.shape[0] / heads >= nope && t.shape[0] / heads - nope == value;
  if (!fits) return std::nullopt;
  uint64_t head = (nope + value) * rank;
  auto part = [&](std::string_view name, const Shape& shape, uint64_t first,
                  std::vector<uint64_t> strides) -> std::optional<Tensor> {
    auto piece = piece_of(t.parts.front(), shape, first, std::move(strides));
    if (!piece) return std::nullopt;
    Tensor view = t;
    view.name.insert(view.name.size() - kWeight.size(), name);
    view.source = t.name;
    view.shape = shape;
    view.parts = {std::move(*piece)};
    return view;
  };
  auto keys = part(kLatentKeys, Shape{heads, rank, nope}, 0, {head, 1, rank});
  auto values = part(kLatentValues, Shape{heads, value, rank}, nope * rank, {head, rank, 1});
  if (!keys || !values) return std::nullopt;
  return std::pair(std::move(*keys), std::move(*values));
}

std::optional<Model> with_latents_apart(
    const Model& m, const std::function<bool(const std::string& name)>& wanted) {
  std::optional<Model> out;
  for (size_t i = m.tensors.size(); i-- > 0;) {
    auto halves = wanted(m.tensors[i].name) ? latents_of(m, m.tensors[i]) : std::nullopt;
    if (!halves) continue;
    if (!out) out = m;
    auto at = out->tensors.begin() + static_cast<ptrdiff_t>(i);
    *at = std::move(halves->first);
    out->tensors.insert(at + 1, std::move(halves->second));
  }
  return out;
}

}  // namespace qp
