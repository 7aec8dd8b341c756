#define PCRE2_CODE_UNIT_WIDTH 8
#include "lib/text/onig_syntax.h"

#include <pcre2.h>

#include <array>
#include <cstring>
#include <optional>
#include <vector>

#include "lib/base/error.h"
#include "lib/text/unicode.h"
#include "lib/text/utf8.h"

namespace qp {
namespace {
// Insides of a [class].
constexpr std::string_view kSpace =
    "\\x09-\\x0d\\x20\\x85\\xa0\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}"
    "\\x{3000}";
constexpr std::string_view kNotSpace =
    "\\x00-\\x08\\x0e-\\x1f\\x21-\\x84\\x86-\\x9f\\xa1-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";
constexpr std::string_view kHex = "0-9A-Fa-f";
constexpr int kMaxNesting = 32;

// Names that PCRE2 lacks or reads otherwise, in the spelling find_property() compares.
struct Property {
  std::string_view name, body, recent;  // `recent`: a prefix of categories, or ""
};
constexpr Property kProperties[] = {
    {"letter", "\\p{L}", "L"},
    {"uppercaseletter", "\\p{Lu}", "Lu"},
    {"lowercaseletter", "\\p{Ll}", "Ll"},
    {"titlecaseletter", "\\p{Lt}", "Lt"},
    {"modifierletter", "\\p{Lm}", "Lm"},
    {"otherletter", "\\p{Lo}", "Lo"},
    {"mark", "\\p{M}", "M"},
    {"nonspacingmark", "\\p{Mn}", "Mn"},
    {"number", "\\p{N}", "N"},
    {"decimalnumber", "\\p{Nd}", "Nd"},
    {"punctuation", "\\p{P}", "P"},
    {"symbol", "\\p{S}", "S"},
    {"separator", "\\p{Z}", ""},
    {"other", "\\p{C}", ""},
    {"han", "\\p{sc:Han}", "Han"},
    {"alpha", "\\p{Alphabetic}", "L"},
    {"alphabetic", "\\p{Alphabetic}", "L"},
    {"digit", "\\p{Nd}", "Nd"},
    {"upper", "\\p{Uppercase}", "Lu"},
    {"lower", "\\p{Lowercase}", "Ll"},
    {"space", kSpace, ""},
    {"whitespace", kSpace, ""},
    {"xdigit", kHex, ""},
    {"punct", "\\p{P}", "P"},
    {"cntrl", "\\p{Cc}", ""},
    {"blank", "\\x09\\p{Zs}", ""},
    {"any", "\\x{0}-\\x{10ffff}", ""},
    {"ascii", "\\x00-\\x7f", ""},
};

// One [class]: the union of `body` and `parts`, cut with each of `also`.
struct CharClass {
  bool negated = false;
  std::string body;
  std::vector<CharClass> parts, also;
  bool simple() const { return parts.empty() && also.empty(); }
};

class Translator {
 public:
  Translator(std::string_view pattern, bool recent) : in_(pattern), recent_(recent) {}

