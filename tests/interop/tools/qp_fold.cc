// For interop tests: moves a factor, drawn anew for each, past every place of a model that has room for
// one, and writes the model.
//   qp_fold MODEL OUT.qmap     standard error: a line per fold: what makes the channels, what reads them first
#include <cmath>
#include <cstdio>

#include "cmd/tool/input.h"
#include "lib/algorithm/quantize.h"
#include "lib/arch/arch.h"
#include "lib/base/error.h"
#include "lib/transform/steps.h"
#include "tests/interop/tools/tool_main.h"

namespace qp {
namespace {

int run(int argc, char** argv) {
  if (argc != 3) throw usage_error("MODEL OUT.qmap");
  OpenedInput in = open_input(argv[1], {});
  engine::WeightSource weights(*in.store);
  auto model = arch::make_architecture(in.store->model(), weights);
  transform::Edits edits;
  uint32_t state = 1;
  for (size_t i = 0; i < model->layers; ++i) {
    for (const transform::Fold& fold : transform::find_folds(model->layer(i))) {
      std::vector<float> scales(fold.channels);
      for (float& s : scales) {
        state = state * 1664525 + 1013904223;
        s = std::exp2(static_cast<float>(state >> 8) * 0x1p-22f - 2);  // 1/4 .. 4
      }
      transform::apply(fold, scales, weights, edits);
      std::fprintf(stderr, "%s -> %s\n", fold.producer.tensor.c_str(), fold.consumers.front().module.c_str());
    }
  }
  Progress progress;
  auto store = transform::edited(*in.store, edits, uint64_t{1} << 32, progress);
  Recipe keep;
  keep.rules.push_back(scheme_rule({}, "none"));
  Plan plan = make_plan(store->model(), keep, argv[1]);
  OutputOptions options;
  options.path = argv[2];
  options.force = true;
  options.sync = false;
  QmapOutput out(options);
  out.commit(run_plan(*store, plan, {}, out, progress).id);
  return 0;
}

}  // namespace
}  // namespace qp

int main(int argc, char** argv) { return qp::tool_main("qp_fold", qp::run, argc, argv); }
