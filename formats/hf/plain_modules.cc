#include "formats/hf/plain_modules.h"

#include <algorithm>

#include "lib/model/modules.h"

namespace qp {

std::vector<std::string> plain_linears(const Model& m) {
  std::vector<std::string> out;
  bool head = false;
  for (const Tensor& t : m.tensors) {
    ModuleInfo info = classify(t.name, t.quantized() ? DType::bf16 : t.dtype, t.shape, m.config);
    if (info.kind == ModuleKind::head) head = true;
    using enum ModuleKind;
    bool built = info.kind == linear || info.kind == expert || info.kind == ModuleKind::head ||
                  info.kind == router || info.kind == vision || info.kind == mtp || info.kind == other;
    if (!t.quantized() && built && t.name.ends_with(".weight") && t.shape.rank() == 2) out.push_back(info.module);
  }
  if (!head) out.push_back("lm_head");
  std::ranges::sort(out);
  out.erase(std::unique(out.begin(), out.end()), out.end());
  return out;
}

}  // namespace qp
