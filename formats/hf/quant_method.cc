#include "formats/hf/quant_method.h"

#include <algorithm>
#include <array>

#include "formats/input_kinds.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/json.h"
#include "lib/model/modules.h"

namespace qp {
namespace {

// Methods that checkpoints in the wild declare. What has no format of ours is named, not read.
constexpr InputKind kMethods[] = {
    {"compressed-tensors", "read", "as qexport and llm-compressor write it"},
    {"gptq", "read", "AutoGPTQ, GPTQModel"},
    {"awq", "read", "AutoAWQ: gemm, gemv, gemv_fast, marlin"},
    {"auto-round", "read", "Intel AutoRound: integers, MXFP4, MXFP8, NVFP4"},
    {"fp8", "read", "DeepSeek-style block or per-tensor FP8"},
    {"mxfp8", "read", "the same with E8M0 scales of 32"},
    {"fbgemm_fp8", "read", "Meta's FP8, one scale per row"},
    {"modelopt", "read", "NVIDIA ModelOpt; also hf_quant_config.json"},
    {"modelslim", "read", "Ascend ModelSlim; quant_model_description.json"},
    {"mxfp4", "read", "gpt-oss"},
    {"bitsandbytes", "read", "nf4, fp4, int8"},
    {"torchao", "read", "torchao"},
    {"quark", "read", "AMD Quark"},
    {"w8a8_int8", "read", "SGLang's INT8 loader"},
    {"w8a8_fp8", "read", "SGLang's FP8 loader"},
    {"hqq", "named", "half-quadratic quantization"},
    {"aqlm", "named", "AQLM"},
    {"quip", "named", "QuIP#"},
    {"eetq", "named", "EETQ"},
    {"vptq", "named", "VPTQ"},
    {"bitnet", "named", "BitNet"},
    {"spqr", "named", "SpQR"},
    {"higgs", "named", "HIGGS"},
    {"quanto", "named", "optimum-quanto"},
    {"exl2", "named", "ExLlamaV2"},
};

constexpr uint64_t kMaxConfig = uint64_t{64} << 20;

std::string lower(std::string s) {
  std::ranges::transform(s, s.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? char(c + 32) : c; });
  return s;
}

std::string read_companion(const Model& model, const Companion& c) {
  if (c.extent.file == kBlob) return model.blobs.at(c.extent.offset);
  if (c.extent.file == 0) return "";
  return read_text_file(model.files.at(c.extent.file - 1).path, kMaxConfig);
}

const Json* object_at(const Json& json, const char* key) {
  if (!json.is_object()) return nullptr;
  auto it = json.find(key);
  return it != json.end() && it->is_object() ? &*it : nullptr;
}

}  // namespace

std::vector<InputKind> quantized_kinds() { return {std::begin(kMethods), std::end(kMethods)}; }

DeclaredQuantization declared_quantization(
    const Model& model, const std::function<std::string(const Companion&)>& read) {
  struct Place {
    const Json* object;
    const char* name;
  };
  const Json* text = object_at(model.config, "text_config");
  for (Place place : {Place{object_at(model.config, "quantization_config"), "quantization_config"},
                      Place{text ? object_at(*text, "quantization_config") : nullptr,
                            "text_config.quantization_config"},
                      Place{object_at(model.config, "compression_config"), "compression_config"}}) {
    if (place.object == nullptr) continue;
    std::string method = lower(json_string(*place.object, "quant_method", ""));
    if (method.empty() && place.object->contains("quant_algo")) method = "modelopt";
    if (method.empty() && place.object->contains("config_groups")) method = "compressed-tensors";
    if (method.empty()) method = "unnamed";
    return {method, std::string("config.json ") + place.name, *place.object};
  }
  if (const Companion* c = model.companion("hf_quant_config.json")) {
    return {"modelopt", "hf_quant_config.json", parse_json(read(*c), c->name)};
  }
  if (const Companion* c = model.companion("quant_model_description.json")) {
    return {"modelslim", "quant_model_description.json", parse_json(read(*c), c->name)};
  }
  // Before transformers knew of them, GPTQ and AWQ had files of their own, without a method's name.
  struct File {
    const char *name, *method;
  };
  bool packed = std::ranges::any_of(model.tensors, [](const Tensor& t) { return t.name.ends_with(".qweight"); });
  for (File f : {File{"quantize_config.json", "gptq"}, File{"quant_config.json", "awq"}}) {
    const Companion* c = model.companion(f.name);
    if (c == nullptr || !packed) continue;
    Json q = parse_json(read(*c), c->name);
    if (!q.is_object()) continue;
    std::string method = lower(json_string(q, "quant_method", f.method));
    return {method, c->name, std::move(q)};
  }
  return {};
}

namespace {

// GPT-2's Conv1D is stored [in, out], and quantized as the linear that it is.
void turn_conv1d(Model& model) {
  for (Tensor& t : model.tensors) {
    if (t.scheme < 0 || t.transposed || t.shape.rank() != 2) continue;
    if (!classify(t.name, DType::bf16, t.shape, model.config).transposed) continue;
    std::swap(t.shape[0], t.shape[1]);
    t.transposed = true;
  }
}

}  // namespace

void finish_model(Model& model, const std::string& path, const LoadOptions& options) {
  auto read = [&](const Companion& c) { return read_companion(model, c); };
  if (const Companion* c = model.companion("config.json")) {
    model.config = parse_json(read(*c), path + "/config.json");
    if (!model.config.is_object()) throw input_error("is no JSON object").file(path + "/config.json");
    auto names = model.config.find("architectures");
    if (names != model.config.end() && names->is_array() && !names->empty() &&
        names->front().is_string()) {
      model.architecture = names->front().get<std::string>();
    }
  }
  DeclaredQuantization q;
  try {
    q = declared_quantization(model, read);
    if (const Format* f = format_reading(q.method)) {
      f->adopt(model, q.config, options);
      if (f->conv1d) turn_conv1d(model);
      bool quantized = std::ranges::any_of(model.tensors, [](const Tensor& t) { return t.scheme >= 0; });
      if (!quantized && options.warn) {
        options.warn(path + " declares " + q.method + " (" + q.place + "), but no tensor is quantized");
      }
      return;
    }
  } catch (const Error& e) {
    // Whatever is wrong inside (a pattern, too), a config is input: exit 3.
    ErrorKind kind = e.kind() == ErrorKind::usage ? ErrorKind::input : e.kind();
    throw Error(kind, e.reason()).file(e.file().empty() ? path : e.file()).tensor(e.tensor()).hint(e.hint());
  }
  if (q.method.empty()) return;
  auto known = std::ranges::find(kMethods, std::string_view(q.method), &InputKind::name);
  std::string what = "is quantized with " + printable(q.method) + " (" + q.place + ")" +
                     (known == std::end(kMethods) ? ", a method qpipe does not know"
                                                  : ", which this version cannot read yet");
  if (options.list_only) {
    options.warn(what);
    return;
  }
  throw input_error(what).file(path).hint("give the unquantized model, or list it with qload --list");
}

}  // namespace qp
