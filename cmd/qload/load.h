// The work of qload.
#pragma once

#include <string>
#include <vector>

#include "cmd/tool/output_options.h"
#include "cmd/tool/run_tool.h"

namespace qp {

class Store;
struct Model;
struct Tensor;

class LoadCommand {
 public:
  void declare(CLI::App& app);
  int run(Tool& tool);

 private:
  void select(std::vector<Tensor>& tensors, Model& model) const;
  void list(Store& store, Tool& tool) const;
  void list_inputs(Tool& tool) const;
  void save(Store& store, Tool& tool) const;
  void hash(const Store& store, std::vector<Tensor>& tensors, Tool& tool) const;

  std::string input_, dtype_, modelopt_state_;
  std::vector<std::string> include_, exclude_;
  bool dequantize_ = false, pack_ = false, hash_ = false, zstd_ = false, list_ = false, recipe_ = false;
  bool list_inputs_ = false, no_check_ = false;
  OutputArguments output_;
};

}  // namespace qp
