#include "lib/ggml/tensor_map.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <optional>
#include <unordered_map>

#include "lib/base/error.h"

namespace qp::ggml {
namespace {

constexpr std::string_view kSuffixes[] = {".weight", ".bias"};

bool take_prefix(std::string_view& name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return false;
  name.remove_prefix(prefix.size());
  return true;
}

std::optional<uint64_t> take_number(std::string_view& name) {
  uint64_t n = 0;
  auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), n);
  auto digits = static_cast<size_t>(end - name.data());
  bool more = error == std::errc() && digits < name.size() && name[digits] == '.';
  if (!more || n > UINT32_MAX || (digits > 1 && name[0] == '0')) return std::nullopt;
  name.remove_prefix(digits + 1);
  return n;
}

// "model.layers.3.mlp.experts.7.up_proj.weight" in pieces.
struct HfName {
  std::optional<uint64_t> layer, expert;
  std::string rest;  // "mlp.experts.*.up_proj.weight"
};

HfName parse_name(std::string_view name, std::string_view stack) {
  // Wrappers: model.language_model.layers, language_model.model.layers, transformer.h ..
  while (take_prefix(name, "model.") || take_prefix(name, "language_model.") ||
         take_prefix(name, "transformer.")) {
  }
  HfName out;
  std::string_view inner = name;
  if (take_prefix(inner, stack) && take_prefix(inner, ".")) {
    out.layer = take_number(inner);
    if (out.layer) name = inner;
  }
  constexpr std::string_view kExperts = ".experts.";
  size_t at = name.find(kExperts);
  std::string_view tail = at == name.npos ? "" : name.substr(at + kExperts.size());
  if (out.layer && at != name.npos) out.expert = take_number(tail);
  out.rest = out.expert ? std::string(name.substr(0, at)) + ".experts.*." + std::string(tail)
                        : std::string(name);
  return out;
}

// What a text model's file has no place for. Null: it has one.
const char* why_dropped(const HfName& name) {
  const std::string& rest = name.rest;
  if (rest.ends_with(".rotary_emb.inv_freq") || rest == "rotary_emb.inv_freq") {
    return "computed from config.json";
  }
  if (rest.ends_with(".attn.bias") || rest.ends_with(".masked_bias")) return "a causal mask";
  if (name.layer) return nullptr;
  for (std::string_view vision : {"visual.", "vision_tower.", "vision_model.",
                                  "multi_modal_projector.", "multimodal_projector."}) {
    if (rest.starts_with(vision)) {
      return "of the vision part, which goes into a file of its own (-f mmproj)";
    }
  }
  return nullptr;
}

struct Sizes {
  uint64_t heads = 0, kv_heads = 0, layers = 0, experts = 0, nope = 0, value = 0;
};

Sizes read_sizes(const Config& config) {
  Sizes s;
  s.heads = config.count({"num_attention_heads", "n_head"}).value_or(0);
  s.kv_heads = config.count({"num_key_value_heads"}).value_or(s.heads);
  s.layers = config.count({"num_hidden_layers", "n_layer"}).value_or(0);
  s.experts = config.count({"num_local_experts", "num_experts", "n_routed_experts"}).value_or(0);
  s.nope = config.count({"qk_nope_head_dim"}).value_or(0);
  s.value = config.count({"v_head_dim"}).value_or(0);
  return s;
}

// A tensor's matrices as a view sees them.
struct Dims {
  const Shape& shape;
  size_t rank() const { return shape.rank(); }
  uint64_t cols() const { return shape.cols(); }
  uint64_t rows() const { return rank() < 2 ? 1 : shape[rank() - 2]; }
};

struct Seen {
  View view;
  Shape shape;       // of the result
  bool fits = true;  // the shape is one that the operation is for
};

Seen misfit() { return Seen{{}, {}, false}; }

Shape with_matrix(const Shape& shape, uint64_t rows, uint64_t cols) {
  Shape out = shape;
  out[shape.rank() - 2] = rows;
  out[shape.rank() - 1] = cols;
  return out;
}