  std::string run() {
    while (at_ < in_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& what) const {
    throw input_error("regular expression '" + printable(in_) + "' has " + what +
                      ", which is not supported");
  }
  char peek(size_t ahead = 0) const {
    return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0';
  }
  bool starts(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  void put_class(const CharClass& c) {
    atom_ = out_.size();
    out_ += class_text(c);
  }

  void step();
  void escape();
  void group();
  void interval();
  CharClass read_class(int depth);
  void class_escape(CharClass& c);
  // The class behind \s, \S, \w .. \p{..}; nothing for other escapes. Moves on when it is one.
  std::optional<CharClass> shorthand();
  CharClass property();
  CharClass named(std::string_view given, bool negated) const;
  static void add_set(CharClass& to, CharClass set) {
    if (set.negated) {
      to.parts.push_back(std::move(set));
    } else {
      to.body += set.body;
    }
  }
  std::string with_recent(std::string_view body, std::string_view categories) const {
    return std::string(body) + (recent_ && !categories.empty() ? recent_members(categories) : "");
  }
  std::string word_body() const {
    std::string body = with_recent("\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}", "L") +
                       "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}"
                       "\\x{1f170}-\\x{1f189}";
    return recent_ ? body + recent_members("M") + recent_members("Nd") : body;
  }
  static std::string class_text(const CharClass& c);
  static std::vector<bool> members(const CharClass& c);

  std::string_view in_;
  bool recent_;
  size_t at_ = 0;
  std::string out_;
  size_t atom_ = 0;  // where the last atom begins in out_
  std::vector<size_t> groups_;
};

void Translator::step() {
  char c = peek();
  switch (c) {
    case '\\': escape(); return;
    case '[':
      ++at_;
      put_class(read_class(0));
      return;
    case '(': group(); return;
    case ')':
      if (!groups_.empty()) {
        atom_ = groups_.back();
        groups_.pop_back();
      }
      break;
    case '{': interval(); return;
    case '*':
    case '+':
    case '?':
    case '|': break;
    default:
      atom_ = out_.size();
      out_ += in_.substr(at_, utf8_length(c));
      at_ += utf8_length(c);
      return;
  }
  out_ += c;
  ++at_;
}

std::optional<CharClass> Translator::shorthand() {
  CharClass c;
  switch (peek(1)) {
    case 's': c.body = kSpace; break;
    case 'S': c.body = kNotSpace; break;
    case 'W': c.negated = true; [[fallthrough]];
    case 'w': c.body = word_body(); break;
    case 'D': c.negated = true; [[fallthrough]];
    case 'd': c.body = with_recent("\\p{Nd}", "Nd"); break;
    case 'H': c.negated = true; [[fallthrough]];
    case 'h': c.body = kHex; break;
    case 'p':
    case 'P': return property();
    default: return std::nullopt;
  }
  at_ += 2;
  return c;
}

CharClass Translator::property() {
  bool negated = peek(1) == 'P';
  size_t close = in_.find('}', at_);
  if (peek(2) != '{' || close == std::string_view::npos) refuse("\\p without {NAME}");
  std::string_view given = in_.substr(at_ + 3, close - at_ - 3);
  at_ = close + 1;
  if (given.starts_with('^')) {
    negated = !negated;
    given.remove_prefix(1);
  }
  return named(given, negated);
}

CharClass Translator::named(std::string_view given, bool negated) const {
  std::string name;
  for (char x : given) {
    if (x == ' ' || x == '_' || x == '-') continue;
    name += static_cast<char>(x >= 'A' && x <= 'Z' ? x + 32 : x);
    if ((static_cast<unsigned char>(x) & 0x80) != 0 || x == '\\') refuse("a property's name");
  }
  CharClass c;
  c.negated = negated;
  if (name == "alnum") {
    c.body = with_recent("\\p{Alphabetic}\\p{Nd}", "L");
    return c;
  }
  if (name == "word") {
    c.body = word_body();
    return c;
  }
  for (const Property& p : kProperties) {
    if (p.name == name) {
      c.body = with_recent(p.body, p.recent);
      return c;
    }
  }
  // A general category by its letters, or a script or binary property that PCRE2 knows.
  bool is_category = name.size() <= 2 && !name.empty() && std::strchr("lnmpsz", name[0]) != nullptr;
  if (is_category) {
    std::string letters = name;
    letters[0] = static_cast<char>(letters[0] - 32);
    c.body = with_recent("\\p{" + letters + "}", letters);
  } else {
    c.body = "\\p{" + std::string(given) + "}";
  }
  return c;
}

void Translator::escape() {
  if (std::optional<CharClass> c = shorthand()) {
    put_class(*c);
    return;
  }
  atom_ = out_.size();
  char c = peek(1);
  if (c == '\0') refuse("a backslash at its end");
  if (c == 'u') {
    for (size_t i = 2; i < 6; ++i) {
      if (std::strchr("0123456789abcdefABCDEF", peek(i)) == nullptr || peek(i) == '\0') {
        refuse("\\u without four digits");
      }
    }
    out_ += "\\x{" + std::string(in_.substr(at_ + 2, 4)) + "}";
    at_ += 6;
    return;
  }
  if (c == 'v') {
    out_ += "\\x0b";
    at_ += 2;
    return;
  }
  bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  if (letter && std::strchr("AbBzZGRXKntrfaexk", c) == nullptr) {
    refuse("the escape \\" + std::string(1, c));
  }
  size_t length = utf8_length(c);
  if (length == 1) out_ += '\\';  // PCRE2 wants no backslash before other characters
  out_ += in_.substr(at_ + 1, length);
  at_ += 1 + length;
}

void Translator::group() {
  groups_.push_back(out_.size());
  if (peek(1) != '?') {
    out_ += '(';
    ++at_;
    return;
  }
  for (std::string_view known : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!", "(?<"}) {
    if (starts(known)) {
      out_ += known;
      at_ += known.size();
      return;
    }
  }
  if (starts("(?#")) {
    size_t close = in_.find(')', at_);
    if (close == std::string_view::npos) refuse("a comment without end");
    at_ = close + 1;
    groups_.pop_back();
    return;
  }
  out_ += "(?";
  for (at_ += 2; peek() != ')' && peek() != ':'; ++at_) {
    switch (peek()) {
      case 'i':
      case '-': out_ += peek(); break;
      case 'm': out_ += 's'; break;  // Oniguruma's m lets the dot match a newline
      default: refuse("the option or group (?" + std::string(in_.substr(at_, 1)));
    }
  }
  if (peek() == ')') groups_.pop_back();
  out_ += peek();
  ++at_;
}

// {n}, {n,}, {,n}, {n,m}: as in PCRE2, but {,n} counts from 0, a + behind repeats and a ? behind
// {n} makes it optional.
void Translator::interval() {
  size_t i = at_ + 1;
  auto digits = [&] {
    size_t from = i;
    while (i < in_.size() && in_[i] >= '0' && in_[i] <= '9') ++i;
    return std::string(in_.substr(from, i - from));
  };
  std::string low = digits(), high;
  bool comma = i < in_.size() && in_[i] == ',';
  if (comma) {
    ++i;
    high = digits();
  }
  if (i >= in_.size() || in_[i] != '}' || (low.empty() && high.empty())) {
    atom_ = out_.size();
    out_ += "\\{";
    ++at_;
    return;
  }
  at_ = i + 1;
  if (low.empty()) low = "0";
  out_ += "{" + low + (comma ? "," + high : "") + "}";
  bool again = peek() == '+', optional = peek() == '?' && !comma;
  if (again || optional) {
    out_.insert(atom_, "(?:");
    out_ += ")";
    out_ += peek();
    ++at_;
  }
}

void Translator::class_escape(CharClass& c) {
  char e = peek(1);
  bool is_set = e != '\0' && std::strchr("sSwWdDhHpP", e) != nullptr;
  if (is_set) {
    add_set(c, *shorthand());
    return;
  }
  std::string before = std::move(out_);
  out_.clear();
  if (e == 'b') {
    out_ = "\\x08";
    at_ += 2;
  } else {
    if (e != '\0' && std::strchr("ABzZGRXKk", e) != nullptr) refuse("such an escape in [ ]");
    bool braced = e == 'x' && peek(2) == '{';
    escape();
    if (braced) {
      size_t close = in_.find('}', at_);
      if (close == std::string_view::npos) refuse("\\x{ without end");
      out_ += in_.substr(at_, close + 1 - at_);
      at_ = close + 1;
    }
  }
  c.body += out_;
  out_ = std::move(before);
}

CharClass Translator::read_class(int depth) {
  if (depth > kMaxNesting) refuse("deeply nested [ ]");
  CharClass c;
  if (peek() == '^') {
    c.negated = true;
    ++at_;
  }
  bool first = true;
  while (true) {
    if (at_ >= in_.size()) refuse("[ without ]");
    char x = peek();
    if (x == ']' && !first) break;
    first = false;
    if (starts("[:")) {
      size_t close = in_.find(":]", at_);
      if (close == std::string_view::npos) refuse("[: without :]");
      std::string_view name = in_.substr(at_ + 2, close - at_ - 2);
      bool negated = name.starts_with('^');
      if (negated) name.remove_prefix(1);
      if (name == "punct") add_set(c, named("S", negated));  // symbols too, unlike \p{Punct}
      add_set(c, named(name, negated));
      at_ = close + 2;
    } else if (x == '[') {
      ++at_;
      c.parts.push_back(read_class(depth + 1));
    } else if (starts("&&")) {
      // All that was read so far is one side; what follows, up to the end, the other.
      at_ += 2;
      if (peek() == ']') refuse("&& without a right side");
      CharClass left;
      left.body = std::move(c.body);
      left.parts = std::move(c.parts);
      c.body.clear();
      c.parts.clear();
      c.also.push_back(std::move(left));
    } else if (x == '\\') {
      class_escape(c);
    } else {
      c.body += x == ']' ? "\\]" : std::string(in_.substr(at_, utf8_length(x)));
      at_ += utf8_length(x);
    }
  }
  ++at_;
  if (!c.also.empty()) {
    CharClass last;
    last.body = std::move(c.body);
    last.parts = std::move(c.parts);
    c.body.clear();
    c.parts.clear();
    c.also.push_back(std::move(last));
  }
  return c;
}

const std::string& every_character() {
  static const std::string kAll = [] {
    std::string text;
    for (char32_t c = 0; c < 0x110000; ++c) {
      if (c < 0xd800 || c >= 0xe000) append_utf8(text, c);
    }
    return text;
  }();
  return kAll;
}

// Which of all characters a class holds, by asking PCRE2 about the simple ones.
std::vector<bool> Translator::members(const CharClass& c) {
  constexpr size_t kAll = 0x110000;
  std::vector<bool> in(kAll, false);
  if (!c.body.empty()) {
    std::string pattern = "[" + c.body + "]++";
    int error = 0;
    PCRE2_SIZE at = 0;
    pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                     PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
    if (code == nullptr) throw input_error("regular expression has a class it cannot have");
    pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
    pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
    const std::string& all = every_character();
    auto* subject = reinterpret_cast<PCRE2_SPTR>(all.data());
    for (size_t from = 0; from < all.size();) {
      if (pcre2_match(code, subject, all.size(), from, PCRE2_NO_UTF_CHECK, data, nullptr) < 0) break;
      const PCRE2_SIZE* found = pcre2_get_ovector_pointer(data);
      for (const char *p = all.data() + found[0], *end = all.data() + found[1]; p != end;) {
        in[next_utf8(p)] = true;
      }
      from = found[1];
    }
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
  for (const CharClass& part : c.parts) {
    std::vector<bool> other = members(part);
    for (size_t i = 0; i < kAll; ++i) in[i] = in[i] || other[i];
  }
  for (size_t k = 0; k < c.also.size(); ++k) {
    std::vector<bool> other = members(c.also[k]);
    for (size_t i = 0; i < kAll; ++i) in[i] = k == 0 ? other[i] : in[i] && other[i];
  }
  if (c.negated) in.flip();
  return in;
}

std::string Translator::class_text(const CharClass& c) {
  if (c.simple()) return (c.negated ? "[^" : "[") + c.body + "]";
  // A union of plain classes is one class; all else is written out.
  bool plain = c.also.empty();
  for (const CharClass& part : c.parts) plain = plain && part.simple() && !part.negated;
  if (plain) {
    std::string text = (c.negated ? "[^" : "[") + c.body;
    for (const CharClass& part : c.parts) text += part.body;
    return text + "]";
  }
  std::vector<bool> in = members(c);
  std::string text = "[";
  char buffer[64];
  for (size_t i = 0; i < in.size(); ++i) {
    if (!in[i] || (i >= 0xd800 && i < 0xe000)) continue;
    size_t last = i;
    while (last + 1 < in.size() && in[last + 1] && last + 1 != 0xd800) ++last;
    std::snprintf(buffer, sizeof buffer, "\\x{%zx}-\\x{%zx}", i, last);
    text += buffer;
    i = last;
  }
  return text == "[" ? "(?!)" : text + "]";
}
}  // namespace

std::string from_oniguruma(std::string_view pattern, bool recent) {
  return Translator(pattern, recent).run();
}

}  // namespace qp
