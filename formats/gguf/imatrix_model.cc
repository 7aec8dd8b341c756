// Importance matrices beside a model's own statistics.
#include <algorithm>
#include <cmath>
#include <map>

#include "formats/gguf/imatrix.h"
#include "lib/base/error.h"
#include "lib/ggml/tensor_map.h"
#include "lib/qmap/latents.h"

namespace qp {
namespace {

using ggml::MappedTensor, ggml::Piece;

std::string module_of(const Tensor& t) {
  constexpr std::string_view kWeight = ".weight";
  std::string name = t.name;
  if (name.ends_with(kWeight)) name.resize(name.size() - kWeight.size());
  return name;
}

// What calibration calls the inputs of a GGUF tensor's matrices, one each.
std::vector<std::string> modules_of(const Model& model, const MappedTensor& t) {
  std::vector<std::string> modules;
  for (const Piece& p : t.pieces) modules.push_back(module_of(model.tensors[p.tensor]));
  bool stack = t.pieces.size() == 1 && t.shape.rank() == 3;
  if (!stack) return modules;
  std::string all = modules.front();
  if (t.pieces.front().op == ggml::Op::key_b) all += kLatentKeys;
  if (t.pieces.front().op == ggml::Op::value_b) all += kLatentValues;
  modules.clear();
  for (uint64_t e = 0; e < t.shape[0]; ++e) modules.push_back(all + "[" + std::to_string(e) + "]");
  return modules;
}

bool is_matrix(const MappedTensor& t) {
  return t.shape.rank() >= 2 && t.name.starts_with("blk.");
}

}  // namespace

Imatrix imatrix_of(const Store& store) {
  const auto& calibration = store.model().calibration;
  if (!calibration) {
    throw usage_error("holds no statistics").file(store.label()).hint("make them with qcalibrate --text");
  }
  std::map<std::string_view, const InputStatistics*> inputs;
  for (const InputStatistics& s : calibration->inputs) {
    for (const std::string& reader : s.readers) inputs[reader] = &s;
  }
  Imatrix m;
  for (const MappedTensor& t : ggml::map_tensors(store.model(), ggml::family_of(store.model())).tensors) {
    if (!is_matrix(t)) continue;
    ImatrixEntry e;
    e.name = t.name;
    for (const std::string& module : modules_of(store.model(), t)) {
      auto it = inputs.find(module);
      if (it == inputs.end()) break;
      store.verify(it->second->extent, "statistics of '" + module + "'");
      InputSums sums = unpack(*it->second, store.stored(it->second->extent), calibration->windows);
      for (Fixed x : sums.sum_sq) e.sums.push_back(static_cast<float>(from_fixed(x)));
      e.counts.push_back(static_cast<float>(sums.rows));
    }
    bool reached = std::ranges::any_of(e.counts, [](float n) { return n > 0; });
    if (reached) m.entries.push_back(std::move(e));
  }
  std::ranges::sort(m.entries, {}, &ImatrixEntry::name);
  if (auto imported = calibration->options.find("imatrix"); imported != calibration->options.end()) {
    m.datasets = imported->value("datasets", m.datasets);
    m.chunk_count = imported->value("chunk_count", m.chunk_count);
    m.chunk_size = imported->value("chunk_size", m.chunk_size);
    return m;
  }
  m.chunk_count = static_cast<uint32_t>(calibration->windows);
  m.chunk_size = static_cast<uint32_t>(calibration->token_count / std::max<uint64_t>(1, calibration->windows));
  return m;
}

std::vector<InputSums> statistics_of(const Imatrix& m, const Store& store, std::vector<std::string>& unknown) {
  std::map<std::string, MappedTensor> tensors;
  for (MappedTensor& t : ggml::map_tensors(store.model(), ggml::family_of(store.model())).tensors) {
    std::string name = t.name;
    tensors.emplace(std::move(name), std::move(t));
  }
  std::vector<InputSums> inputs;
  std::map<std::string, size_t> seen;  // gate and up of a stack are one input
  for (const ImatrixEntry& e : m.entries) {
    auto it = tensors.find(e.name);
    if (it == tensors.end() || !is_matrix(it->second)) {
      unknown.push_back(e.name);
      continue;
    }
    std::vector<std::string> modules = modules_of(store.model(), it->second);
    uint64_t cols = it->second.shape.cols();
    bool one_count = e.counts.size() == 1;  // the older form has one for all experts
    if (e.sums.size() != modules.size() * cols || (!one_count && e.counts.size() != modules.size())) {
      throw input_error("its importance has " + std::to_string(e.sums.size()) + " columns of " +
                        std::to_string(e.counts.size()) + " matrices (expected " + std::to_string(cols) +
                        " of " + std::to_string(modules.size()) + ")")
          .file(store.label())
          .tensor(e.name);
    }
    for (size_t i = 0; i < modules.size(); ++i) {
      if (!seen.emplace(modules[i], inputs.size()).second) continue;
      InputSums s;
      s.module = modules[i];
      s.readers = {modules[i]};
      s.rows = static_cast<uint64_t>(std::llround(e.counts[one_count ? 0 : i]));
      s.sum_abs.resize(cols);
      s.amax.resize(cols);
      for (uint64_t c = 0; c < cols; ++c) {
        auto sum = static_cast<double>(e.sums[i * cols + c]);
        if (sum > kFixedLimit) throw input_error("holds a sum that is too large").tensor(e.name);
        s.sum_sq.push_back(to_fixed(sum));
      }
      inputs.push_back(std::move(s));
    }
  }
  return inputs;
}

}  // namespace qp
