#include "lib/text/pre_tokenizer.h"

#include <algorithm>
#include <array>

#include "lib/base/error.h"
#include "lib/text/token_model.h"
#include "lib/text/unicode.h"
#include "lib/text/utf8.h"

namespace qp {
namespace {
// What ByteLevel splits at unless told otherwise.
constexpr std::string_view kByteLevelRegex =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// A piece passes them one inside the other.
constexpr size_t kMaxSteps = 64;

char32_t json_char(const Json& json, const char* key, std::string_view fallback) {
  std::string text = json_string(json, key, fallback);
  if (text.empty() || !is_utf8(text) || utf8_length(text[0]) != text.size()) {
    throw input_error("'" + std::string(key) + "' is not one character");
  }
  return char_at(text, 0);
}
}  // namespace

PreTokenizer::PreTokenizer(const Json& json) {
  if (!json.is_null()) add(json);
}

void PreTokenizer::add(const Json& json) {
  std::string type = component_type(json, "a pre-tokenizer");
  if (steps_.size() >= kMaxSteps) throw input_error("more than 64 pre-tokenizers in sequence");
  auto behavior = [&](std::string_view fallback) {
    constexpr std::pair<std::string_view, Behavior> kBehaviors[] = {
        {"Removed", Behavior::removed},
        {"Isolated", Behavior::isolated},
        {"MergedWithPrevious", Behavior::merged_with_previous},
        {"MergedWithNext", Behavior::merged_with_next},
        {"Contiguous", Behavior::contiguous}};
    std::string name = json_string(json, "behavior", fallback);
    for (const auto& [known, value] : kBehaviors) {
      if (known == name) return value;
    }
    throw input_error("pre-tokenizer " + type + " has no behavior '" + printable(name) + "'");
  };
  auto add_class = [&](bool (*is_match)(char32_t), Behavior how) {
    Step step{Kind::char_class};
    step.is_match = is_match;
    step.behavior = how;
    steps_.push_back(std::move(step));
  };
  if (type == "Sequence") {
    auto it = json.find("pretokenizers");
    if (it == json.end() || !it->is_array()) throw input_error("Sequence has no pretokenizers");
    for (const Json& part : *it) add(part);
  } else if (type == "ByteLevel") {
    add_byte_level(json);
  } else if (type == "Metaspace") {
    add_metaspace(json);
  } else if (type == "Split") {
    Step step{Kind::split};
    step.pattern = std::make_shared<SplitPattern>(json_pattern(json, "pre-tokenizer Split"));
    step.behavior = behavior("");
    step.invert = json_bool(json, "invert", false);
    steps_.push_back(std::move(step));
  } else if (type == "Digits") {
    bool each = json_bool(json, "individual_digits", false);
    add_class(is_number, each ? Behavior::isolated : Behavior::contiguous);
  } else if (type == "Punctuation") {
    add_class(is_punctuation, behavior("Isolated"));
  } else if (type == "WhitespaceSplit") {
    add_class(is_white_space, Behavior::removed);
  } else if (type == "BertPreTokenizer") {
    add_class(is_white_space, Behavior::removed);
    add_class(is_punctuation, Behavior::isolated);
  } else if (type == "Whitespace") {
    // Words and runs of other characters: cut where the kind changes, drop white space.
    add_class(is_white_space, Behavior::removed);
    add_class(is_word, Behavior::contiguous);
  } else if (type == "CharDelimiterSplit" || type == "Delimiter") {
    Step step{Kind::char_class};
    step.character = json_char(json, "delimiter", "");
    step.behavior = Behavior::removed;
    steps_.push_back(std::move(step));
  } else if (type == "FixedLength") {
    Step step{Kind::fixed_length};
    int64_t length = json_int(json, "length", 5);
    if (length < 1) throw input_error("pre-tokenizer FixedLength has length " +
                                      std::to_string(length));
    step.length = static_cast<size_t>(length);
    steps_.push_back(std::move(step));
  } else {
    refuse_component("pre-tokenizer", type);
  }
}

void PreTokenizer::add_byte_level(const Json& json) {
  Step step{Kind::byte_level};
  step.prefix_space = json_bool(json, "add_prefix_space", true);
  if (step.prefix_space) steps_.push_back(step);
  if (json_bool(json, "use_regex", true)) {
    static const auto kRegex =
        std::make_shared<const SplitPattern>(SplitPattern::regex(kByteLevelRegex));
    Step split{Kind::split};
    split.pattern = kRegex;
    steps_.push_back(std::move(split));
  }
  step.prefix_space = false;
  step.map = true;
  steps_.push_back(std::move(step));
}

void PreTokenizer::add_metaspace(const Json& json) {
  Step step{Kind::metaspace};
  step.character = json_char(json, "replacement", "\xe2\x96\x81");
  std::string scheme = json_string(json, "prepend_scheme", "always");
  bool prefix = json_bool(json, "add_prefix_space", true);
  if (scheme == "first") {
    step.scheme = Scheme::first;
  } else if (scheme == "never") {
    step.scheme = Scheme::never;
  } else if (scheme != "always") {
    throw input_error("pre-tokenizer Metaspace has no prepend_scheme '" + printable(scheme) + "'");
  }
  if (!prefix) {
    if (json.contains("prepend_scheme") && step.scheme != Scheme::never) {
      throw input_error("pre-tokenizer Metaspace contradicts itself (add_prefix_space is false, "
                        "prepend_scheme '" + scheme + "')");
    }
    step.scheme = Scheme::never;
  }
  step.cut = json_bool(json, "split", true);
  steps_.push_back(std::move(step));
}

bool PreTokenizer::ends_in_bytes() const {
  if (steps_.empty() || !steps_.back().map) return false;
  // An earlier mapping would be undone with it.
  return std::none_of(steps_.begin(), steps_.end() - 1, [](const Step& s) { return s.map; });
}
void PreTokenizer::leave_bytes() { steps_.pop_back(); }

// Takes the stretches of a text in order, matches and gaps, and passes on the pieces that a
// behaviour makes of them.
class PreTokenizer::Cutter {
 public:
  Cutter(const PreTokenizer& owner, size_t index, const Piece& piece, const Run& run)
      : owner_(owner), index_(index), piece_(piece), run_(run),
        behavior_(owner.steps_[index].behavior), invert_(owner.steps_[index].invert) {}

