#include "lib/text/windows.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/text/window_chooser.h"

namespace qp {

WindowChooser::WindowChooser(const WindowOptions& options)
    : options_(options), random_(options.seed.value_or(0)) {
  if (options.seqlen == 0) throw usage_error("a window of 0 tokens (expected 1 or more)");
}

bool WindowChooser::full() const {
  return options_.count > 0 && !options_.seed && chosen_.size() >= options_.count;
}

// Algorithm R (Vitter 1985): each window so far is in the reservoir with equal probability.
void WindowChooser::add(std::span<const int32_t> window) {
  uint64_t index = seen_++;
  if (options_.count == 0 || chosen_.size() < options_.count) {
    chosen_.push_back({index, {window.begin(), window.end()}});
    return;
  }
  if (!options_.seed) return;
  uint64_t slot = random_.below(seen_);
  if (slot < options_.count) chosen_[slot] = {index, {window.begin(), window.end()}};
}

void WindowChooser::stream(std::span<const int32_t> ids) {
  tokens_ += ids.size();
  rest_.insert(rest_.end(), ids.begin(), ids.end());
  size_t done = 0;
  for (; rest_.size() - done >= options_.seqlen && !full(); done += options_.seqlen) {
    add(std::span(rest_).subspan(done, options_.seqlen));
  }
  rest_.erase(rest_.begin(), rest_.begin() + static_cast<ptrdiff_t>(done));
}

void WindowChooser::row(std::span<const int32_t> ids) {
  tokens_ += ids.size();
  if (!ids.empty()) add(ids.first(std::min<size_t>(ids.size(), options_.seqlen)));
}

Windows WindowChooser::finish() {
  if (tokens_ == 0) throw input_error("there is no text: not one token");
  if (chosen_.empty()) {
    throw input_error("there is less text than one window (expected " +
                      std::to_string(options_.seqlen) + " tokens, found " +
                      std::to_string(tokens_) + ")")
        .hint("give more text or a smaller seqlen");
  }
  std::sort(chosen_.begin(), chosen_.end(),
            [](const Chosen& a, const Chosen& b) { return a.index < b.index; });
  Windows out;
  out.available = seen_;
  for (const Chosen& c : chosen_) {
    out.ids.insert(out.ids.end(), c.ids.begin(), c.ids.end());
    out.offsets.push_back(out.ids.size());
  }
  return out;
}

Windows text_windows(Documents& documents, const Tokenizer& tokenizer,
                     const WindowOptions& options) {
  WindowChooser chooser(options);
  Document document;
  std::vector<int32_t> ids;
  bool in_long = false;  // a part that is not the first of its document
  while (!chooser.full() && documents.next(document)) {
    if (document.begins && document.ends) {
      in_long = false;
      if (document.text.empty()) continue;
      ids = tokenizer.encode(document.text, true);
    } else {
      ids.clear();
      if (document.begins) ids.assign(tokenizer.prefix().begin(), tokenizer.prefix().end());
      tokenizer.encode(document.text, false, ids);
      if (document.ends) {
        ids.insert(ids.end(), tokenizer.suffix().begin(), tokenizer.suffix().end());
      }
      in_long = !document.begins;
    }
    if (options.packed) {
      chooser.stream(ids);
    } else if (!in_long) {
      chooser.row(ids);  // the first part of a long document is more than a window
    }
  }
  return chooser.finish();
}

}  // namespace qp
