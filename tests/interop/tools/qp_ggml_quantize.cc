// For tests/peers/ggml/ggml_types.py: rows of f32 as blocks of a type of ggml.
//   qp_ggml_quantize                            lists the types: name, id, elements and bytes per
//   block, whether
//                                               importance is needed, whether it changes anything
//   qp_ggml_quantize TYPE COLS ROWS.f32 [IMPORTANCE.f32]    the blocks on standard output
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "lib/base/error.h"
#include "lib/kernels/ggml.h"
#include "lib/kernels/ggml_quantize.h"
#include "tests/interop/tools/tool_main.h"

namespace qp {
namespace {

std::vector<float> read_floats(const char* path) {
  std::ifstream in(path, std::ios::binary);
  std::vector<char> bytes{std::istreambuf_iterator<char>(in), {}};
  std::vector<float> values(bytes.size() / sizeof(float));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(float));
  return values;
}

int list() {
  for (const GgmlType& type : ggml_types()) {
    const GgmlQuantizer* q = ggml_quantizer(type.id);
    if (q == nullptr) continue;
    std::printf("%s %u %u %u %d %d\n", std::string(type.name).c_str(), type.id, type.block,
                type.bytes, q->needs_importance, q->uses_importance);
  }
  return 0;
}

int run(int argc, char** argv) {
  if (argc == 1) return list();
  if (argc != 4 && argc != 5) throw usage_error("[TYPE COLS ROWS.f32 [IMPORTANCE.f32]]");
  const GgmlType* type = ggml_type(std::string_view(argv[1]));
  const GgmlQuantizer* q = type != nullptr ? ggml_quantizer(type->id) : nullptr;
  if (q == nullptr) throw usage_error("cannot make '" + printable(argv[1]) + "'");
  size_t cols = std::strtoul(argv[2], nullptr, 10);
  std::vector<float> x = read_floats(argv[3]), importance;
  if (argc == 5) importance = read_floats(argv[4]);
  if (cols == 0 || cols % type->block != 0 || x.size() % cols != 0 ||
      (argc == 5 && importance.size() != cols)) {
    throw usage_error("sizes do not fit");
  }
  std::vector<uint8_t> out(x.size() / type->block * type->bytes);
  q->quantize(x.data(), x.size() / cols, cols, argc == 5 ? importance.data() : nullptr, out.data());
  std::fwrite(out.data(), 1, out.size(), stdout);
  return 0;
}

}  // namespace
}  // namespace qp

int main(int argc, char** argv) { return qp::tool_main("qp_ggml_quantize", qp::run, argc, argv); }
