// What writers of families with "weight", "weight_scale" .. per linear share.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/format.h"
#include "lib/model/modules.h"

namespace qp {

// Writes the parts of one quantized linear under the family's names into a plan.
class LinearWriter {
 public:
  LinearWriter(const Store& store, const Tensor& tensor, ExportPlan& plan);

  const Tensor& tensor;
  const Scheme& scheme;
  std::string module;  // the tensor's name without ".weight"
  uint64_t rows, cols;

  // A part under MODULE.SUFFIX. Floats of another dtype are cast where that is exact.
  // Errors: limit, when the tensor has no such part.
  OutTensor& part(std::string_view suffix, Role role, DType dtype, const Shape& shape);
  // The same in the dtype in which the part is held.
  OutTensor& part_as_is(std::string_view suffix, Role role, const Shape& shape);
  // Codes arranged by a layout whose arguments but the matrix and its bits are given.
  OutTensor& laid_out(std::string_view suffix, Role role, DType dtype, const Shape& shape,
                      const Layout& layout, LayoutArgs args = {});
  // F32 scales: of rows [rows, 1] even when there is one for the tensor; E8M0 as 2^(e-127).
  OutTensor& scale_f32(std::string_view suffix, const Shape& shape);
  // Bytes that are computed here.
  void value(std::string_view suffix, DType dtype, const Shape& shape,
             std::span<const std::byte> bytes);
  void scalar(std::string_view suffix, float value, const Shape& shape);
  std::string finish();  // the ledger's entry; the names written, separated by spaces

  bool has(Role role) const { return tensor.part(role) != nullptr; }
  float read_scalar(Role role) const;
  // "is W8A8 .., which FAMILY cannot hold". Errors: limit, naming the tensor.
  [[noreturn]] void refuse(const std::string& what, const std::string& hint) const;
  // Refuses a part that this family has no place for.
  void refuse_roles(std::initializer_list<Role> roles, std::string_view family) const;

 private:
  const Store& store_;
  ExportPlan& plan_;
  size_t first_;
};

// Refuses what no HF-style family holds (native ggml blocks, names without ".weight" but stacks).
void refuse_ggml(const Store& store, const Tensor& tensor, std::string_view family);

// Modules that engines build as Linear (or Embedding) but that are stored unquantized, as `said`
// spells them ("": left out), sorted; with a tied head. Stacks of experts come as the module that
// holds them.
std::vector<std::string> unquantized_names(
    const Model& model, const std::function<std::string(const ModuleInfo&)>& said);
// Their full paths; those of embeddings only when asked for.
std::vector<std::string> unquantized_linears(const Model& model, bool embeddings = false);

// Errors: limit, when the head is quantized and tied to the embedding.
void refuse_quantized_tied_head(const Store& store);

// The end of every such plan: companions, warnings (nothing is quantized, no config.json), and the
// text of config.json with `quantization_config` (null: without). Errors: limit, as above.
void finish_plan(const Store& store, const ExportOptions& options, const Json& quantization_config,
                 ExportPlan& plan);

// True when the module's own path, or a dotted part of it, is `entry` ("gate" is in "mlp.gate" but
// not in "mlp.gate_proj"): how SGLang reads an ignore list.
bool names_module(std::string_view entry, std::string_view module);

}  // namespace qp
