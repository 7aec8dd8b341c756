// For interop tests: one layer of a model, forward and backward, in f32.
//   qp_gradient MODEL WINDOWS.json LAYER IN.f32 OUT_DIR
// IN.f32: hidden states x, then the gradient dy of the layer's result, each [all tokens, hidden].
// OUT_DIR: y.f32 and dx.f32 of the same shape; N.f32, the gradient [out, in] of the N-th weight; and
// index.json, a list of the weights' {tensor, rows, cols, first_row, transposed}.
#include <fstream>

#include "cmd/tool/input.h"
#include "lib/arch/arch.h"
#include "lib/base/error.h"
#include "tests/interop/tools/tool_main.h"

namespace qp {
namespace {

using engine::ConstMatrix, engine::WeightUse;

void write(const std::string& path, ConstMatrix m) {
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(m.data),
            static_cast<std::streamsize>(m.rows * m.cols * sizeof(float)));
}

class FileSink : public engine::GradientSink {
 public:
  explicit FileSink(std::string directory) : directory_(std::move(directory)) {}
  bool wants(const WeightUse&) override { return true; }
  void weight(const WeightUse& use, ConstMatrix dw) override {
    write(directory_ + "/" + std::to_string(index_.size()) + ".f32", dw);
    index_.push_back({{"tensor", use.tensor},
                      {"rows", use.rows},
                      {"cols", use.cols},
                      {"first_row", use.first_row},
                      {"transposed", use.transposed}});
  }
  ~FileSink() override { std::ofstream(directory_ + "/index.json") << index_; }

 private:
  std::string directory_;
  Json index_ = Json::array();
};

int run(int argc, char** argv) {
  if (argc != 6) throw usage_error("MODEL WINDOWS.json LAYER IN.f32 OUT_DIR");
  OpenedInput in = open_input(argv[1], {});
  engine::WeightSource source(*in.store);
  auto model = arch::make_architecture(in.store->model(), source);
  engine::Batch batch;
  for (const auto& window :
       parse_json(read_text_file(argv[2], 1 << 28), argv[2]).get<std::vector<std::vector<int32_t>>>()) {
    batch.add(window.data(), window.size());
  }
  engine::Graph graph = model->layer(std::stoull(argv[3]));
  std::vector<std::vector<engine::Weight>> weights;
  for (const engine::Node& node : graph.nodes()) {
    weights.emplace_back();
    for (const WeightUse& use : node.op->weights) {
      weights.back().push_back(source.load(use, gemm::Precision::f32));
    }
  }
  engine::Pool pool, gradient_pool;
  engine::Values values(graph, pool, batch.rows(), true);
  engine::Values gradients(graph, gradient_pool, batch.rows(), true);
  engine::Matrix x = values.make(graph.input()), dy = gradients.make(graph.output());
  std::ifstream file(argv[4], std::ios::binary);
  for (engine::Matrix m : {x, dy}) {
    file.read(reinterpret_cast<char*>(m.data),
              static_cast<std::streamsize>(m.rows * m.cols * sizeof(float)));
  }
  std::string out = argv[5];
  FileSink sink(out);
  engine::Step step{batch, gemm::Precision::f32};
  step.source = &source;
  step.gradients = &sink;
  engine::run(graph, 0, graph.nodes().size(), step, weights, values, true);
  write(out + "/y.f32", values.get(graph.output()));
  engine::run_backward(graph, step, weights, values, gradients);
  write(out + "/dx.f32", gradients.get(graph.input()));
  return 0;
}

}  // namespace
}  // namespace qp

int main(int argc, char** argv) { return qp::tool_main("qp_gradient", qp::run, argc, argv); }
