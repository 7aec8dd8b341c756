// qexport: writes a checkpoint in the format a serving engine loads. Manual: qexport(1).
#include "cmd/qexport/export.h"
#include "cmd/tool/run_tool.h"

int main(int argc, char** argv) {
  const qp::ToolInfo info = {
      "qexport",
      "write a checkpoint in the format a serving engine loads",
      "Reads a qmap (or any checkpoint qload opens) and writes a directory: shards, index, the "
      "companion files byte for byte, and config.json last. Codes are re-laid, never quantized "
      "again. What was written is read back and compared before the directory gets its name, and "
      "every tensor of the source is accounted for (--ledger). A diffusers pipeline is written as the "
      "folders that it was, its transformers in any format; -f diffusers takes the one that fits their "
      "scheme. With a pipe behind it, qexport tells qverify where the result is.",
      {{"qload ./model | qquantize -s fp8-dynamic | qexport -f compressed-tensors -o ./out", "one line, no temporary file"},
       {"qexport w4.qmap -f compressed-tensors -o ./out --shard-size 2GB", "smaller shards"},
       {"qload ./FLUX.1-dev | qquantize -s fp8-tensor | qexport -f diffusers -o ./flux-fp8", "a diffusers pipeline"},
       {"qexport w4.qmap -f compressed-tensors -o ./out | qverify", "write, then verify"}}};
  qp::ExportCommand command;
  return qp::run_tool(
      info, argc, argv, [&](CLI::App& app) { command.declare(app); },
      [&](qp::Tool& tool) { return command.run(tool); });
}
