#include "formats/gguf.h"

#include <cstring>
#include <filesystem>
#include <map>
#include <unordered_set>

#include "formats/container/gguf_shards.h"
#include "formats/gguf/llama.h"
#include "formats/gguf/restore.h"
#include "formats/gguf/tokenizer.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/latents.h"

namespace qp {
namespace {

std::optional<DType> plain_dtype(const GgmlType& type) {
  if (type.name == "f32") return DType::f32;
  if (type.name == "f16") return DType::f16;
  if (type.name == "bf16") return DType::bf16;
  if (type.name == "f64") return DType::f64;
  if (type.name == "i8") return DType::i8;
  if (type.name == "i16") return DType::i16;
  if (type.name == "i32") return DType::i32;
  if (type.name == "i64") return DType::i64;
  return std::nullopt;
}

Part plain_part(const GgufTensor& t, DType stored, const LlamaName& name,
                const LoadOptions& options) {
  Part part{Role::data, stored, t.shape, {}, nullptr};
  if (options.dtype && is_float(stored)) part.dtype = *options.dtype;
  if (part.dtype != stored || name.unpermute_heads > 0) {
    Decode decode;
    decode.stored = stored;
    decode.unpermute_heads = name.unpermute_heads;
    part.decode = std::make_shared<const Decode>(decode);
  }
  return part;
}

Part decoded_part(const GgufTensor& t, const LlamaName& name, const LoadOptions& options) {
  Part part{Role::data, options.dtype.value_or(DType::bf16), t.shape, {}, nullptr};
  Decode decode;
  decode.ggml_type = static_cast<int32_t>(t.type->id);
  decode.stored = DType::f32;
  decode.unpermute_heads = name.unpermute_heads;
  part.decode = std::make_shared<const Decode>(decode);
  return part;
}

Part blocks_part(const GgufTensor& t, const LlamaName& name) {
  uint64_t per_row = t.shape.cols() / t.type->block * t.type->bytes;
  Part part{Role::blocks, DType::u8, Shape{t.shape.rows(), per_row}, {}, nullptr};
  if (name.unpermute_heads > 0) {  // rows are whole blocks, so their order can change
    Decode decode;
    decode.stored = DType::u8;
    decode.unpermute_heads = name.unpermute_heads;
    part.decode = std::make_shared<const Decode>(decode);
  }
  return part;
}

// Builds a Model tensor by tensor.
class Builder {
 public:
  explicit Builder(const LoadOptions& options) : options_(options) { model_.format = "gguf"; }

  void add_tensor(const GgufFile& shard, uint32_t file, const GgufTensor& t, LlamaName name) {
    if (!names_.insert(name.name).second) {
      throw input_error("appears in more than one shard").file(shard.path).tensor(t.name);
    }
    Tensor tensor;
    tensor.name = name.name;
    tensor.shape = t.shape;
    auto plain = plain_dtype(*t.type);
    bool keep = !plain && (!options_.dequantize || !decodable(shard, t));
    Part part = plain  ? plain_part(t, *plain, name, options_)
                : keep ? blocks_part(t, name)
                       : decoded_part(t, name, options_);
    part.extent = {file, t.offset, t.bytes, std::nullopt, false};
    if (keep) tensor.ggml = t.type->name;
    tensor.dtype = part.dtype;
    if (name.name != t.name || part.role != Role::data || part.decode) {
      tensor.source = std::string(t.name) + " (" + std::string(t.type->name) + ")";
    }
    tensor.parts.push_back(std::move(part));
    model_.tensors.push_back(std::move(tensor));
  }

  // A tensor of any family: one of Hugging Face's, or one for each expert.
  void add_restored(const GgufFile& shard, uint32_t file, GgufTensor t, const ggml::HfTarget& target,
                    const RestoredModel& model) {
    if (target.op == ggml::Op::plus_one) return add_minus_one(shard, t, target.name);
    if (target.op == ggml::Op::transposed && t.shape.rank() == 2) {
      return add_turned(shard, file, t, target.name);
    }
    if (t.name.ends_with("ffn_gate_inp_shexp.weight") && t.shape.rank() == 1) {
      t.shape = Shape{1, t.shape[0]};  // a dimension of one that C writers leave out
    }
    if (!target.experts) {
      return add_tensor(shard, file, t, {target.name, heads_of(target.op, model.config)});
    }
    uint64_t experts = t.shape[0];
    Shape shape;
    for (size_t i = 1; i < t.shape.rank(); ++i) shape.push(t.shape[i]);
    t.shape = shape;
    t.bytes /= experts;
    for (uint64_t e = 0; e < experts; ++e) {
      std::string name = target.name;
      name.replace(name.find('*'), 1, std::to_string(e));
      add_tensor(shard, file, t, {std::move(name)});
      t.offset += t.bytes;
    }
  }

