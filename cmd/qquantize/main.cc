// qquantize: applies a scheme; the result is the saved quantized checkpoint. Manual: qquantize(1).
#include "cmd/qquantize/quantize.h"
#include "cmd/tool/run_tool.h"

int main(int argc, char** argv) {
  const qp::ToolInfo info = {
      "qquantize",
      "quantize a checkpoint with a scheme, data-free",
      "Reads a qmap (or any checkpoint qload opens) and writes a qmap whose linear weights are "
      "quantized. A scheme says what the numbers mean (qquantize --list-schemes); a recipe gives "
      "different tensors different schemes. Embeddings, the output head, norms, routers and vision "
      "towers stay as they are unless a rule names them; experts stacked in one tensor are "
      "quantized one by one. The result is the same on every machine, "
      "with any number of threads. Several schemes make several results in one pass over the "
      "source, "
      "each the bytes of a run with its scheme alone: -s w4a16,w3a16 (or -s twice) with {scheme} "
      "in "
      "-o; they get their names when all are finished, and on a pipe there is a handle for each. "
      "With --target-bpw or --target-size, each group of tensors that "
      "engines want in one scheme gets one of those that -s names, so that the model suffers "
      "least: "
      "sensitivities are measured over the token windows of qcalibrate, with every scheme's result "
      "in a spill file meanwhile. An interrupted run leaves FILE.partial; --resume continues it.",
      {{"qload ./model | qquantize -s w4a16 -o w4.qmap", "4-bit weights in groups of 128"},
       {"qquantize ./model -s w4a16 --group-size 64 --dry-run", "what would happen, and why"},
       {"qquantize base.qmap --recipe mixed.json -o mixed.qmap", "rules from a file"},
       {"qquantize calib.qmap -s w4a16,w3a16 -a gptq -o 'out-{scheme}.qmap'",
        "two results from one run, out-w4a16.qmap and out-w3a16.qmap"},
       {"qquantize calib.qmap -s w3a16,w4a16,w8a16 --target-bpw 4.25 --save-recipe auto.json -o "
        "auto.qmap",
        "4.25 bits per weight, spent where they count"},
       {"qquantize ./model -s fp8-dynamic --explain model.layers.0.mlp.up_proj",
        "the story of one tensor"}}};
  qp::QuantizeCommand command;
  return qp::run_tool(
      info, argc, argv, [&](CLI::App& app) { command.declare(app); },
      [&](qp::Tool& tool) { return command.run(tool); });
}
