// libFuzzer over what qverify --target, an index of shards and a manifest of sums are read from: the first
// byte says which. Whatever a config says, an engine has a verdict on it, or the input is refused.
#include "formats/hf/weight_index.h"
#include "formats/verify/sums.h"
#include "lib/base/json.h"
#include "lib/target/engine.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using qp::fuzz::require;

// A layer of a small Llama, quantized in one of the ways that configs describe.
qp::target::Checkpoint checkpoint(uint8_t kind, qp::Json config) {
  qp::target::Checkpoint c;
  constexpr const char* kSuffixes[][3] = {{"weight", "weight_scale", "input_scale"},
                                          {"weight_packed", "weight_scale", "weight_shape"},
                                          {"qweight", "scales", "qzeros"}};
  auto add = [&](const std::string& name, qp::DType dtype, qp::Shape shape) {
    c.tensors.push_back({name, dtype, shape, qp::byte_size(dtype, shape).value_or(0)});
  };
  for (const char* linear : {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
                             "mlp.gate_proj", "mlp.experts.0.up_proj", "mlp.gate"}) {
    for (const char* suffix : kSuffixes[kind % 3]) {
      add(std::string("model.layers.0.") + linear + "." + suffix, qp::DType::i32, qp::Shape{32, 64});
    }
  }
  add("model.embed_tokens.weight", qp::DType::bf16, qp::Shape{100, 64});
  if (config.is_object()) {
    if (auto q = config.find("quantization_config"); q != config.end()) c.quant = *q;
    if (c.quant.is_object()) {
      auto method = c.quant.find("quant_method");
      if (method != c.quant.end() && method->is_string()) c.method = method->get<std::string>();
    }
  }
  c.place = "config.json quantization_config";
  c.config = std::move(config);
  return c;
}

void verdicts(uint8_t kind, std::string_view text) {
  qp::target::Options options;
  options.tp = 1 + kind % 5;
  options.ep = 1 + kind % 2;
  qp::target::Checkpoint c = checkpoint(kind, qp::parse_json(text, "config.json"));
  for (const qp::target::Engine* e : qp::target::engines()) {
    qp::target::Result r = qp::target::check(c, *e, options);
    require(r.verdicts.size() == c.tensors.size());
    for (const qp::target::Finding& f : r.findings) require(f.rule != nullptr && !f.id.empty());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 2) return 0;
  std::string_view text(reinterpret_cast<const char*>(data + 2), size - 2);
  try {
    switch (data[0] % 4) {
      case 0: qp::parse_weight_index(std::string(text), "index.json"); break;
      case 1: {
        std::vector<qp::Finding> findings;
        for (const qp::FileSum& s : qp::parse_manifest(text, findings)) {
          require(s.sha256.size() == 64 && !s.name.empty() && s.name.front() != '/');
        }
        break;
      }
      default: verdicts(data[1], text);
    }
  } catch (const qp::Error& e) {
    require(e.kind() == qp::ErrorKind::input || e.kind() == qp::ErrorKind::limit);
  }
  return 0;
}
