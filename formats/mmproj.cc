// qexport -f mmproj: the vision part of a model, as llama.cpp loads it beside the language model.
#include "formats/gguf.h"

namespace qp {

const Format& mmproj_format() {
  static const Format format = {
      .name = "mmproj",
      .summary = "the vision part of a model as llama.cpp's GGUF (mmproj)",
      .plan = export_mmproj,
      .quant_method = "",
      .adopt = nullptr,
      .target = "llama.cpp",
      .to_stdout = true};
  return format;
}

}  // namespace qp