// Rotary order: stored row 2j + half of a head is row half * d/2 + j of it.
Seen rotated(const Shape& s, uint64_t heads) {
  uint64_t n = s.rank() == 0 || s.rank() > 2 ? 0 : s[0], cols = s.rank() == 2 ? s[1] : 1;
  if (heads == 0 || n == 0 || n % (2 * heads) != 0) return misfit();
  uint64_t d = n / heads;
  View v{Shape{heads, d / 2, 2}, 0, {d * cols, cols, d / 2 * cols}};
  if (s.rank() == 2) {
    v.shape.push(cols);
    v.strides.push_back(1);
  }
  return Seen{std::move(v), s};
}

// Half of the rows of each matrix: `step` 1 and a first row, or every other row.
Seen half_rows(const Shape& s, bool interleaved, bool second) {
  if (s.rank() < 1 || s.rank() > 3) return misfit();
  if (s.rank() == 2) {  // biases [E, 2F]
    uint64_t n = s[1] / 2;
    Shape out{s[0], n};
    uint64_t first = second ? (interleaved ? 1 : n) : 0;
    if (s[1] % 2 != 0) return misfit();
    return Seen{{out, first, {s[1], interleaved ? 2u : 1u}}, out};
  }
  if (s.rank() != 3 || s[1] % 2 != 0) return misfit();
  uint64_t rows = s[1] / 2, cols = s[2];
  Shape out{s[0], rows, cols};
  uint64_t first = second ? (interleaved ? cols : rows * cols) : 0;
  return Seen{{out, first, {s[1] * cols, interleaved ? 2 * cols : cols, 1}}, out};
}

Seen half_columns(const Shape& s, bool second) {
  if (s.rank() == 2) return half_rows(s, true, second);
  if (s.rank() != 3 || s[2] % 2 != 0) return misfit();
  Shape out{s[0], s[2] / 2, s[1]};
  return Seen{{out, second ? 1u : 0u, {s[1] * s[2], 2, s[2]}}, out};
}

Seen whole(const Shape& s) { return Seen{{s, 0, {}}, s}; }

Seen exchanged(const Shape& s) {
  if (s.rank() == 1) return whole(s);
  if (s.rank() == 2) return Seen{{Shape{s[1], s[0]}, 0, {1, s[1]}}, Shape{s[1], s[0]}};
  if (s.rank() != 3) return misfit();
  Shape out = with_matrix(s, s[2], s[1]);
  return Seen{{out, 0, {s[1] * s[2], 1, s[2]}}, out};
}

Seen latent(const Shape& s, const Sizes& n, bool keys) {
  uint64_t head = n.nope + n.value;
  if (s.rank() != 2 || head == 0 || n.heads == 0 || s[0] != n.heads * head) return misfit();
  uint64_t rank = s[1];
  if (keys) {
    Shape out{n.heads, rank, n.nope};
    return Seen{{out, 0, {head * rank, 1, rank}}, out};
  }
  Shape out{n.heads, n.value, rank};
  return Seen{{out, n.nope * rank, {head * rank, rank, 1}}, out};
}

// `coded`: the tensor is seen as its quantized rows lie, [.., out, in], whatever its values do.
Seen apply(Op op, const Shape& s, const Sizes& n, bool coded) {
  switch (op) {
    case Op::plain:
    case Op::plus_one: return Seen{{s, 0, {}}, s};
    case Op::rope_q: return rotated(s, n.heads);
    case Op::rope_k: return rotated(s, n.kv_heads);
    case Op::transposed:
      if (coded) return whole(s);
      return exchanged(s);
    case Op::first_rows: return half_rows(s, false, false);
    case Op::last_rows: return half_rows(s, false, true);
    case Op::even_columns: return coded ? half_rows(s, true, false) : half_columns(s, false);
    case Op::odd_columns: return coded ? half_rows(s, true, true) : half_columns(s, true);
    case Op::key_b: return latent(s, n, true);
    case Op::value_b: return latent(s, n, false);
  }
  return misfit();
}

// Whether a view takes whole rows: all that can be done with blocks.
bool whole_rows(const View& v, uint64_t cols) {
  if (v.strides.empty()) return true;
  if (v.shape.cols() != cols || v.strides.back() != 1 || v.first % cols != 0) return false;
  return std::ranges::all_of(std::span(v.strides).first(v.strides.size() - 1),
                             [&](uint64_t s) { return s % cols == 0; });
}

