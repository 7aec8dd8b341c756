#include "lib/transform/scale_journal.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "lib/base/error.h"
#include "lib/kernels/kernels.h"
#include "lib/qmap/identity.h"

namespace qp::transform {
namespace {

// Floats as numbers that read back exactly.
Json exact(const std::vector<float>& factors) {
  Json out = Json::array();
  for (float f : factors) out.push_back(static_cast<double>(f));
  return out;
}

std::string name_of_run(const Subject& subject, const Windows& windows) {
  Hasher128 h;
  std::string text = to_json(subject.plan, identity(subject.store.model())).dump();
  h.update(std::as_bytes(std::span(text)));
  h.update(std::as_bytes(std::span(windows.ids)));
  return h.digest().hex() + " " + QP_VERSION + " " + kernels::active_isa() + " " +
         gemm::backend(subject.options.precision);
}

}  // namespace

// Lines: the run, then an object per layer. A line counts only whole.
ScaleJournal::ScaleJournal(const Subject& subject, const Windows& windows) {
  if (subject.options.journal.empty()) return;
  path_ = path(subject.options.journal);
  std::string run = name_of_run(subject, windows), line;
  std::ifstream in(subject.options.resume ? path_ : "");
  std::vector<std::string> kept = {run};
  if (std::getline(in, line) && line == run) {
    while (std::getline(in, line) && !in.eof()) {
      Json j = Json::parse(line, nullptr, false);
      try {
        layers_[j.at("layer").get<size_t>()] = j.at("factors").get<Factors>();
      } catch (const nlohmann::json::exception&) {
        break;  // damaged: what follows is searched again
      }
      kept.push_back(line);
    }
  }
  std::ofstream out(path_, std::ios::trunc);
  for (const std::string& l : kept) out << l << '\n';
  out.close();
  if (!out) throw system_error("cannot write", errno).file(path_);
}

std::optional<ScaleJournal::Factors> ScaleJournal::find(size_t layer,
                                                        const std::vector<Fold>& folds) const {
  auto it = layers_.find(layer);
  if (it == layers_.end() || it->second.size() != folds.size()) return std::nullopt;
  for (size_t i = 0; i < folds.size(); ++i) {
    const std::vector<float>& f = it->second[i];
    bool size = f.empty() || f.size() == folds[i].channels;
    if (!size || !std::ranges::all_of(f, [](float x) { return x > 0 && std::isfinite(x); }))
      return std::nullopt;
  }
  return it->second;
}

void ScaleJournal::add(size_t layer, const Factors& factors) {
  if (path_.empty()) return;
  Json all = Json::array();
  for (const auto& f : factors) all.push_back(exact(f));
  std::ofstream out(path_, std::ios::app);
  out << Json{{"layer", layer}, {"factors", all}}.dump() << '\n';
  out.close();
  if (!out) throw system_error("cannot write", errno).file(path_);
}

JournalScope::~JournalScope() {
  if (!partial_.empty() && access(partial_.c_str(), F_OK) != 0)
    unlink(ScaleJournal::path(partial_).c_str());
}

}  // namespace qp::transform