  // A match; the gap before it is seen by itself.
  void match(size_t begin, size_t end) {
    if (begin != done_) stretch(done_, begin, invert_);
    stretch(begin, end, !invert_);
    done_ = end;
  }
  void finish() {
    if (done_ != piece_.text.size()) stretch(done_, piece_.text.size(), invert_);
    flush();
  }

 private:
  void stretch(size_t begin, size_t end, bool is_match) {
    switch (behavior_) {
      case Behavior::isolated: pass(begin, end); return;
      case Behavior::removed:
        if (!is_match) pass(begin, end);
        return;
      case Behavior::contiguous:
        if (waiting_ && is_match == last_was_match_) {
          wait_end_ = end;
        } else {
          wait(begin, end);
        }
        break;
      case Behavior::merged_with_previous:
        if (waiting_ && is_match && !last_was_match_) {
          wait_end_ = end;
        } else {
          wait(begin, end);
        }
        break;
      case Behavior::merged_with_next:
        if (waiting_ && last_was_match_ && !is_match) {
          wait_end_ = end;
        } else {
          wait(begin, end);
        }
        break;
    }
    last_was_match_ = is_match;
  }
  void wait(size_t begin, size_t end) {
    flush();
    waiting_ = true;
    wait_begin_ = begin;
    wait_end_ = end;
  }
  void flush() {
    if (waiting_) pass(wait_begin_, wait_end_);
    waiting_ = false;
  }
  void pass(size_t begin, size_t end) {
    if (begin == end) return;
    owner_.step(index_ + 1,
                {piece_.text.substr(begin, end - begin), piece_.at_start && begin == 0}, run_);
  }

