#include "lib/arch/moe.h"

namespace qp::arch {

using engine::Form;

void MoeDecoder::check_stack(const std::string& tensor, size_t rows, size_t cols) const {
  Shape expected{route_.experts, rows, cols};
  const Shape* shape = weights_.shape(tensor);
  if (shape != nullptr && *shape == expected) return;
  std::string what = shape == nullptr ? "is missing" : "has shape " + shape->str();
  throw input_error(what + " (expected " + expected.str() + ")")
      .file(weights_.store().label())
      .tensor(tensor)
      .hint("config.json and the weights disagree");
}

engine::ExpertSpec MoeDecoder::expert_spec(size_t e) const {
  engine::ExpertSpec spec;
  spec.index = e;
  spec.top_k = route_.top_k;
  spec.hidden = hidden;
  spec.inner = expert_inner_;
  spec.act = act_;
  return spec;
}

engine::ExpertSpec MoeDecoder::expert(const std::string& module, size_t e) const {
  engine::ExpertSpec spec = expert_spec(e);
  size_t inner = spec.inner;
  std::string both = module + ".experts.gate_up_proj", down = module + ".experts.down_proj";
  if (weights_.has(both)) {
    check_stack(both, 2 * inner, hidden);
    check_stack(down, hidden, inner);
    std::string at = "[" + std::to_string(e) + "]";
    spec.matrices = {{both, Form::matrix, inner, hidden, false, true, 2 * e * inner},
                     {both, Form::matrix, inner, hidden, false, true, (2 * e + 1) * inner},
                     {down, Form::matrix, hidden, inner, false, true, e * hidden}};
    spec.modules = {both + at, both + at, down + at};
    return spec;
  }
  for (size_t m = 0; m < parts_.size(); ++m) {
    std::string name = module + ".experts." + std::to_string(e) + "." + parts_[m];
    bool last = m == 2;
    spec.matrices.push_back(
        {name + ".weight", Form::matrix, last ? hidden : inner, last ? inner : hidden});
    spec.modules.push_back(name);
  }
  return spec;
}

Value MoeDecoder::mlp(Graph& g, Value x, size_t i) const {
  if (!sparse(i)) return Decoder::mlp(g, x, i);
  std::string module = block(i);
  // The last expert first: a count that the checkpoint does not bear out costs nothing.
  weights_.check(expert(module, route_.experts - 1).matrices.front());
  engine::RouteSpec route = route_;
  route.module = module + "." + router_;
  if (!route.bias.empty()) route.bias = route.module + "." + route_.bias;
  Value logits = linear(g, x, route.module, route.experts, router_bias_);
  Value way = g.make<engine::Route>({logits}, route);
  Value sum = g.make<engine::Zeros>({x}, hidden);
  for (size_t e = 0; e < route.experts; ++e) {
    sum = g.make<engine::Expert>({x, way, sum}, expert(module, e));
  }
  return shared(g, x, sum, module);
}

}  // namespace qp::arch
