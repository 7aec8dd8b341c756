#include "formats/hf/self_check.h"

#include <algorithm>
#include <cstring>
#include <deque>

#include "lib/base/error.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/row_jobs.h"
#include "lib/qmap/stacks.h"
#include "lib/qmap/store.h"
#include "lib/verify/numbers.h"

namespace qp {
namespace {

constexpr uint64_t kChunk = 4 << 20;

[[noreturn]] void fail(const std::string& directory, const std::string& name, const std::string& what) {
  throw defect_error("self-check after writing: " + what)
      .file(directory)
      .tensor(name)
      .hint("nothing was kept; report this with the command line, or try --no-verify");
}

void compare(const RowSource& want, const RowSource& found, const std::string& directory,
             const std::string& name, std::string_view what) {
  if (want.rows() != found.rows() || want.cols() != found.cols()) {
    fail(directory, name, std::string(what) + " has another shape");
  }
  // Scales may be stored in another dtype that holds them: then the numbers count.
  bool cast = want.dtype() != found.dtype() && is_float(want.dtype()) && is_float(found.dtype());
  if (!cast && want.row_bytes() != found.row_bytes()) fail(directory, name, std::string(what) + " has another dtype");
  for_row_chunks(
      want, kChunk,
      [&](const RowChunk& c) {
        thread_local RowScratch mine;
        if (c.rows.empty()) return;
        const std::byte* other = found.get(c.first, c.count, mine);
        thread_local std::vector<std::byte> as_wanted;
        if (cast) {
          as_wanted.resize(c.rows.size());
          cast_floats(found.dtype(), other, c.count * found.cols(), want.dtype(), as_wanted.data());
          other = as_wanted.data();
        }
        if (std::memcmp(c.rows.data(), other, c.rows.size()) != 0) {
          fail(directory, name, std::string(what) + " differs from its source");
        }
      },
      nullptr);
  found.drop(0, found.rows());
}

// The same parts on both sides, so that each can be compared by itself.
bool same_form(const Tensor& a, const Tensor& b) {
  return a.parts.size() == b.parts.size() && std::ranges::all_of(a.parts, [&](const Part& p) {
           const Part* q = b.part(p.role);
           bool comparable = q != nullptr && (q->dtype == p.dtype || (is_float(q->dtype) && is_float(p.dtype)));
           return comparable && q->shape.elements() == p.shape.elements() && q->shape.rows() == p.shape.rows();
         });
}

}  // namespace

Part bytes_of(const Companion& c) {
  Part p;
  p.shape = Shape{c.extent.length, 1};
  p.extent = c.extent;
  return p;
}

void self_check(const Store& store, const ExportPlan& plan, const std::string& directory,
                Progress& progress) {
  LoadOptions options;
  options.unfinished = true;
  Store written(load_checkpoint(directory, options), nullptr, directory);
  auto found = written.model().index();
  uint64_t total = 0;
  for (const Tensor& t : store.model().tensors) total += t.stored_bytes();
  progress.begin("checking", total);
  std::deque<Tensor> seen;
  for (const Tensor& t : store.model().tensors) {
    progress.item(t.name);
    auto it = found.find(t.name);
    if (it == found.end()) fail(directory, t.name, "is missing");
    // Conv1D is written as the linear that it is, and read as [in, out] again.
    bool turn = it->second->transposed && !t.transposed;
    const Tensor& w = turn ? seen.emplace_back(turned(*it->second)) : *it->second;
    if (t.quantized()) {
      if (same_form(t, w)) {
        for (const Part& p : t.parts) {
          compare(RowSource(store, p), RowSource(written, *w.part(p.role)), directory, t.name, name_of(p.role));
        }
      } else {  // re-laid in another form: smaller groups, a second stage multiplied ..
        compare(RowSource(store, t), RowSource(written, w), directory, t.name, "its value");
      }
      for (const Finding& f : check_numbers(written, w)) {
        if (f.severity == Severity::error) fail(directory, t.name, f.what);
      }
    } else {
      compare(RowSource(store, t), RowSource(written, w), directory, t.name, "its data");
    }
    progress.add(t.stored_bytes());
  }
  if (found.size() != store.model().tensors.size()) {
    fail(directory, "", "holds " + std::to_string(found.size()) + " tensors (expected " +
                            std::to_string(store.model().tensors.size()) + ")");
  }
  for (const Companion* c : plan.companions) {
    const Companion* w = written.model().companion(c->name);
    if (w == nullptr) fail(directory, c->name, "the companion file is missing");
    Part want = bytes_of(*c), found_bytes = bytes_of(*w);
    compare(RowSource(store, want), RowSource(written, found_bytes), directory, c->name, "the companion file");
  }
  written.throw_if_changed();
  progress.end();
}

}  // namespace qp
