// qload: opens any checkpoint and hands it on as a qmap. Manual: qload(1).
#include "cmd/qload/load.h"
#include "cmd/tool/run_tool.h"

int main(int argc, char** argv) {
  const qp::ToolInfo info = {
      "qload",
      "open any LLM checkpoint, in any format, quantized or not",
      "Opens a checkpoint and writes a qmap that the other programs read. Only headers are parsed: "
      "the qmap refers to the files, so a model of any size loads in milliseconds. The input is a "
      "directory or file of safetensors, PyTorch (.bin, .pt, .pth), GGUF, compressed-tensors, a "
      "diffusers pipeline, or a qmap; qload --list-inputs shows every kind. Without -o, the result goes "
      "to the next program in the pipe.",
      {{"qload ./model | qquantize -s fp8-dynamic -o fp8.qmap", "quantize without a temporary file"},
       {"qload ./model --list", "see every tensor, its kind, dtype, shape and size"},
       {"qload ./model.gguf --dequantize | qexport -f safetensors -o ./bf16", "GGUF back to bf16 safetensors"},
       {"qload ./model --pack -o model.qmap", "a self-contained copy; the model may be deleted then"}}};
  qp::LoadCommand command;
  return qp::run_tool(
      info, argc, argv, [&](CLI::App& app) { command.declare(app); },
      [&](qp::Tool& tool) { return command.run(tool); });
}