  // Whether kv_b_proj is put together of these; blocks stay apart, unless they are decoded.
  bool joins(const GgufFile& shard, const GgufTensor& keys, const GgufTensor& values) const {
    bool fits = keys.shape.rank() == 3 && values.shape.rank() == 3 && keys.shape[0] == values.shape[0] &&
                keys.shape[1] == values.shape[2];
    if (!fits) {
      throw limit_error("cannot be put together with attn_v_b: it has shape " + keys.shape.str())
          .file(shard.path)
          .tensor(keys.name);
    }
    if (plain_dtype(*keys.type) && keys.type == values.type) return true;
    auto floats = [&](const GgufTensor& t) {
      auto plain = plain_dtype(*t.type);
      return plain ? is_float(*plain) : decodable(shard, t);
    };
    return options_.dequantize && floats(keys) && floats(values);
  }

  // DeepSeek's kv_b_proj, put together of its two halves: keys turned back, then values, by head.
  void add_latent(const GgufFile& shard, const GgufTensor& keys, const GgufFile& other,
                  const GgufTensor& values, const std::string& name) {
    uint64_t heads = keys.shape[0], rank = keys.shape[1], nope = keys.shape[2], value = values.shape[1];
    auto dtype = keys.type == values.type ? plain_dtype(*keys.type) : std::nullopt;
    std::vector<std::byte> decoded_k, decoded_v;
    const std::byte *k = shard.bytes.data() + keys.offset, *v = other.bytes.data() + values.offset;
    if (!dtype) {
      dtype = options_.dtype.value_or(DType::bf16);
      k = (decoded_k = decoded(shard, keys, *dtype)).data();
      v = (decoded_v = decoded(other, values, *dtype)).data();
    }
    uint64_t unit = dtype_bits(*dtype) / 8;
    std::string bytes(heads * (nope + value) * rank * unit, '\0');
    for (uint64_t h = 0; h < heads; ++h) {
      char* out = bytes.data() + h * (nope + value) * rank * unit;
      for (uint64_t n = 0; n < nope; ++n) {
        for (uint64_t r = 0; r < rank; ++r) {
          std::memcpy(out + (n * rank + r) * unit, k + ((h * rank + r) * nope + n) * unit, unit);
        }
      }
      std::memcpy(out + nope * rank * unit, v + h * value * rank * unit, value * rank * unit);
    }
    add_made(name, Shape{heads * (nope + value), rank}, *dtype, std::move(bytes),
             std::string(keys.name) + ", " + std::string(values.name));
  }

  void drop(const GgufTensor& t, std::string reason) {
    model_.dropped.emplace_back(t.name, std::move(reason));
  }

  void add_companion(std::string name, std::string text) {
    model_.companions.push_back({std::move(name), add_blob(std::move(text))});
  }

  // The dtype most weights will have in an exported checkpoint.
  DType main_dtype() const {
    std::map<DType, double> elements;
    for (const Tensor& t : model_.tensors) {
      DType dtype = t.ggml.empty() ? t.dtype : options_.dtype.value_or(DType::bf16);
      elements[dtype] += static_cast<double>(t.shape.elements().value_or(0));
    }
    DType best = DType::bf16;
    for (auto [dtype, n] : elements) {
      if (n > elements[best]) best = dtype;
    }
    return best;
  }

  Model& model() { return model_; }

 private:
  // The values of a tensor in a float dtype.
  static std::vector<std::byte> decoded(const GgufFile& shard, const GgufTensor& t, DType dtype) {
    auto plain = plain_dtype(*t.type);
    Part part{Role::data, dtype, t.shape, {}, nullptr};
    Decode decode;
    if (!plain) decode.ggml_type = static_cast<int32_t>(t.type->id);
    decode.stored = plain.value_or(DType::f32);
    part.decode = std::make_shared<const Decode>(decode);
    std::vector<std::byte> out(t.shape.rows() * row_bytes(part));
    decode_rows(part, shard.bytes.subspan(t.offset, t.bytes), 0, t.shape.rows(), out.data());
    return out;
  }

  static uint32_t heads_of(ggml::Op op, const Json& config) {
    const char* key = op == ggml::Op::rope_q   ? "num_attention_heads"
                      : op == ggml::Op::rope_k ? "num_key_value_heads"
                                               : nullptr;
    return key == nullptr ? 0 : config[key].get<uint32_t>();
  }

