// The work of qcalibrate.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "cmd/tool/input.h"
#include "cmd/tool/output_options.h"
#include "cmd/tool/run_tool.h"
#include "cmd/tool/text_options.h"
#include "lib/calibration/calibrate.h"

namespace qp {

class CalibrateCommand {
 public:
  void declare(CLI::App& app);
  int run(Tool& tool);

 private:
  void check_arguments() const;
  int merge(Tool& tool);
  int import(Tool& tool);
  void save_imatrix(const Store& store) const;
  int calibrate_model(Tool& tool);
  void list(const Store& store, Tool& tool) const;
  void summary(const CalibrateResult& result, const Windows& windows, Tool& tool) const;

  const std::string& input() const;  // "" for standard input

  std::vector<std::string> inputs_, imatrices_;
  std::string save_imatrix_;
  TextArguments text_;
  std::string observer_ = "max", observer_dtype_ = "int8", compute_ = "bf16";
  double percentile_ = 99.99;
  int history_ = 1024, margin_ = 0;
  size_t batch_size_ = 0;
  bool all_experts_ = false, resume_ = false, list_ = false, merge_ = false, no_check_ = false;
  OutputArguments output_;
};

}  // namespace qp
