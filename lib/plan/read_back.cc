#include "lib/plan/read_back.h"

#include <map>

#include "lib/config/presets.h"

namespace qp {

Json recipe_of(const Model& model) {
  std::map<std::string, size_t> known;
  Json rules = Json::array();
  for (const Tensor& t : model.tensors) {
    if (!t.quantized()) continue;
    Json scheme = t.ggml.empty() ? to_json(model.schemes[static_cast<size_t>(t.scheme)])
                                 : Json(find_scheme("gguf:" + t.ggml).name);
    auto [it, fresh] = known.emplace(scheme.dump(), rules.size());
    if (fresh) rules.push_back({{"match", Json::array()}, {"scheme", scheme}});
    rules[it->second]["match"].push_back(t.name);
  }
  return {{"rules", rules}};
}

}  // namespace qp
