#include "lib/engine/ops/embedding.h"

#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "lib/tensor/minifloat.h"

namespace qp::engine {
namespace {

// A model that runs in bf16 multiplies by a factor that is bf16, too, if its table is.
float factor_of_run(float scale, gemm::Precision precision, DType table) {
  if (precision == gemm::Precision::f32) return scale;
  if (table == DType::bf16) return bf16_to_f32(f32_to_bf16(scale));
  return table == DType::f16 ? f16_to_f32(f32_to_f16(scale)) : scale;
}

}  // namespace

Embedding::Embedding(std::string table, size_t rows, size_t width, By by, float scale,
                     size_t offset)
    : by_(by), scale_(scale), offset_(offset) {
  weights.push_back({std::move(table), Form::table, rows, width});
}

void Embedding::forward(const Step& step, std::span<const ConstMatrix>, Matrix out) const {
  const Weight& table = step.weights[0];
  const Batch& batch = step.batch;
  size_t past = step.past == nullptr ? 0 : step.past->rows;
  float scale = factor_of_run(scale_, step.precision, table.source->dtype());
  std::vector<RowScratch> scratch(static_cast<size_t>(threads()));
  parallel_for(batch.windows(), [&](size_t w, int worker) {
    for (size_t r = batch.starts[w]; r < batch.starts[w + 1]; ++r) {
      int64_t row = by_ == By::token ? batch.tokens[r]
                                     : static_cast<int64_t>(r - batch.starts[w] + past + offset_);
      if (row < 0 || static_cast<uint64_t>(row) >= table.source->rows()) {
        std::string limit = " (the table has " + std::to_string(table.source->rows()) + " rows)";
        if (by_ == By::token) {
          throw input_error("token " + std::to_string(row) + " is not in the vocabulary" + limit)
              .tensor(table.use.tensor)
              .hint("the tokenizer and the model do not belong together");
        }
        throw usage_error("a window is longer than the model's context" + limit)
            .tensor(table.use.tensor)
            .hint("use a smaller --seqlen");
      }
      const float* data = table.source->get_f32(static_cast<uint64_t>(row), 1,
                                                scratch[static_cast<size_t>(worker)], false);
      float* to = out.row(r);
      for (size_t j = 0; j < out.cols; ++j) to[j] = data[j] * scale;
    }
  });
}

}  // namespace qp::engine
