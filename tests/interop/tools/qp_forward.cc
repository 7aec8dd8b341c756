// For interop tests: runs a model over windows of tokens and writes what it computed.
//   qp_forward MODEL WINDOWS.json f32|bf16 OUT.f32 [MEMORY|least [THREADS [WINDOWS_AT_A_TIME]]]
// WINDOWS.json: a list of lists of ids. OUT.f32: logits [all tokens, vocabulary], little-endian; '-': none.
// MEMORY: bytes; least: as little as works.
#include <cstdio>
#include <fstream>

#include "cmd/tool/input.h"
#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "lib/eval/head.h"
#include "lib/stream/stream.h"
#include "tests/interop/tools/tool_main.h"

namespace qp {
namespace {

void write_logits(const arch::Architecture& model, const engine::WeightSource& weights,
                  gemm::Precision precision, const Stream& stream, const char* path) {
  Head head(model, weights, precision);
  size_t rows = stream.rows(), vocab = head.vocab();
  std::vector<float> hidden(rows * model.hidden), block, all(rows * vocab);
  stream.read(0, rows, hidden.data());
  head.norm(hidden.data(), rows, hidden.data());
  for (size_t b = 0; b < head.blocks(); ++b) {
    head.load(b);
    block.resize(rows * head.width());
    head.logits(hidden.data(), rows, block.data());
    for (size_t r = 0; r < rows; ++r) {
      std::copy_n(block.data() + r * head.width(), head.width(),
                  all.data() + r * vocab + head.first());
    }
  }
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(all.data()),
            static_cast<std::streamsize>(all.size() * sizeof(float)));
}

uint64_t least_memory(const arch::Architecture& model, const engine::WeightSource& weights,
                      const Windows& windows, StreamOptions options) {
  uint64_t low = 0, high = uint64_t{1} << 40;
  while (high - low > 1) {
    options.memory = (low + high) / 2;
    try {
      Stream stream(model, weights, windows, options, {Fd(), Fd()});
      high = options.memory;
    } catch (const Error& e) {
      if (e.kind() != ErrorKind::limit) throw;
      low = options.memory;
    }
  }
  return high;
}

int run(int argc, char** argv) {
  if (argc < 5) throw usage_error("MODEL WINDOWS.json f32|bf16 OUT.f32 [MEMORY [THREADS [WINDOWS]]]");
  OpenedInput in = open_input(argv[1], {});
  engine::WeightSource weights(*in.store);
  auto model = arch::make_architecture(in.store->model(), weights);
  Windows windows;
  for (const Json& w : parse_json(read_text_file(argv[2], 1 << 28), argv[2])) {
    windows.add(w.get<std::vector<int32_t>>());
  }
  StreamOptions options;
  options.precision = std::string(argv[3]) == "f32" ? gemm::Precision::f32 : gemm::Precision::bf16;
  if (argc > 6) set_threads(std::stoi(argv[6]));
  if (argc > 7) options.batch_windows = std::stoull(argv[7]);
  if (argc > 5) {
    bool least = std::string(argv[5]) == "least";
    options.memory = least ? least_memory(*model, weights, windows, options) : std::stoull(argv[5]);
  }
  Stream stream(*model, weights, windows, options, spill_states());
  Progress progress;
  stream.embed();
  for (size_t i = 0; i < model->layers; ++i) stream.layer(i, nullptr, progress);
  if (std::string(argv[4]) != "-") write_logits(*model, weights, options.precision, stream, argv[4]);
  std::fprintf(stderr, "%zu tokens, %zu x %zu layers, peak %llu MiB\n", stream.rows(), model->layers,
               model->hidden, static_cast<unsigned long long>(stream.peak_bytes() >> 20));
  return 0;
}

}  // namespace
}  // namespace qp

int main(int argc, char** argv) { return qp::tool_main("qp_forward", qp::run, argc, argv); }
