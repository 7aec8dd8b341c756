// The modules of a checkpoint as an engine builds them: linears fused, experts stacked.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "lib/model/modules.h"
#include "lib/target/checkpoint.h"
#include "lib/target/scheme.h"

namespace qp::target {

// The tensors that are stored under one module name.
struct StoredModule {
  std::string_view name;
  ModuleKind kind = ModuleKind::other;
  std::vector<std::pair<std::string_view, uint32_t>> parts;  // suffix, number of the tensor

  std::optional<uint32_t> find(std::string_view suffix) const;
};

enum class Part : uint8_t {
  linear,
  experts,  // all experts of a layer, three projections each
  head,
  embedding,
  plain,  // norms, convolutions, routers: what engines build without a quantization
  draft,  // MTP layers: loaded by the draft model alone
};
enum class Split : uint8_t { none, column, row, vocab };  // by tensor parallelism

struct Shard {
  uint32_t module = 0;      // into Layers::modules; kAbsent: nothing is stored
  std::string name;         // of the module, stored or not
  std::string_view member;  // "q_proj"
  int32_t expert = -1;
  Split split = Split::none;
  Dims dims;  // as config.json says, else 0
  static constexpr uint32_t kAbsent = UINT32_MAX;
};

struct Layer {
  Part part = Part::plain;
  std::string name;             // as the engine calls it, with the checkpoint's prefix
  std::string_view class_name;  // of vLLM and SGLang
  std::vector<Shard> shards;
  bool vision = false;
  bool router = false;
  int64_t index = -1;  // of the decoder layer; -1: outside of it
};

// Linears that an engine fuses: members on disk and the name of the whole.
struct Fused {
  std::string_view member, whole;
};

struct Layers {
  std::vector<StoredModule> modules;
  std::vector<Layer> layers;
};

// What config.json says of sizes; 0 what it does not.
struct ModelShape {
  std::string architecture, model_type;
  uint64_t hidden = 0, inner = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0, layers = 0,
           draft_layers = 0;
  uint64_t experts = 0, expert_inner = 0, shared_inner = 0;
  uint64_t q_lora = 0, kv_lora = 0, qk_nope = 0, qk_rope = 0, v_dim = 0;
  bool tied = false;
  bool vision = false;  // it sees
  bool known = false;   // of a family whose linears have the sizes that config.json says
  DType dtype = DType::bf16;
};
ModelShape read_model_shape(const Json& config);

Layers build_layers(const Checkpoint& checkpoint, const ModelShape& shape,
                    std::span<const Fused> fused);

}  // namespace qp::target
