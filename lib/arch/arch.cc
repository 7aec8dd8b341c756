#include "lib/arch/arch.h"

#include <algorithm>

#include "lib/base/error.h"

namespace qp::arch {

#define QP_FAMILY(name) extern const Family k_##name;
#include "lib/arch/arch.def"
#undef QP_FAMILY

std::span<const Family* const> families() {
  static const Family* const all[] = {
#define QP_FAMILY(name) &k_##name,
#include "lib/arch/arch.def"
#undef QP_FAMILY
  };
  return all;
}

namespace {

const Family* find(std::string_view architecture) {
  for (const Family* f : families()) {
    if (std::find(f->architectures.begin(), f->architectures.end(), architecture) !=
        f->architectures.end()) {
      return f;
    }
  }
  return nullptr;
}

}  // namespace

bool is_known(std::string_view architecture) { return find(architecture) != nullptr; }

std::unique_ptr<Architecture> make_architecture(const Model& model,
                                                const engine::WeightSource& weights) {
  if (model.config.is_null()) {
    throw input_error("has no config.json, so how to run it is not known")
        .file(weights.store().label());
  }
  const Family* family = find(model.architecture);
  if (family == nullptr) {
    std::string known;
    for (const Family* f : families()) known += (known.empty() ? "" : ", ") + std::string(f->name);
    throw input_error("the architecture '" + printable(model.architecture) + "' cannot be run")
        .file(weights.store().label())
        .hint("data-free schemes and export need no run; families that run: " + known);
  }
  try {
    return family->make(ModelConfig(model.config), weights);
  } catch (Error& e) {
    e.file("config.json");  // where nobody closer knew better
    throw;
  }
}

}  // namespace qp::arch
