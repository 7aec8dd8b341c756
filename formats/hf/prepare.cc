#include "formats/hf/prepare.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/model/modules.h"
#include "lib/qmap/stacks.h"
#include "lib/qmap/store.h"

namespace qp {

std::unique_ptr<Store> prepared(const Store& store, const Format& format) {
  if (format.quant_method.empty())
    return nullptr;  // float values, as the source has them
  const Model& m = store.model();
  auto turned_in = [](const Tensor& t) { return t.quantized() && t.transposed; };
  if (std::ranges::none_of(m.tensors, turned_in))
    return nullptr;
  auto quantized = [](const ExpertStack& s) {
    return s.gate_up->quantized() || s.down->quantized();
  };
  // Quark has gpt-oss's experts apart, but gate and up of each in one, alternating: SGLang looks
  // for experts.3.gate_up_proj.
  bool fused = format.name == "quark";
  Model out = format.stacks ? m : with_experts_apart(m, quantized, fused);
  for (Tensor& t : out.tensors) {
    if (!turned_in(t) || t.shape.rank() != 2)
      continue;
    if (!format.conv1d) {
      throw limit_error(
          "is a Conv1D, stored [in, out], which " + std::string(format.name) +
          " cannot say: its readers would take the quantized weight for another matrix")
          .file(store.label())
          .tensor(t.name)
          .hint("use -f gptq, auto-round or bitsandbytes, whose libraries know Conv1D");
    }
    t = turned(t);
  }
  return store.with(std::move(out));
}

}  // namespace qp