class Mapper {
 public:
  Mapper(const Model& model, const Family& family)
      : model_(model), family_(family), config_(model.config), sizes_(read_sizes(config_)) {
    for (const auto* rules : {&family.model, &family.layer}) {
      for (const TensorRule& r : *rules) {
        if (r.whole) index(rules, std::string(r.hf), std::string(r.gguf), r.op);
        for (std::string_view s : kSuffixes) {
          if (!r.whole)
            index(rules, std::string(r.hf) + std::string(s), std::string(r.gguf) + std::string(s),
                  r.op);
        }
      }
    }
  }

  TensorMap run() {
    for (size_t i = 0; i < model_.tensors.size(); ++i) place(i);
    TensorMap map;
    map.dropped = std::move(dropped_);
    for (auto& [key, made] : made_) map.tensors.push_back(finish(key, made));
    return map;
  }

 private:
  // llama-quantize's order: names without a block, bytewise, then blocks by number.
  using Key = std::pair<uint64_t, std::string>;
  struct Made {
    std::map<uint64_t, std::pair<Piece, Shape>> experts;  // by number; 0 for a tensor of no expert
    bool apart = false;
    bool plus_one = false;
  };
  struct Row {
    std::string gguf;
    Op op;
  };

  void index(const TensorRules* rules, std::string hf, std::string gguf, Op op) {
    (rules == &family_.model ? model_rows_ : layer_rows_)[std::move(hf)].push_back(
        {std::move(gguf), op});
  }

  const Tensor& tensor(size_t i) const { return model_.tensors[i]; }

  bool head_dropped(const HfName& name, const char*& why) const {
    if (name.layer || name.rest != "lm_head.weight") return false;
    if (family_.head_dropped ||
        (family_.tied_head_dropped && config_.flag("tie_word_embeddings", false))) {
      why = "the embedding is the head";
      return true;
    }
    return false;
  }

  void place(size_t i) {
    const Tensor& t = tensor(i);
    HfName name = parse_name(t.name, family_.stack);
    const char* why = why_dropped(name);
    if (why != nullptr || head_dropped(name, why)) return dropped_.emplace_back(i, why), void();
    if (name.layer && *name.layer >= sizes_.layers) {
      if (family_.extra_layers_dropped) {
        return dropped_.emplace_back(
                   i, "of a layer that predicts several tokens, which llama.cpp's file leaves out"),
               void();
      }
      throw input_error("is of layer " + std::to_string(*name.layer) + ", but config.json counts " +
                        std::to_string(sizes_.layers))
          .tensor(t.name);
    }
    const auto& rows = name.layer ? layer_rows_ : model_rows_;
    auto it = rows.find(name.rest);
    if (it == rows.end()) {
      throw input_error("has no place in a GGUF of architecture '" + std::string(family_.arch) +
                        "'")
          .tensor(t.name)
          .hint("llama.cpp does not know such a tensor; export to another format");
    }
    for (const Row& row : it->second) add(i, name, row);
  }

  void add(size_t i, const HfName& name, const Row& row) {
    const Tensor& t = tensor(i);
    bool coded = t.quantized();
    const Shape shape = coded ? t.coded_shape() : t.shape;
    auto seen = apply(row.op, shape, sizes_, coded && t.transposed);
    if (!seen.fits) {
      throw input_error("has shape " + t.shape.str() + ", which does not fit config.json")
          .tensor(t.name);
    }
    if (coded && !whole_rows(seen.view, shape.cols())) {
      throw limit_error("is quantized, but llama.cpp stores it turned")
          .tensor(t.name)
          .hint("leave it unquantized: --ignore '" + t.name + "'");
    }
    std::string gguf =
        name.layer ? "blk." + std::to_string(*name.layer) + "." + row.gguf : row.gguf;
    Made& made = made_[{name.layer ? *name.layer + 1 : 0, std::move(gguf)}];
    made.plus_one = row.op == Op::plus_one;
    made.apart = name.expert.has_value();
    auto piece = std::pair(Piece{i, row.op, std::move(seen.view)}, seen.shape);
    if (!made.experts.emplace(name.expert.value_or(0), std::move(piece)).second) {
      throw input_error("is in the checkpoint under two names").tensor(t.name);
    }
  }

