// What a GGUF of a model holds, decided before any weight is read.
#pragma once

#include <string>
#include <vector>

#include "formats/container/gguf_writer.h"
#include "formats/format.h"
#include "lib/ggml/tensor_map.h"

namespace qp {

struct GgufOut {
  GgufEntry entry;
  std::vector<ggml::Piece> pieces;  // of tensors of the model, one after the other
  bool plus_one = false;
  std::vector<float> values;  // instead of pieces: computed from config.json
};

struct GgufPlan {
  ggml::Metadata metadata{""};
  std::vector<GgufOut> tensors;
};

// Whether a tensor's codes are those of ggml's mxfp4 blocks, which only lie otherwise.
bool is_mxfp4(const Model& model, const Tensor& tensor);

// Errors: limit (an architecture or a quantization that GGUF has no form for), input.
GgufPlan plan_gguf(const Store& store, const ExportOptions& options);

// general.*, but for file_type: what the model's files say of it (reference/gguf.md 9.1).
void describe_model(const Store& store, const ExportOptions& options,
                    const std::vector<GgufOut>& tensors, ggml::Metadata& out);

// tokenizer.*; `vocabulary` is the number of rows of the embedding.
// Errors: input; limit, for a tokenizer that llama.cpp has no name for.
void describe_tokenizer(const Store& store, const ExportOptions& options, uint64_t vocabulary,
                        ggml::Metadata& out);

}  // namespace qp