  const PreTokenizer& owner_;
  size_t index_;
  const Piece& piece_;
  const Run& run_;
  Behavior behavior_;
  bool invert_;
  size_t done_ = 0, wait_begin_ = 0, wait_end_ = 0;
  bool waiting_ = false, last_was_match_ = false;
};

void PreTokenizer::split(size_t index, const Piece& piece, const Run& run) const {
  const Step& s = steps_[index];
  Cutter cutter(*this, index, piece, run);
  size_t from = 0, last_end = std::string_view::npos;
  SplitPattern::Match m{};
  while (from <= piece.text.size() &&
         s.pattern->next(piece.text, from, run.recent, run.scratch, m)) {
    if (m.begin == m.end && m.begin == last_end) {  // an empty match right behind a match
      if (from >= piece.text.size()) break;
      from += utf8_length(piece.text[from]);
      continue;
    }
    cutter.match(m.begin, m.end);
    from = last_end = m.end;
  }
  cutter.finish();
}

void PreTokenizer::metaspace(size_t index, const Piece& piece, const Run& run) const {
  const Step& s = steps_[index];
  std::string mark = to_utf8(s.character);
  std::string text;
  text.reserve(piece.text.size() + piece.text.size() / 2 + mark.size());
  bool prefix = s.scheme == Scheme::always || (s.scheme == Scheme::first && piece.at_start);
  if (prefix && !piece.text.starts_with(mark) && !piece.text.starts_with(' ')) text = mark;
  for (char c : piece.text) {
    if (c == ' ') {
      text += mark;
    } else {
      text += c;
    }
  }
  Piece marked{text, piece.at_start};
  if (!s.cut) {
    step(index + 1, marked, run);
    return;
  }
  // Each mark begins a piece.
  for (size_t begin = 0; begin < text.size();) {
    size_t skip = marked.text.substr(begin).starts_with(mark) ? mark.size() : 0;
    size_t end = std::min(text.find(mark, begin + skip), text.size());
    step(index + 1, {marked.text.substr(begin, end - begin), piece.at_start && begin == 0}, run);
    begin = end;
  }
}

void PreTokenizer::step(size_t index, const Piece& piece, const Run& run) const {
  if (piece.text.empty()) return;
  if (index == steps_.size()) {
    run.emit(piece.text);
    return;
  }
  const Step& s = steps_[index];
  switch (s.kind) {
    case Kind::split: split(index, piece, run); return;
    case Kind::metaspace: metaspace(index, piece, run); return;
    case Kind::char_class: {
      Cutter cutter(*this, index, piece, run);
      const char* begin = piece.text.data();
      for (const char *p = begin, *end = p + piece.text.size(); p != end;) {
        const char* start = p;
        char32_t c = next_utf8(p);
        if (s.is_match != nullptr ? s.is_match(c) : c == s.character) {
          cutter.match(static_cast<size_t>(start - begin), static_cast<size_t>(p - begin));
        }
      }
      cutter.finish();
      return;
    }
    case Kind::byte_level: {
      std::string text;
      if (s.map) {
        text.reserve(piece.text.size() * 2);
        static const auto kChars = [] {
          std::array<std::string, 256> table;
          for (size_t b = 0; b < 256; ++b) {
            table[b] = to_utf8(byte_level_char(static_cast<unsigned char>(b)));
          }
          return table;
        }();
        for (char c : piece.text) text += kChars[static_cast<unsigned char>(c)];
      } else {
        if (piece.text.starts_with(' ')) {
          step(index + 1, piece, run);
          return;
        }
        text = " ";
        text += piece.text;
      }
      step(index + 1, {text, piece.at_start}, run);
      return;
    }
    case Kind::fixed_length:
      for (size_t begin = 0; begin < piece.text.size();) {
        size_t end = begin;
        for (size_t n = 0; n < s.length && end < piece.text.size(); ++n) {
          end += utf8_length(piece.text[end]);
        }
        step(index + 1, {piece.text.substr(begin, end - begin), piece.at_start && begin == 0}, run);
        begin = end;
      }
      return;
  }
}

}  // namespace qp
