// qverify: proves that a checkpoint is sound and close to its base. Manual: qverify(1).
#include "cmd/qverify/verify.h"
#include "cmd/tool/run_tool.h"

int main(int argc, char** argv) {
  const qp::ToolInfo info = {
      "qverify",
      "prove that a checkpoint is sound, close to the one it was made from, and what an engine will load",
      "Checks a checkpoint in any format: index against shards, tensors against config.json and its "
      "quantization_config, every stored number (NaN, infinity, zero scales, codes), companion files and "
      "checksums; a GGUF's metadata, vocabulary and tensors as llama.cpp's loader wants them. With a base it also compares every tensor's values with those of the base: mean squared "
      "error, SQNR, cosine, largest difference, worst first. Tensors are matched by equal names; HF names "
      "for GGUF files of families that qload knows. Errors fail the checkpoint (exit 1), and so do "
      "warnings with --strict; notes never do. Without an argument, or with '-', it reads what qexport or "
      "another program hands over in a pipe. "
      "--sample 5% is for checkpoints that are too big to be read whole: of every matrix, runs of rows drawn at random "
      "(--seed) are read, the same on any number of threads and in the base; headers, scales and zero points are read "
      "whole; a tensor whose sample shows a fault is read whole, too. Checksums of sampled parts are not compared. The "
      "verdict is then of the sample, and says so. "
      "--manifest write ends a run that found no error with SHA-256 sums of all files of the checkpoint, hidden ones aside "
      "(sha256sum -c reads them); --manifest check compares files with them: changed, missing and extra ones are errors. "
      "With --eval it runs the model, layer by layer within --max-memory: perplexity over whole windows of a text, by "
      "Hugging Face's definition (a token counts in the first window that has it, with what stands before it there) or "
      "llama.cpp's (BOS first, second half of each window), and with a base KL divergence, the share of tokens with the "
      "same first choice, and how far hidden states drift. Errors (+-) are standard errors over tokens. Activations are "
      "quantized as the scheme says, weight-only types aside. --choices scores multiple choice as lm-eval does: acc by "
      "log-likelihood, acc_norm by log-likelihood per byte of the choice. "
      "With --target it tells what an engine does with the checkpoint, from headers and configs alone (other checks run with a base or "
      "--eval): a verdict per tensor, the error the engine prints, the command to serve it, bytes per rank. Rules were read from the "
      "engines' sources; what no source says is a note. A GGUF is held against llama.cpp's loader.",
      {{"qverify ./out", "is it sound on its own?"},
       {"qverify ./out ./base --min-sqnr 30", "is every tensor within 30 dB of the base?"},
       {"qexport w4.qmap -f compressed-tensors -o ./out | qverify --against ./base --report report.html",
        "check what was just written, with a page to look at"},
       {"qverify ./out --against ./base --min-sqnr 20 --report junit.xml --strict -q", "in CI"},
       {"qverify ./out ./base --sample 5% --seed 1", "a look at a checkpoint of hundreds of gigabytes"},
       {"qverify ./out --manifest write && cp -r ./out ./copy && qverify ./copy --manifest check", "did the copy arrive whole?"},
       {"qverify ./out ./base --eval wiki.test.raw --max-kl 0.05 --max-ppl-increase 2 --report new.json",
        "perplexity and KL divergence, with bounds"},
       {"qverify ./out ./base --eval wiki.test.raw --baseline old.json --tolerance 1", "is it worse than it was?"},
       {"qverify ./out --target vllm --tp 4 --hw sm90", "will vLLM load it, and use all of it?"},
       {"qverify ./out --generate 'The capital of France is' --temperature 0.7 --seed 1", "let it write"}}};
  qp::VerifyCommand command;
  return qp::run_tool(
      info, argc, argv, [&](CLI::App& app) { command.declare(app); },
      [&](qp::Tool& tool) { return command.run(tool); });
}
