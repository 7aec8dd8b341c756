#include "formats/verify/target.h"

#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <optional>

#include "formats/container/gguf_shards.h"
#include "formats/hf/directory.h"
#include "formats/hf/quant_method.h"
#include "formats/verify/gguf.h"
#include "formats/verify/raw.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/qmap/store.h"
#include "lib/target/engine.h"

namespace qp {
namespace {

constexpr uint64_t kMaxConfig = uint64_t{256} << 20;

bool is_directory(const std::string& path) {
  struct stat st {};
  return stat(path.c_str(), &st) == 0 && S_ISDIR(st.st_mode);
}

// The quantization as engines find it: by quant_method alone, but for ModelOpt's quant_algo.
// `read`: the text of a file beside config.json; nothing: it is not there.
void declare_quantization(const std::function<std::optional<std::string>(const std::string&)>& text,
                          const target::Engine& engine, target::Checkpoint& c, bool packed,
                          target::Findings& findings) {
  Model probe;
  probe.config = c.config;
  for (const char* name : {"hf_quant_config.json", "quant_model_description.json",
                           "quantize_config.json", "quant_config.json"}) {
    if (text(name)) probe.companions.push_back({name, {}});
  }
  if (packed) {
    Tensor sign;
    sign.name = "x.qweight";  // declared_quantization() asks for one
    probe.tensors.push_back(std::move(sign));
  }
  auto read = [&](const Companion& f) { return *text(f.name); };
  DeclaredQuantization q = declared_quantization(probe, read);
  c.method = q.method;
  c.place = q.place;
  c.quant = std::move(q.config);
  bool named =
      !json_string(c.quant.is_object() ? c.quant : Json::object(), "quant_method", "").empty();
  if (c.method == "unnamed" || (c.method == "compressed-tensors" && !named)) {
    c.method.clear();
    findings.add("no-method", "", c.place + " has no 'quant_method'");
  }
  // Who does not know ModelSlim's file does not look for it.
  if (c.method == "modelslim" && target::name_of(engine) != "sglang") c.method.clear();
  if (c.method == "auto_round" || c.method == "intel/auto-round") c.method = "auto-round";
}

void merge(target::Result& into, std::vector<target::Finding> more) {
  for (target::Finding& f : more) {
    auto worse = f.rule->effect == target::Effect::refuses ? target::Outcome::refuses
                 : f.rule->effect == target::Effect::lies  ? target::Outcome::lies
                                                           : target::Outcome::loads;
    into.outcome = std::max(into.outcome, worse);
    into.findings.push_back(std::move(f));
  }
}

// The verdict on a checkpoint whose tensors and config.json are known; `text` as above.
void judge(target::Checkpoint c,
           const std::function<std::optional<std::string>(const std::string&)>& text,
           const target::Engine& engine, const target::Options& options, TargetCheck& out) {
  target::Findings findings(engine);
  bool packed = std::ranges::any_of(
      c.tensors, [](const target::StoredTensor& t) { return t.name.ends_with(".qweight"); });
  declare_quantization(text, engine, c, packed, findings);
  out.result = target::check(c, engine, options);
  merge(out.result, std::move(findings.all()));
  out.tensors = std::move(c.tensors);
}

// F32 tensors of one element, each read when it is asked for: NVFP4's second stages.
class Scalars {
 public:
  Scalars(const Directory& directory, const RawCheckpoint& raw) : files_(raw.files.size()) {
    for (const std::string& name : raw.files) paths_.push_back(directory.full(name));
    for (const RawTensor& t : raw.tensors) {
      bool one = t.dtype == DType::f32 && t.bytes == sizeof(float);
      places_.emplace_back(one ? t.offset : UINT64_MAX, t.file);
    }
  }

  std::optional<float> read(uint32_t i) {
    auto [offset, file] = places_[i];
    if (offset == UINT64_MAX) return std::nullopt;
    if (!files_[file]) files_[file] = MappedFile::open(paths_[file]);
    auto bytes = files_[file]->bytes();
    if (offset > bytes.size() || bytes.size() - offset < sizeof(float)) return std::nullopt;
    float value;
    std::memcpy(&value, bytes.data() + offset, sizeof value);
    return value;
  }

