#include "lib/qmap/stacks.h"

#include <algorithm>
#include <array>

#include "lib/base/error.h"
#include "lib/qmap/decode.h"

namespace qp {
namespace {

constexpr std::string_view kGateUp = "gate_up_proj", kDown = "down_proj", kBias = "_bias";

std::string model_type(const Model& m) {
  auto it = m.config.is_object() ? m.config.find("model_type") : m.config.end();
  return it != m.config.end() && it->is_string() ? it->get<std::string>() : "";
}

// Published checkpoints of these call gate, up and down w1, w3 and w2.
bool names_by_number(std::string_view type) {
  constexpr std::string_view kTypes[] = {"mixtral", "phimoe", "minimax", "minimax_m2"};
  return std::ranges::find(kTypes, type) != std::end(kTypes);
}

// Reads the pair of shapes; false: they are no stack.
bool measure(ExpertStack& s) {
  if (s.gate_up == nullptr || s.down == nullptr)
    return false;
  const Shape &a = s.gate_up->shape, &b = s.down->shape;
  if (a.rank() != 3 || b.rank() != 3 || a[0] != b[0] || a.elements() == 0 || b.elements() == 0) {
    return false;
  }
  s.experts = a[0];
  s.transposed = a[1] == b[2] && a[2] == 2 * b[1];
  if (!s.transposed && (a[2] != b[1] || a[1] != 2 * b[2]))
    return false;
  s.hidden = s.transposed ? a[1] : a[2];
  s.inner = s.transposed ? b[1] : b[2];
  auto fits = [&](const Tensor* bias, uint64_t rows) {
    return bias == nullptr || bias->shape == Shape{s.experts, rows};
  };
  return fits(s.gate_up_bias, 2 * s.inner) && fits(s.down_bias, s.hidden);
}

// One linear of every expert: which rows of the expert's matrix it has.
struct Rows {
  std::string_view name;
  uint64_t first, step, count;
};

std::vector<Rows> rows_of(const ExpertStack& s, const Tensor& t) {
  if (&t == s.down || &t == s.down_bias)
    return {{s.names[2], 0, 1, s.hidden}};
  if (s.fused)
    return {{kGateUp, 0, 1, 2 * s.inner}};
  uint64_t step = s.interleaved ? 2 : 1;
  return {{s.names[0], 0, step, s.inner}, {s.names[1], s.interleaved ? 1 : s.inner, step, s.inner}};
}

// The rows of expert e of a tensor with out x in matrices, as parts of their own.
std::vector<Part> cut(const ExpertStack& s, const Tensor& t, const Rows& r, uint64_t e) {
  bool bias = t.shape.rank() == 2;
  uint64_t out = &t == s.down || &t == s.down_bias ? s.hidden : 2 * s.inner;
  uint64_t in = bias ? 1 : t.shape.elements().value() / s.experts / out;
  std::vector<Part> parts;
  for (const Part& p : t.parts) {
    std::optional<Part> piece;
    if (bias) {
      piece = piece_of(p, Shape{r.count}, e * out + r.first, {r.step});
    } else if (p.role == Role::data && s.transposed) {
      piece = piece_of(p, Shape{r.count, in}, e * out * in + r.first, {r.step, out});
    } else if (p.shape.rows() == s.experts * out || p.role == Role::data) {
      uint64_t cols = p.role == Role::data ? in : p.shape.cols();
      piece = piece_of(p, Shape{r.count, cols}, (e * out + r.first) * cols, {r.step * cols, 1});
    }
    if (!piece)
      return {};
    parts.push_back(std::move(*piece));
  }
  return parts;
}

}  // namespace

std::map<std::string, ExpertStack> find_stacks(const Model& m) {
  std::map<std::string, ExpertStack> stacks;
  for (const Tensor& t : m.tensors) {
    auto dot = t.name.rfind('.');
    if (dot == std::string::npos)
      continue;
    std::string_view prefix = std::string_view(t.name).substr(0, dot);
    std::string_view last = std::string_view(t.name).substr(dot + 1);
    if (!prefix.ends_with("experts"))
      continue;
    bool bias = last.ends_with(kBias);
    if (bias)
      last.remove_suffix(kBias.size());
    if (last != kGateUp && last != kDown)
      continue;
    ExpertStack& s = stacks[std::string(prefix)];
    (last == kGateUp ? (bias ? s.gate_up_bias : s.gate_up) : (bias ? s.down_bias : s.down)) = &t;
  }
  std::string type = model_type(m);
  for (auto it = stacks.begin(); it != stacks.end();) {
    ExpertStack& s = it->second;
    s.prefix = it->first;
    s.interleaved = type == "gpt_oss";
    s.names = {"gate_proj", "up_proj", "down_proj"};
    if (names_by_number(type))
      s.names = {"w1", "w3", "w2"};
    it = measure(s) ? std::next(it) : stacks.erase(it);
  }
  return stacks;
}

const ExpertStack* stack_of(const std::map<std::string, ExpertStack>& stacks, const Tensor& t) {
  auto it = stacks.find(t.name.substr(0, std::min(t.name.rfind('.'), t.name.size())));
  return it != stacks.end() && it->second.has(t) ? &it->second : nullptr;
}

std::vector<Tensor> linears_of(const Model& m, const ExpertStack& s, const Tensor& t,
                               std::vector<std::string>* input) {
  if (!t.ggml.empty()) return {};
  if (t.scheme >= 0) {
    Strategy how = m.schemes[static_cast<size_t>(t.scheme)].weights.strategy;
    if (how != Strategy::group && how != Strategy::channel)
      return {};
    if (t.transposed != s.transposed)
      return {};
  }
  bool bias = t.shape.rank() == 2;
  std::vector<Tensor> out;
  for (uint64_t e = 0; e < s.experts; ++e) {
    for (const Rows& r : rows_of(s, t)) {
      Tensor piece;
      piece.name = s.prefix + "." + std::to_string(e) + "." + std::string(r.name) +
                   (bias ? ".bias" : ".weight");
      piece.dtype = t.dtype;
      piece.scheme = t.scheme;
      piece.dequantize = t.dequantize;
      piece.source = t.name + "[" + std::to_string(e) + "]";
      if (input != nullptr)
        input->push_back(piece.source);
      piece.parts = cut(s, t, r, e);
      if (piece.parts.empty())
        return {};
      piece.shape = bias ? Shape{r.count} : Shape{r.count, &t == s.down ? s.inner : s.hidden};
      out.push_back(std::move(piece));
    }
  }
  return out;
}

Tensor turned(const Tensor& t) {
  Tensor view = t;
  if (t.scheme >= 0 || !t.ggml.empty()) {
    view.shape = t.coded_shape();
    view.transposed = false;
    return view;
  }
  std::swap(view.shape[t.shape.rank() - 2], view.shape[t.shape.rank() - 1]);
  std::vector<uint64_t> strides(t.shape.rank(), 1);
  uint64_t out = view.shape[t.shape.rank() - 2], in = view.shape.cols();
  strides.back() = out;
  if (t.shape.rank() == 3)
    strides[0] = out * in;
  auto part = piece_of(t.parts.front(), view.shape, 0, std::move(strides));
  view.parts.clear();
  if (part && t.ggml.empty() && t.shape.rank() <= 3)
    view.parts.push_back(std::move(*part));
  return view;
}

Model with_experts_apart(const Model& m, const std::function<bool(const ExpertStack&)>& wanted,
                         bool fused) {
  auto stacks = find_stacks(m);
  for (auto& [prefix, stack] : stacks) stack.fused = fused;
  std::erase_if(stacks, [&](const auto& s) { return !wanted(s.second); });
  Model out = m;
  if (stacks.empty())
    return out;
  out.tensors.clear();
  for (const Tensor& t : m.tensors) {
    const ExpertStack* stack = stack_of(stacks, t);
    if (stack == nullptr) {
      out.tensors.push_back(t);
      continue;
    }
    std::vector<Tensor> linears = linears_of(m, *stack, t);
    if (linears.empty()) {
      throw limit_error("is a stack of experts stored in a form that cannot be taken apart")
          .tensor(t.name)
          .hint("copy it with qload --pack first");
    }
    std::ranges::move(linears, std::back_inserter(out.tensors));
  }
  return out;
}

}  // namespace qp