  // A tensor that was computed: its bytes travel with the model.
  void add_made(const std::string& name, const Shape& shape, DType stored, std::string bytes, std::string source) {
    names_.insert(name);
    Tensor& tensor = model_.tensors.emplace_back();
    tensor.name = name;
    tensor.shape = shape;
    tensor.source = std::move(source);
    Part part{Role::data, options_.dtype.value_or(stored), shape, add_blob(std::move(bytes)), nullptr};
    tensor.dtype = part.dtype;
    if (part.dtype != stored) {
      Decode decode;
      decode.stored = stored;
      part.decode = std::make_shared<const Decode>(decode);
    }
    tensor.parts.push_back(std::move(part));
  }

  // Gemma's norms, which llama.cpp stores as 1 + w.
  void add_minus_one(const GgufFile& shard, const GgufTensor& t, const std::string& name) {
    if (t.type->name != "f32") throw input_error("is no F32").file(shard.path).tensor(t.name);
    std::string bytes(t.bytes, '\0');
    for (uint64_t i = 0; i < t.bytes; i += 4) {
      float v;
      std::memcpy(&v, shard.bytes.data() + t.offset + i, 4);
      v -= 1;
      std::memcpy(bytes.data() + i, &v, 4);
    }
    add_made(name, t.shape, DType::f32, std::move(bytes), std::string(t.name) + " (f32), minus 1");
  }

  // GPT-2's Conv1D: [in, out] of [out, in].
  void add_turned(const GgufFile& shard, uint32_t file, const GgufTensor& t, const std::string& name) {
    auto stored = plain_dtype(*t.type);
    names_.insert(name);
    Tensor& tensor = model_.tensors.emplace_back();
    tensor.name = name;
    tensor.shape = Shape{t.shape[1], t.shape[0]};
    tensor.source = std::string(t.name) + " (" + std::string(t.type->name) + ")";
    if (!stored) {  // rows of blocks are columns of the float tensor
      Part part = blocks_part(t, {});
      part.extent = {file, t.offset, t.bytes, std::nullopt, false};
      tensor.ggml = t.type->name;
      tensor.transposed = true;
      tensor.dequantize = options_.dequantize && decodable(shard, t);
      tensor.dtype = tensor.dequantize ? options_.dtype.value_or(DType::bf16) : DType::u8;
      tensor.parts.push_back(std::move(part));
      return;
    }
    bool cast = options_.dtype && is_float(*stored);
    Part part{Role::data, cast ? *options_.dtype : *stored, tensor.shape, {file, t.offset, t.bytes, std::nullopt, false}, nullptr};
    Decode decode;
    decode.stored = *stored;
    decode.strides = {1, t.shape[1]};
    part.decode = std::make_shared<const Decode>(decode);
    tensor.dtype = part.dtype;
    tensor.parts.push_back(std::move(part));
  }

  bool decodable(const GgufFile& shard, const GgufTensor& t) const {
    if (ggml_decoder(t.type->id) != nullptr) return true;
    std::string what = "cannot be dequantized: ggml type " + std::string(t.type->name) +
                       " is known by name only";
    if (options_.list_only) {
      options_.warn(shard.path + ": tensor '" + printable(t.name) + "': " + what);
      return false;
    }
    throw input_error(what).file(shard.path).tensor(t.name).hint(
        "load it without --dequantize, or requantize the model with llama.cpp first");
  }

  Extent add_blob(std::string bytes) {
    Extent extent{kBlob, model_.blobs.size(), bytes.size(), std::nullopt, false};
    model_.blobs.push_back(std::move(bytes));
    return extent;
  }

