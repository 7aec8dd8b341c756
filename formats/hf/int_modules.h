// Linears as GPTQ and AWQ arrange them (reference/int4-formats.md 1.1, 1.3, 1.6), read into the
// canonical form and written from it: what the families gptq, awq and auto-round have in common.
#pragma once

#include <string>
#include <string_view>

#include "formats/format.h"
#include "formats/hf/modules.h"
#include "formats/hf/int_weight.h"

namespace qp {

// What a config says of one linear.
struct IntArgs {
  int bits = 4;
  int64_t group_size = 128;  // -1: the whole row
  bool symmetric = true;
};
// Its scheme; `numerics` is the family. Errors: input, when bits or group size are out of range.
Scheme int_scheme(const IntArgs& args, std::string_view numerics);

constexpr std::string_view kIntRoot[] = {"qweight", "B"};
constexpr std::string_view kIntParts[] = {"qzeros", "scales", "g_idx", "s"};

// ---- GPTQ

struct GptqStored {
  IntArgs args;
  enum class Zeros {
    v1,        // fields hold z - 1
    v1_words,  // the same, taken from whole words: GPTQModel, asymmetric, 2, 4 and 8 bits
    v2,        // fields hold z
  } zeros = Zeros::v1;
  bool planar = false;      // gptq_p
  bool marlin = false;      // B and s
  bool needs_g_idx = true;  // auto-round writes none
  bool act_order = true;    // a g_idx that is not column / group is allowed
};
// A linear's tensor with codes, scale, zero_point (checked and left out when symmetric) and g_idx
// (the same when it is column / group). Adds its scheme to the model. Errors: input, naming module
// and part: missing or wrong shape, zero point or group out of range.
Tensor read_gptq(Model& model, const RawModule& module, const GptqStored& stored,
                 std::string_view family, const LoadOptions& options);
// qweight, qzeros, scales and, when asked for, g_idx. Errors: limit, naming the tensor.
void write_gptq(const IntWeight& weight, bool v2, bool g_idx, ExportPlan& plan);

// ---- AWQ

struct AwqStored {
  IntArgs args;
  enum class Version { gemm, gemv, gemv_fast, marlin } version = Version::gemm;
};
// As read_gptq.
Tensor read_awq(Model& model, const RawModule& module, const AwqStored& stored,
                std::string_view family, const LoadOptions& options);
// True when every zero point of every qzeros of the model is the centre of its range: symmetric
// data.
bool centred_zeros(const Model& model, int bits);
// qweight, qzeros, scales of version gemm. Errors: limit, naming the tensor.
void write_awq(const IntWeight& weight, ExportPlan& plan);

// ---- shared by both

// Tensor of shape [rows, cols] with the module's scheme and, but for its parts, ready.
Tensor start_int(Model& model, const IntArgs& args, std::string_view family, uint64_t rows,
                 uint64_t cols);
uint64_t int_groups(const IntArgs& args, uint64_t cols);
// "quantized": the source tensor became what `plan` holds from number `first` on.
void note_quantized(const Tensor& tensor, size_t first, ExportPlan& plan);

}  // namespace qp