 private:
  std::vector<std::string> paths_;
  std::vector<std::pair<uint64_t, uint32_t>> places_;
  std::vector<std::shared_ptr<const MappedFile>> files_;
};

TargetCheck check_hf(const std::string& path, const target::Engine& engine,
                     const target::Options& options) {
  TargetCheck out;
  Directory directory = read_directory(path);
  if (directory.glob("*.safetensors").empty() && weights_index(directory).empty()) {
    throw input_error("has no safetensors")
        .file(path)
        .hint("--target looks at safetensors directories and GGUF files");
  }
  RawCheckpoint raw = read_raw(path, out.stored);
  target::Checkpoint c;
  c.path = path;
  c.config = std::move(raw.config);
  auto scalars = std::make_shared<Scalars>(directory, raw);
  for (RawTensor& t : raw.tensors) {
    c.tensors.push_back({std::move(t.name), t.dtype, t.shape, t.bytes});
  }
  raw.tensors = {};
  c.scalar = [scalars](uint32_t i) { return scalars->read(i); };
  auto text = [&](const std::string& name) -> std::optional<std::string> {
    if (!directory.has(name)) return std::nullopt;
    return read_text_file(directory.full(name), kMaxConfig);
  };
  judge(std::move(c), text, engine, options, out);
  return out;
}

// What llama.cpp prints where open_other_shards() fails, by how our message begins.
std::string_view said_of_shards(std::string_view reason) {
  constexpr std::pair<std::string_view, std::string_view> kTexts[] = {
      {"is shard ", "illegal split file idx"},
      {"is the first of ", "invalid split file name"},
      {"is not shard ", "invalid split file idx"},
      {"shards hold ", "corrupted model"}};
  for (const auto& [ours, theirs] : kTexts)
    if (reason.starts_with(ours)) return theirs;
  return "failed to load GGUF split from";
}

// Empty where something is wrong.
GgufShards open_files(const std::string& path, target::Findings& findings) {
  GgufShards files;
  try {
    files = open_gguf(path);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::system) throw;
    bool cut = !e.tensor().empty() && e.reason().starts_with("data is cut short");
    findings.add(cut ? "data-bounds" : "load", e.tensor(), e.reason(), e.tensor());
    return {};
  }
  try {
    open_other_shards(path, files);
  } catch (const Error& e) {
    if (e.kind() == ErrorKind::defect) throw;
    findings.add("shards", "", e.reason(), said_of_shards(e.reason()));
    return {};
  }
  return files;
}

// llama.cpp's loader is replayed by check_gguf(); its findings name the rules.
TargetCheck check_file(const std::string& path, const target::Engine& engine,
                       const target::Options& options) {
  TargetCheck out;
  target::Findings findings(engine);
  bool own = target::name_of(engine) == "llama.cpp";
  if (!own) findings.add("not-replayed", "", "is a GGUF file");
  GgufShards files = open_files(path, findings);
  for (const GgufFile& shard : files.shards) {
    for (const GgufTensor& t : shard.tensors)
      out.tensors.push_back({std::string(t.name), DType::u8, Shape(), 0});
  }
  target::Checkpoint c;
  c.path = path;
  out.result = target::check(c, engine, options);
  out.result.verdicts.assign(out.tensors.size(), target::Verdict::used);
  if (own && !files.shards.empty()) {
    for (GgufFinding& f : check_gguf(files.shards, nullptr, true)) {
      findings.add(f.topic.empty() ? f.rule : f.topic, f.tensor, f.what, f.about);
    }
  }
  merge(out.result, std::move(findings.all()));
  return out;
}

}  // namespace

TargetCheck check_target(const ExportPlan& plan, const Store* bytes, const target::Engine& engine,
                         const target::Options& options) {
  TargetCheck out;
  if (plan.write != nullptr) return out;
  target::Checkpoint c;
  c.config = plan.config.empty() ? Json() : parse_json(plan.config, "config.json");
  for (const OutTensor& t : plan.tensors) {
    c.tensors.push_back({t.name, t.dtype, t.shape, byte_size(t.dtype, t.shape).value_or(0)});
  }
  c.scalar = [&](uint32_t i) -> std::optional<float> {
    const OutTensor& t = plan.tensors[i];
    if (t.dtype != DType::f32 || t.shape.elements() != 1u) return std::nullopt;
    std::vector<std::byte> found = t.value;
    if (t.make_value) found = t.make_value();
    if (t.part != nullptr && !t.relay && t.part->dtype == DType::f32) found = bytes->read(*t.part);
    if (found.size() != sizeof(float)) return std::nullopt;
    float value;
    std::memcpy(&value, found.data(), sizeof value);
    return value;
  };
  auto text = [&](const std::string& name) -> std::optional<std::string> {
    auto it = std::ranges::find(plan.files, name, &OutFile::name);
    return it == plan.files.end() ? std::nullopt : std::optional(it->text);
  };
  judge(std::move(c), text, engine, options, out);
  return out;
}

TargetCheck check_target(const std::string& path, const target::Engine& engine,
                         const target::Options& options) {
  bool directory = is_directory(path);
  if (target::name_of(engine) == "llama.cpp" && (directory || !is_gguf(path))) {
    TargetCheck out;
    target::Findings findings(engine);
    findings.add("no-gguf", "", directory ? "is a directory" : "is no GGUF file");
    merge(out.result, std::move(findings.all()));
    return out;
  }
  if (directory) return check_hf(path, engine, options);
  if (is_gguf(path)) return check_file(path, engine, options);
  throw input_error("is neither a directory nor a GGUF")
      .file(path)
      .hint("export it first (qexport)");
}

}  // namespace qp