  const LoadOptions& options_;
  Model model_;
  std::unordered_set<std::string> names_;
};

std::string pretty(const Json& json) {
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

// config.json of what model.config holds, and what belongs beside it.
void add_companions(Builder& builder, const Llama& sizes, const GgufFile& metadata, const LoadOptions& options) {
  Model& model = builder.model();
  // Where converters look for the name; a path is none.
  std::string name(metadata.string_at("general.name").value_or(""));
  if (!name.empty() && name.find('/') == name.npos && name[0] != '.') model.config["_name_or_path"] = name;
  builder.add_companion("config.json", pretty(model.config));
  if (Json generation = llama_generation_config(sizes, metadata); !generation.empty()) {
    builder.add_companion("generation_config.json", pretty(generation));
  }
  for (GeneratedFile& file : gguf_tokenizer(metadata, options.warn)) {
    builder.add_companion(std::move(file.name), std::move(file.text));
  }
}

void add_llama_companions(Builder& builder, const Llama& llama, const GgufFile& metadata,
                          const LoadOptions& options) {
  Model& model = builder.model();
  model.config = llama_config(llama, metadata, torch_name(builder.main_dtype()));
  model.architecture = "LlamaForCausalLM";
  add_companions(builder, llama, metadata, options);
}

void add_restored_companions(Builder& builder, const RestoredModel& restored, const GgufFile& metadata,
                             const LoadOptions& options) {
  Model& model = builder.model();
  model.config = restored.config;
  model.config["torch_dtype"] = torch_name(builder.main_dtype());
  model.architecture = model.config["architectures"][0].get<std::string>();
  Llama sizes;
  sizes.vocab = restored.vocab;
  add_companions(builder, sizes, metadata, options);
}

std::string inserted(std::string name, std::string_view part) {
  return name.insert(name.size() - std::string_view(".weight").size(), part);
}

// The tensor named as `name`, but for `other` in the place of `part`.
std::pair<const GgufFile*, const GgufTensor*> tensor_beside(std::span<const GgufFile> shards, std::string_view own,
                                                            std::string_view part, std::string_view other) {
  std::string name(own);
  name.replace(name.rfind(part), part.size(), other);
  for (const GgufFile& shard : shards) {
    for (const GgufTensor& t : shard.tensors) {
      if (t.name == name) return {&shard, &t};
    }
  }
  throw input_error("has no " + std::string(other) + " beside it").file(shards.front().path).tensor(own);
}

Model restored_model(std::span<const GgufFile> shards, const RestoredModel& restored,
                     const LoadOptions& options) {
  Builder builder(options);
  if (restored.family->model_type == "gpt_oss") {
    options.warn(shards.front().path +
                 ": its experts come apart, a tensor each: transformers will not load an export of them");
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const GgufTensor& t : shards[i].tensors) {
      const auto& target = restored.targets.at(t.name);
      if (!target) {
        builder.drop(t, "computed from config.json's rope_scaling");
      } else if (target->op == ggml::Op::key_b) {
        auto [other, values] = tensor_beside(shards, t.name, "attn_k_b", "attn_v_b");
        if (builder.joins(shards[i], t, *values)) {
          builder.add_latent(shards[i], t, *other, *values, target->name);
        } else {
          builder.add_tensor(shards[i], static_cast<uint32_t>(i + 1), t, {inserted(target->name, kLatentKeys)});
        }
      } else if (target->op == ggml::Op::value_b) {
        auto [other, keys] = tensor_beside(shards, t.name, "attn_v_b", "attn_k_b");
        if (builder.joins(*other, *keys, t)) {
          builder.drop(t, "put together with attn_k_b");
        } else {
          builder.add_tensor(shards[i], static_cast<uint32_t>(i + 1), t, {inserted(target->name, kLatentValues)});
        }
      } else {
        builder.add_restored(shards[i], static_cast<uint32_t>(i + 1), t, *target, restored);
      }
    }
  }
  add_restored_companions(builder, restored, shards.front(), options);
  return std::move(builder.model());
}

}  // namespace

Model gguf_model(std::span<const GgufFile> shards, const LoadOptions& options) {
  Llama llama;
  std::string why = read_llama(shards, llama);
  if (!why.empty()) {
    if (RestoredModel restored = restore_model(shards); restored.why.empty()) {
      try {
        return restored_model(shards, restored, options);
      } catch (const Error& e) {
        if (e.kind() != ErrorKind::limit) throw;
        why = e.reason();
      }
    } else if (shards.front().string_at("general.architecture") != "llama") {
      why = restored.why;
    }
    options.warn(shards.front().path + ": tensors keep GGUF's names, because " + why +
                 "; they can be listed, dequantized and packed, but not exported");
  }
  Builder builder(options);
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const GgufTensor& t : shards[i].tensors) {
      LlamaName name{std::string(t.name)};
      if (why.empty()) {
        auto known = llama_name(t.name, llama);
        if (!known) {
          builder.drop(t, "computed from config.json's rope_scaling");
          continue;
        }
        name = std::move(*known);
      }
      builder.add_tensor(shards[i], static_cast<uint32_t>(i + 1), t, std::move(name));
    }
  }
  if (why.empty()) add_llama_companions(builder, llama, shards.front(), options);
  return std::move(builder.model());
}

Model read_gguf(const std::string& path, const LoadOptions& options) {
  GgufShards files = open_gguf(path);
  open_other_shards(path, files);
  Model model = gguf_model(files.shards, options);
  for (const auto& mapping : files.mappings) {
    mapping->throw_if_changed();
    auto absolute = std::filesystem::absolute(mapping->path()).lexically_normal();
    model.files.push_back({absolute.string(), mapping->size(), mapping->mtime_ns()});
  }
  return model;
}

}  // namespace qp
