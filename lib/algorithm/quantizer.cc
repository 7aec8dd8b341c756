#include "lib/algorithm/quantizer.h"

#include "lib/algorithm/codebook.h"
#include "lib/algorithm/ggml_blocks.h"
#include "lib/algorithm/grid.h"
#include "lib/algorithm/rtn.h"
#include "lib/algorithm/search.h"
#include "lib/base/error.h"
#include "lib/config/algorithms.h"

namespace qp {

std::unique_ptr<Quantizer> make_quantizer(std::string_view algorithm, const Store& store, const Tensor& t,
                                          const Scheme& scheme, float range, ScaleSign sign,
                                          std::vector<float> importance) {
  if (!scheme.ggml.empty()) return std::make_unique<BlockQuantizer>(store, t, scheme, std::move(importance));
  if (algorithm == "rtn") return std::make_unique<RtnQuantizer>(store, t, scheme, range);
  if (algorithm == "mse") return std::make_unique<SearchQuantizer>(store, t, scheme, range, Fit::search, sign);
  if (algorithm == "hqq") return std::make_unique<SearchQuantizer>(store, t, scheme, range, Fit::shrink, sign);
  throw defect_error("'" + std::string(algorithm) + "' is not data-free").tensor(t.name);
}

uint64_t rows_unit(const Scheme& scheme, const Shape& shape) {
  if (!scheme.ggml.empty()) return 16;  // lanes of the kernels
  if (scheme.code_kind() == CodeKind::codebook) return CodebookQuantizer::unit_of(scheme, shape);
  if (scheme.weights.strategy != Strategy::block) return 1;
  return static_cast<uint64_t>(scheme.weights.block_rows);
}

std::string why_not(std::string_view algorithm, const Scheme& scheme) {
  bool ggml = !scheme.ggml.empty();
  if (algorithm == "rtn" || (algorithm == "imatrix" && ggml)) return "";
  if (ggml) return "ggml's types have searches of their own; use rtn, or imatrix after qcalibrate";
  if (algorithm == "imatrix") return "it weighs the searches of ggml's types; use clip or gptq";
  std::string why = Grid::why_not(scheme);
  bool one = scheme.weights.strategy == Strategy::tensor;
  if (why.empty() && one && !find_algorithm(algorithm).runs_model) {
    why = "its one scale spans the tensor, and groups, rows or blocks are searched";
  }
  if (algorithm == "hqq" && scheme.code_kind() != CodeKind::integer) why = "its codes are no integers";
  return why.empty() ? "" : why + "; use rtn" + (algorithm == "hqq" && Grid::why_not(scheme).empty() && !one ? " or mse" : "");
}

// Two ways for weights to be no weights.

void refuse_nonfinite(const Store& store, const Tensor& t, uint64_t row) {
  throw input_error("has NaN or infinite weights in row " + std::to_string(row))
      .file(store.where(t))
      .tensor(t.name)
      .hint("the source is damaged; --ignore the tensor to keep it as it is");
}

// Finite weights whose scale is not: a range above the dtype's largest number (zero points), a power
// of two that carries past it (E8M0). The reference stores the infinity; engines then compute NaN.
void refuse_overflow(const Store& store, const Tensor& t, uint64_t row) {
  throw limit_error("has weights so large that their scale overflows " +
                    std::string(dtype_name(t.dtype)) + ", in row " + std::to_string(row))
      .file(store.label())
      .tensor(t.name)
      .hint("use a scheme with symmetric, float scales (w4a16, fp8-dynamic ..), or --ignore it");
}

}  // namespace qp
