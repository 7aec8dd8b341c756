// qverify: proves that a checkpoint is sound and close to its base. Manual: qverify(1).
#include "cmd/qverify/verify.h"
#include "cmd/tool/run_tool.h"

int main(int argc, char** argv) {
  const qp::ToolInfo info = {
      "qverify",
      "prove that a checkpoint is sound, and close to the one it was made from",
      "Checks a checkpoint in any format: index against shards, tensors against config.json and its "
      "quantization_config, every stored number (NaN, infinity, zero scales, codes), companion files and "
      "checksums. With a base it also compares every tensor's values with those of the base: mean squared "
      "error, SQNR, cosine, largest difference, worst first. Tensors are matched by equal names; HF names "
      "for GGUF files of families that qload knows. Errors fail the checkpoint (exit 1), and so do "
      "warnings with --strict; notes never do. Without an argument, or with '-', it reads what qexport or "
      "another program hands over in a pipe. "
      "With --eval it runs the model, layer by layer within --max-memory: perplexity over whole windows of a text, by "
      "Hugging Face's definition (a token counts in the first window that has it, with what stands before it there) or "
      "llama.cpp's (BOS first, second half of each window), and with a base KL divergence, the share of tokens with the "
      "same first choice, and how far hidden states drift. Errors (+-) are standard errors over tokens. Activations are "
      "quantized as the scheme says, weight-only types aside. --choices scores multiple choice as lm-eval does: acc by "
      "log-likelihood, acc_norm by log-likelihood per byte of the choice.",
      {{"qverify ./out", "is it sound on its own?"},
       {"qverify ./out ./base --min-sqnr 30", "is every tensor within 30 dB of the base?"},
       {"qexport w4.qmap -f compressed-tensors -o ./out | qverify --against ./base --report report.html",
        "check what was just written, with a page to look at"},
       {"qverify ./out --against ./base --min-sqnr 20 --report junit.xml --strict -q", "in CI"},
       {"qverify ./out ./base --eval wiki.test.raw --max-kl 0.05 --max-ppl-increase 2 --report new.json",
        "perplexity and KL divergence, with bounds"},
       {"qverify ./out ./base --eval wiki.test.raw --baseline old.json --tolerance 1", "is it worse than it was?"},
       {"qverify ./out --generate 'The capital of France is' --temperature 0.7 --seed 1", "let it write"}}};
  qp::VerifyCommand command;
  return qp::run_tool(
      info, argc, argv, [&](CLI::App& app) { command.declare(app); },
      [&](qp::Tool& tool) { return command.run(tool); });
}
