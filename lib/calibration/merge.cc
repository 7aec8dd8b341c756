#include "lib/calibration/merge.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "lib/base/error.h"
#include "lib/calibration/collector.h"
#include "lib/qmap/copy.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/writer.h"

namespace qp {
namespace {

Error differs(const Store& store, const std::string& what) {
  return usage_error("cannot be merged with the first: " + what)
      .file(store.label())
      .hint("merge runs of one model with the same options over different text");
}

// The first, the middle and the last row are the same.
bool alike(const Store& a, const Part& p, const Store& b, const Part& q) {
  std::vector<std::byte> x, y;
  uint64_t rows = p.shape.rows();
  for (uint64_t row : {uint64_t{0}, rows / 2, rows - 1}) {
    if (rows == 0) break;
    const std::byte *s = a.rows(p, row, 1, x), *t = b.rows(q, row, 1, y);
    if (!std::equal(s, s + row_bytes(p), t)) return false;
  }
  return true;
}

// One model: the same tensors of the same size in the same places, and of the same bytes as far as
// hashes and a few rows of each tell.
void check_same(const Store& a, const Store& b) {
  const Model &m = a.model(), &n = b.model();
  if (m.tensors.size() != n.tensors.size()) throw differs(b, "it has another number of tensors");
  for (size_t i = 0; i < m.tensors.size(); ++i) {
    const Tensor &s = m.tensors[i], &t = n.tensors[i];
    bool same = s.name == t.name && s.shape == t.shape && s.parts.size() == t.parts.size();
    for (size_t k = 0; same && k < s.parts.size(); ++k) {
      const Extent &e = s.parts[k].extent, &f = t.parts[k].extent;
      same = e.length == f.length && (e.file == 0 || f.file == 0 || e.offset == f.offset);
      if (e.file == 0 && f.file == 0) same = same && e.xxh3 == f.xxh3;
      same = same && s.parts[k].dtype == t.parts[k].dtype &&
             s.parts[k].shape == t.parts[k].shape && alike(a, s.parts[k], b, t.parts[k]);
    }
    if (!same) throw differs(b, "tensor '" + printable(t.name) + "' is another");
  }
  const Calibration &c = *m.calibration, &d = *n.calibration;
  for (const char* key : {"compute", "observer", "moe_all_experts"}) {
    auto x = c.options.find(key), y = d.options.find(key);
    if ((x == c.options.end()) != (y == d.options.end()) ||
        (x != c.options.end() && *x != *y)) {
      throw differs(b, "its '" + std::string(key) + "' is another");
    }
  }
  bool same = c.inputs.size() == d.inputs.size();
  for (size_t i = 0; same && i < c.inputs.size(); ++i) {
    same = c.inputs[i].module == d.inputs[i].module && c.inputs[i].cols == d.inputs[i].cols;
  }
  if (!same) throw differs(b, "its statistics are of other modules");
}

void add(InputSums& to, const InputSums& from) {
  to.rows += from.rows;
  for (size_t j = 0; j < to.amax.size(); ++j) {
    to.sum_abs[j] += from.sum_abs[j];
    to.sum_sq[j] += from.sum_sq[j];
    to.amax[j] = std::max(to.amax[j], from.amax[j]);
  }
  to.history.insert(to.history.end(), from.history.begin(), from.history.end());
  if (to.bins.empty()) to.bins = from.bins;
  else if (!from.bins.empty()) {
    for (size_t b = 0; b < to.bins.size(); ++b) to.bins[b] += from.bins[b];
  }
}

std::vector<std::byte> merged_tokens(const std::vector<const Store*>& stores) {
  std::vector<std::byte> lengths, ids;
  for (const Store* s : stores) {
    const Calibration& c = *s->model().calibration;
    s->verify(c.tokens, "token windows");
    std::span<const std::byte> bytes = s->stored(c.tokens);
    auto middle = bytes.begin() + static_cast<std::ptrdiff_t>(4 * c.windows);
    lengths.insert(lengths.end(), bytes.begin(), middle);
    ids.insert(ids.end(), middle, bytes.end());
  }
  lengths.insert(lengths.end(), ids.begin(), ids.end());
  return lengths;
}

void merge_routers(Calibration& to, const Calibration& from, const Store& store) {
  bool same = to.routers.size() == from.routers.size() && to.caches.size() == from.caches.size();
  for (size_t i = 0; same && i < to.routers.size(); ++i) {
    RouterStatistics& r = to.routers[i];
    same = r.module == from.routers[i].module && r.counts.size() == from.routers[i].counts.size();
    if (!same) break;
    r.rows += from.routers[i].rows;
    for (size_t e = 0; e < r.counts.size(); ++e) r.counts[e] += from.routers[i].counts[e];
  }
  if (!same) throw differs(store, "its statistics are of other modules");
  for (size_t i = 0; i < to.caches.size(); ++i) {
    to.caches[i].k_amax = std::max(to.caches[i].k_amax, from.caches[i].k_amax);
    to.caches[i].v_amax = std::max(to.caches[i].v_amax, from.caches[i].v_amax);
  }
}

}  // namespace

Hash128 merge_calibrations(const std::vector<const Store*>& stores, const Json& provenance,
                           QmapOutput& output) {
  for (const Store* s : stores) {
    if (!s->model().calibration) {
      throw usage_error("holds no statistics").file(s->label()).hint("make them with qcalibrate");
    }
    check_same(*stores.front(), *s);
  }
  const Store& first = *stores.front();
  QmapWriter writer(output.fd(), output.label());
  Model model = first.model();
  carry(first, model, writer);
  Calibration merged = *first.model().calibration;
  for (size_t k = 1; k < stores.size(); ++k) {
    const Calibration& c = *stores[k]->model().calibration;
    merged.windows += c.windows;
    merged.token_count += c.token_count;
    merge_routers(merged, c, *stores[k]);
  }
  Observer observer = observer_from_json(merged.options.value("observer", Json::object()));
  merged.tokens = writer.append(merged_tokens(stores));
  for (size_t i = 0; i < merged.inputs.size(); ++i) {
    InputSums sums;
    for (const Store* s : stores) {
      const Calibration& c = *s->model().calibration;
      s->verify(c.inputs[i].extent, "statistics of '" + c.inputs[i].module + "'");
      InputSums one = unpack(c.inputs[i], s->stored(c.inputs[i].extent), c.windows);
      if (s == &first) sums = std::move(one);
      else add(sums, one);
    }
    std::vector<std::byte> bytes = pack(sums, merged.inputs[i]);
    merged.inputs[i].observed = observe(sums, observer);
    merged.inputs[i].extent = writer.append(bytes);
  }
  model.provenance.push_back(provenance);
  model.calibration = std::make_shared<const Calibration>(std::move(merged));
  for (const Store* s : stores) s->throw_if_changed();
  return writer.finish(model, output.base(), output.unnamed(), output.sync());
}

}  // namespace qp
