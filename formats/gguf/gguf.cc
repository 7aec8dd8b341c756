#include "formats/gguf.h"

#include <cstdio>
#include <filesystem>
#include <map>
#include <unordered_set>

#include "formats/gguf/llama.h"
#include "formats/gguf/tokenizer.h"
#include "lib/base/error.h"
#include "lib/base/file.h"

namespace qp {
namespace {

constexpr uint64_t kMaxShards = 99999;  // five digits

// "-00001-of-00003.gguf", the end of a shard's name.
std::string shard_suffix(uint64_t number, uint64_t count) {
  char text[64];
  std::snprintf(text, sizeof text, "-%05llu-of-%05llu.gguf",
                static_cast<unsigned long long>(number), static_cast<unsigned long long>(count));
  return text;
}

struct OpenFiles {
  std::vector<std::shared_ptr<const MappedFile>> mappings;
  std::vector<GgufFile> shards;

  void open(const std::string& path) {
    mappings.push_back(MappedFile::open(path));
    shards.push_back(parse_gguf(mappings.back()->bytes(), path));
  }
};

void open_other_shards(const std::string& path, OpenFiles& files) {
  uint64_t count = files.shards[0].uint_at("split.count").value_or(1);
  uint64_t number = files.shards[0].uint_at("split.no").value_or(0);
  auto expected = files.shards[0].uint_at("split.tensors.count");
  if (count <= 1) return;
  if (count > kMaxShards) {
    throw input_error("claims to be one of " + std::to_string(count) + " shards").file(path);
  }
  if (number != 0) {
    throw input_error("is shard " + std::to_string(number + 1) + " of " + std::to_string(count))
        .file(path)
        .hint("give the first one, named ..." + shard_suffix(1, count));
  }
  std::string suffix = shard_suffix(1, count);
  if (!path.ends_with(suffix)) {
    throw input_error("is the first of " + std::to_string(count) +
                      " shards, but its name does not say where the others are")
        .file(path)
        .hint("rename it to end in " + suffix);
  }
  std::string prefix = path.substr(0, path.size() - suffix.size());
  for (uint64_t i = 1; i < count; ++i) {
    files.open(prefix + shard_suffix(i + 1, count));
    const GgufFile& shard = files.shards.back();
    if (shard.uint_at("split.no") != i || shard.uint_at("split.count") != count) {
      throw input_error("is not shard " + std::to_string(i + 1) + " of " + std::to_string(count) +
                        " (its split.no or split.count differs)")
          .file(shard.path);
    }
  }
  uint64_t found = 0;
  for (const GgufFile& shard : files.shards) found += shard.tensors.size();
  if (expected && *expected != found) {
    throw input_error("shards hold " + std::to_string(found) + " tensors (expected " +
                      std::to_string(*expected) + ")")
        .file(path);
  }
}

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
  bool decodable(const GgufFile& shard, const GgufTensor& t) const {
    if (t.type->dequantize != nullptr) return true;
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

void add_llama_companions(Builder& builder, const Llama& llama, const GgufFile& metadata,
                          const LoadOptions& options) {
  Model& model = builder.model();
  model.config = llama_config(llama, metadata, torch_name(builder.main_dtype()));
  model.architecture = "LlamaForCausalLM";
  builder.add_companion("config.json", pretty(model.config));
  if (Json generation = llama_generation_config(llama, metadata); !generation.empty()) {
    builder.add_companion("generation_config.json", pretty(generation));
  }
  for (GeneratedFile& file : gguf_tokenizer(metadata, options.warn)) {
    builder.add_companion(std::move(file.name), std::move(file.text));
  }
}

}  // namespace

Model gguf_model(std::span<const GgufFile> shards, const LoadOptions& options) {
  Llama llama;
  std::string why = read_llama(shards, llama);
  if (!why.empty()) {
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
  OpenFiles files;
  files.open(path);
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
