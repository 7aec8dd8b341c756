// For interop tests: quantizes and dequantizes what enters a linear.
//   qp_act_quant MODEL MODULE f32|bf16 COLUMNS IN.f32 OUT.f32
#include <cstring>
#include <fstream>

#include "cmd/tool/input.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/eval/act_quant.h"
#include "tests/interop/tools/tool_main.h"

namespace qp {
namespace {

int run(int argc, char** argv) {
  if (argc != 7) throw usage_error("MODEL MODULE f32|bf16 COLUMNS IN.f32 OUT.f32");
  OpenedInput in = open_input(argv[1], {});
  bool exact = std::string(argv[3]) == "f32";
  ActivationQuant quant(*in.store, exact ? gemm::Precision::f32 : gemm::Precision::bf16);
  std::string bytes = read_text_file(argv[5], 1 << 30);
  std::vector<float> x(bytes.size() / sizeof(float)), storage;
  std::memcpy(x.data(), bytes.data(), x.size() * sizeof(float));
  size_t cols = std::stoul(argv[4]);
  engine::ConstMatrix y =
      quant.before({argv[2], argv[2]}, {x.data(), x.size() / cols, cols}, {}, storage);
  if (y.data == x.data()) throw input_error("quantizes no activations of this module");
  std::ofstream out(argv[6], std::ios::binary);
  out.write(reinterpret_cast<const char*>(y.data),
            static_cast<std::streamsize>(x.size() * sizeof(float)));
  return 0;
}

}  // namespace
}  // namespace qp

int main(int argc, char** argv) { return qp::tool_main("qp_act_quant", qp::run, argc, argv); }
