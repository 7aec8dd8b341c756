// The work of qverify.
#pragma once

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cmd/qverify/eval.h"
#include "cmd/qverify/target.h"
#include "cmd/tool/input.h"
#include "cmd/tool/run_tool.h"
#include "lib/config/recipe.h"
#include "lib/verify/report.h"

namespace qp {

class VerifyCommand {
 public:
  void declare(CLI::App& app);
  int run(Tool& tool);

 private:
  void check_arguments();
  std::optional<OpenedInput> open_checkpoint(const ResolvedInput& input, Tool& tool);
  void check_sums(const ResolvedInput& input, Tool& tool);
  void write_sums(const ResolvedInput& input, Tool& tool);
  void check_rules(bool loaded, bool directory, bool stored, bool gguf);
  void check_tensors(const Store& store, const Store* base, Tool& tool);
  struct Result {
    std::vector<Finding> findings;
    TensorReport row;
    double weight = 1;  // elements that each one compared stands for
  };
  Result check_tensor(const Store& store, const Tensor& tensor, const Store* base, const Tensor* other);
  void compare(const Store& store, const Tensor& tensor, const Store& base, const Tensor& other, Result& result) const;
  static void take_experts_apart(const Model& model, OpenedInput& base);
  void pad_like(const Model& model, OpenedInput& base);
  void check_names(const Model& model, const Model& base);
  void check_tied_head(const Store& store);
  int check_target_alone(const ResolvedInput& input, Tool& tool);
  void evaluate(const Store& store, const Store* base, Tool& tool);
  bool is_sampled(const Tensor& tensor, const Part& part) const;
  bool ignored(const Tensor& tensor, const Model& model) const;
  void count_codes(const Scheme& scheme, const std::vector<uint64_t>& codes);
  void add(Severity severity, const char* rule, std::string tensor, std::string what, std::string hint = "");
  void print(Tool& tool) const;

  std::string checkpoint_, base_argument_, against_;
  std::vector<std::string> ignore_, reports_;
  Thresholds thresholds_;
  EvalCommand eval_;
  TargetCommand target_;
  size_t top_ = 10;
  bool no_check_ = false;
  std::string sample_, manifest_, manifest_file_;
  Sampling sampling_;

  std::vector<Match> ignored_;
  std::mutex mutex_;
  std::map<std::string, size_t> histogram_of_;  // scheme label -> index
  VerifyReport report_;
};

// "int4 group 128", "float8 channel": what a scheme stores, for people.
std::string scheme_label(const Scheme& scheme);

}  // namespace qp