  MappedTensor finish(const Key& key, Made& made) const {
    MappedTensor out;
    out.name = key.second;
    out.plus_one = made.plus_one;
    const Shape first = made.experts.begin()->second.second;
    out.shape = first;
    if (made.apart) out.shape = stacked(key.second, made, first);
    for (auto& [number, piece] : made.experts) out.pieces.push_back(std::move(piece.first));
    return out;
  }

  Shape stacked(const std::string& gguf, const Made& made, const Shape& first) const {
    const Tensor& example = tensor(made.experts.begin()->second.first.tensor);
    if (made.experts.size() != sizes_.experts ||
        made.experts.rbegin()->first != sizes_.experts - 1) {
      throw input_error("has " + std::to_string(made.experts.size()) +
                        " experts, but config.json says " + std::to_string(sizes_.experts) +
                        " (for " + gguf + ")")
          .tensor(example.name);
    }
    for (const auto& [number, piece] : made.experts) {
      const Tensor& t = tensor(piece.first.tensor);
      bool same = piece.second == first && t.ggml == example.ggml && t.dtype == example.dtype &&
                  t.scheme == example.scheme;
      if (!same) {
        throw input_error(
            "differs from expert 0 in shape or type: llama.cpp keeps all experts in one tensor")
            .tensor(t.name);
      }
    }
    Shape out{sizes_.experts};
    for (uint64_t d : first.dims()) out.push(d);
    return out;
  }

  const Model& model_;
  const Family& family_;
  const Config config_;
  const Sizes sizes_;
  std::unordered_map<std::string, std::vector<Row>> model_rows_, layer_rows_;
  std::map<Key, Made> made_;
  std::vector<std::pair<size_t, std::string>> dropped_;
};

}  // namespace

const Family& family_of(const Model& model) {
  const Family* family = find_family(model.architecture);
  if (family != nullptr) return *family;
  std::string known;
  for (const Family* f : families()) {
    for (std::string_view a : f->architectures)
      known += (known.empty() ? "" : ", ") + std::string(a);
  }
  throw limit_error(
      model.architecture.empty()
          ? "has no config.json that names an architecture, so GGUF's names are not known"
          : "architecture '" + printable(model.architecture) + "' has no GGUF names here")
      .hint("known are " + known);
}

TensorMap map_tensors(const Model& model, const Family& family) {
  return Mapper(model, family).run();
}

HfNames::HfNames(const Family& family)
    : stack_(family.stack), prefix_(family.stack == "h" ? "transformer." : "model.") {
  for (const auto* rules : {&family.model, &family.layer}) {
    auto& rows = rules == &family.model ? model_ : layer_;
    for (const TensorRule& r : *rules) {
      // Halves of a tensor are no tensor: the row that follows has experts apart.
      bool half = r.op == Op::first_rows || r.op == Op::last_rows || r.op == Op::even_columns ||
                  r.op == Op::odd_columns;
      if (half) continue;
      if (r.whole) rows.emplace(std::string(r.gguf), Row{std::string(r.hf), r.op});
      for (std::string_view s : kSuffixes) {
        if (r.whole) continue;
        rows.emplace(std::string(r.gguf) + std::string(s),
                     Row{std::string(r.hf) + std::string(s), r.op});
      }
    }
  }
}

std::optional<HfTarget> HfNames::find(std::string_view name) const {
  HfTarget out;
  bool in_layer = take_prefix(name, "blk.");
  if (in_layer) out.layer = take_number(name);
  if (in_layer && !out.layer) return std::nullopt;
  const auto& rows = in_layer ? layer_ : model_;
  auto it = rows.find(std::string(name));
  if (it == rows.end()) return std::nullopt;
  const std::string& hf = it->second.hf;
  out.op = it->second.op;
  out.experts = hf.find('*') != std::string::npos;
  std::string prefix = hf == "lm_head.weight" ? "" : std::string(prefix_);
  if (in_layer) prefix += std::string(stack_) + "." + std::to_string(*out.layer) + ".";
  out.name = prefix + hf;
  return out;
}

bool always_f32(std::string_view name, const Shape& shape) {
  if (shape.rank() < 2 || !name.ends_with(".weight") || name.ends_with("_norm.weight")) return true;
  return name.ends_with(".ffn_gate_inp.weight") || name.ends_with(".ffn_gate_inp_shexp.weight") ||
         name == "position_embd.weight";
}

}  // namespace qp::ggml
