// What qverify does by running a checkpoint: perplexity, divergence from its base, multiple choice,
// generation.
#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cmd/tool/run_tool.h"
#include "lib/eval/measure.h"
#include "lib/qmap/store.h"
#include "lib/text/tokenizer.h"
#include "lib/verify/eval_bounds.h"

namespace qp {

class EvalCommand {
 public:
  void declare(CLI::App& app);
  // Errors: usage. `stdin_taken`: the checkpoint or its base comes from standard input.
  void check_arguments(bool has_base, bool stdin_taken) const;

  bool evaluates() const { return !texts_.empty() || !tokens_.empty() || !choices_.empty(); }
  bool generates() const { return !prompt_.empty(); }
  uint64_t seed() const { return seed_; }
  const EvalBounds& bounds() const { return bounds_; }
  EvalResult evaluate(const Store& store, const Store* base, Tool& tool);
  // What fails against --baseline, once evaluated.
  std::vector<Finding> check_baseline(const EvalResult& result) const;
  // Prints what the model writes.
  void generate(const Store& store, Tool& tool);

 private:
  gemm::Precision precision() const;
  CutOptions window_options(const RunnableModel& model, const Tokenizer* tokenizer) const;
  std::vector<int32_t> read_tokens(const Tokenizer* tokenizer, const Tokenizer* base) const;
  void evaluate_choices(RunnableModel& model, RunnableModel* base, const Tokenizer& tokenizer,
                        const MeasureOptions& options, Tool& tool, EvalResult& result) const;

  std::vector<std::string> texts_;
  std::optional<std::string> field_;
  std::string tokens_, kind_ = "hf", compute_ = "bf16", choices_, baseline_, prompt_;
  size_t seqlen_ = 0, stride_ = 0, windows_ = 0, max_new_tokens_ = 64;
  uint64_t seed_ = 0;
  double temperature_ = 0, top_p_ = 1, tolerance_ = 1;
  bool no_act_quant_ = false;
  EvalBounds bounds_;
};

}  // namespace qp
