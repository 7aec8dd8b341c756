// qcalibrate: runs text through a model and keeps what its linears saw. Manual: qcalibrate(1).
#include "cmd/qcalibrate/calibrate.h"
#include "cmd/tool/run_tool.h"

int main(int argc, char** argv) {
  const qp::ToolInfo info = {
      "qcalibrate",
      "run text through a model and keep what the activations showed",
      "Runs token windows through the model, layer by layer, in memory that grows with neither the number of "
      "layers nor of windows, and writes a qmap that refers to the model and holds the windows and, for every "
      "input of a linear: largest and mean |x| and sum of x^2 per channel, the largest |x| of each window, a "
      "histogram where the observer needs one; how often each expert was chosen; and the largest key and value. "
      "The result does not depend on threads, memory or batch size, and runs over different text can be merged "
      "exactly. Chat messages are not rendered: bring plain text, or token ids.",
      {{"qload ./model -o base.qmap && zcat c4.json.gz | qcalibrate base.qmap --text - --field text -n 128 "
        "--seqlen 512 -o calib.qmap", "128 windows of 512 tokens from JSON lines"},
       {"qcalibrate ./model --text a.txt --text b.txt.zst --seqlen 512 -o calib.qmap", "plain text, one file after the other"},
       {"qcalibrate ./model --tokens ids.jsonl -o calib.qmap", "token ids made elsewhere"},
       {"qcalibrate --merge part1.qmap part2.qmap -o calib.qmap", "as if one run had read both texts"},
       {"qcalibrate calib.qmap --list", "what is in it"}}};
  qp::CalibrateCommand command;
  return qp::run_tool(
      info, argc, argv, [&](CLI::App& app) { command.declare(app); },
      [&](qp::Tool& tool) { return command.run(tool); });
}
