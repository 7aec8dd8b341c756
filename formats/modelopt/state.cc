#include "formats/modelopt/state.h"

#include <cmath>
#include <map>

#include "formats/container/torch_file.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/qmap/decode.h"

namespace qp::modelopt {
namespace {

constexpr std::string_view kPrefix = "model_state_dict.";

class Reader {
 public:
  Reader(const std::string& path, const std::vector<Tensor>& tensors)
      : path_(path), file_(MappedFile::open(path)) {
    for (const Tensor& t : tensors) shapes_.emplace(t.name, t.shape);
  }

  Calibration run(const Extent& nothing) {
    Calibration c;
    c.options = {{"from", "ModelOpt's saved state"}};
    c.tokens = nothing;
    std::map<std::string, CacheStatistics> caches;
    size_t quantizers = 0;
    for (const TorchTensor& t : parse_torch_file(file_->bytes(), path_).tensors) {
      if (!t.name.starts_with(kPrefix)) continue;
      std::string name = t.name.substr(kPrefix.size());
      quantizers += name.find("_quantizer.") != std::string::npos;
      if (name.ends_with("_pre_quant_scale")) refuse_scaled(name);
      if (name.ends_with(".weight")) check_weight(name, t);
      if (std::string module; cut(name, ".input_quantizer._amax", module)) {
        InputStatistics& s = c.inputs.emplace_back();
        s.module = module;
        s.readers = {module};
        s.rows = 1;
        s.observed = range(t);
        s.extent = nothing;
      } else if (cut(name, ".k_bmm_quantizer._amax", module)) {
        caches[module].k_amax = range(t);
      } else if (cut(name, ".v_bmm_quantizer._amax", module)) {
        caches[module].v_amax = range(t);
      }
    }
    if (quantizers == 0) {
      throw input_error("holds no quantizers of ModelOpt")
          .file(path_)
          .hint("give the file that mto.save wrote");
    }
    for (auto& [block, s] : caches) {
      s.block = block;
      c.caches.push_back(s);
    }
    return c;
  }

 private:
  static bool cut(const std::string& name, std::string_view tail, std::string& module) {
    if (!name.ends_with(tail)) return false;
    module = name.substr(0, name.size() - tail.size());
    return true;
  }

  [[noreturn]] void refuse_scaled(const std::string& name) const {
    throw limit_error(
        "holds weights that AWQ or SmoothQuant scaled (pre_quant_scale), which cannot be taken "
        "over")
        .file(path_)
        .tensor(name)
        .hint("export it with ModelOpt, and load that");
  }

  void check_weight(const std::string& name, const TorchTensor& t) const {
    auto it = shapes_.find(name);
    bool tied = it == shapes_.end() && name == "lm_head.weight";
    if (tied || (it != shapes_.end() && it->second == t.shape)) return;
    throw input_error(it == shapes_.end() ? "is in the state, but not in the model"
                                          : "has another shape in the state (expected " +
                                                it->second.str() + ", found " + t.shape.str() + ")")
        .file(path_)
        .tensor(name)
        .hint("give the base model that this state was made of");
  }

  float range(const TorchTensor& t) const {
    if (t.shape.elements() != 1 || !is_float(t.dtype)) {
      throw input_error("is no range of a whole tensor (found " + std::string(dtype_name(t.dtype)) +
                        " " + t.shape.str() + ")")
          .file(path_)
          .tensor(t.name);
    }
    float v = 0;
    cast_floats(t.dtype, file_->bytes().data() + t.offset, 1, DType::f32,
                reinterpret_cast<std::byte*>(&v));
    if (!std::isfinite(v) || v < 0) {
      throw input_error("is " + std::to_string(v) + ", which is no range")
          .file(path_)
          .tensor(t.name);
    }
    return v;
  }

  const std::string& path_;
  std::shared_ptr<const MappedFile> file_;
  std::map<std::string, Shape> shapes_;
};

}  // namespace

Calibration read_state(const std::string& path, const std::vector<Tensor>& tensors,
                       const Extent& nothing) {
  return Reader(path, tensors).run(nothing);
}

}  // namespace qp::modelopt
