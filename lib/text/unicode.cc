#include "lib/text/unicode.h"

#include <unicode/ubrk.h>
#include <unicode/uchar.h>
#include <unicode/unorm2.h>
#include <unicode/utext.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "lib/base/error.h"
#include "lib/text/utf8.h"

namespace qp {
namespace {
struct RecentRange {
  char32_t first, last;
  std::string_view category;
};
constexpr RecentRange kRecent[] = {
#include "lib/text/recent_characters.inc"
};

const RecentRange* find_recent(char32_t c) {
  if (c < kRecent[0].first) return nullptr;
  const auto* it = std::upper_bound(std::begin(kRecent), std::end(kRecent), c,
                                    [](char32_t x, const RecentRange& r) { return x < r.first; });
  --it;
  return c <= it->last ? it : nullptr;
}

UChar32 code(char32_t c) { return static_cast<UChar32>(c); }

// General category as a mask, from the table above where ICU may be too old.
uint32_t category(char32_t c) {
  if (c >= 0x870) {
    if (const RecentRange* r = find_recent(c)) {
      if (r->category[0] == 'N') return U_GC_N_MASK;
      if (r->category[0] == 'L') return U_GC_L_MASK;
      if (r->category[0] == 'M') return U_GC_MN_MASK;
      return r->category[0] == 'P' ? U_GC_PO_MASK : U_GC_S_MASK;
    }
  }
  return U_GET_GC_MASK(code(c));
}

bool is_as_old_as(char32_t c, uint8_t version) {
  UVersionInfo age = {};
  u_charAge(code(c), age);
  return age[0] != 0 && age[0] <= version;
}
// The version behind is_punctuation() and its like, and behind normal forms.
constexpr uint8_t kCategoryVersion = 8, kNormalVersion = 9;
}  // namespace

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 9 && c <= 13);
  return c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
         c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

bool is_word(char32_t c) {
  if (c < 0x80) return (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '_';
  constexpr uint32_t kMask = U_GC_L_MASK | U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK | U_GC_NL_MASK;
  return (category(c) & kMask) != 0 || c == 0x200c || c == 0x200d ||
         u_hasBinaryProperty(code(c), UCHAR_ALPHABETIC);
}

bool is_number(char32_t c) {
  if (c < 0x80) return c >= '0' && c <= '9';
  return (category(c) & U_GC_N_MASK) != 0;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) return c > 0x20 && c < 0x7f && !is_word(c) ? true : c == '_';
  if (c == 0x166d || c == 0x111c9) return true;  // was, until Unicode 12 and 11
  return (U_GET_GC_MASK(code(c)) & U_GC_P_MASK) != 0 && is_as_old_as(c, kCategoryVersion);
}

bool is_nonspacing_mark(char32_t c) {
  if (c < 0x300) return false;
  if (c == 0x1734 || c == 0x1171e) return true;      // was, until Unicode 14 and 16
  if (c == 0x1885 || c == 0x1886) return false;      // is, since Unicode 9
  return u_charType(code(c)) == U_NON_SPACING_MARK && is_as_old_as(c, kCategoryVersion);
}

bool is_mark(char32_t c) {
  if (c < 0x300) return false;
  if (c == 0x1cf2 || c == 0x1cf3) return true;  // was, until Unicode 12
  return (U_GET_GC_MASK(code(c)) & U_GC_M_MASK) != 0 && is_as_old_as(c, kNormalVersion);
}

bool is_other(char32_t c) {
  if (c < 0x80) return c < 0x20 || c == 0x7f;
  constexpr uint32_t kMask = U_GC_CC_MASK | U_GC_CF_MASK | U_GC_CO_MASK;
  return (U_GET_GC_MASK(code(c)) & kMask) != 0 && is_as_old_as(c, kCategoryVersion);
}

void append_lower(std::string& out, char32_t c) {
  if (c == 0x130) {  // the one character whose full mapping is two characters
    out += "i\xcc\x87";
    return;
  }
  auto lower = static_cast<char32_t>(u_tolower(code(c)));
  if (lower == c && c >= 0x1c89) {  // what ICU may not know yet
    if (c >= 0x10d50 && c <= 0x10d65) lower = c + 0x20;
    if (c >= 0x16ea0 && c <= 0x16eb8) lower = c + 0x1b;
    constexpr std::pair<char32_t, char32_t> kRecentPairs[] = {
        {0x1c89, 0x1c8a}, {0xa7cb, 0x264}, {0xa7cc, 0xa7cd}, {0xa7ce, 0xa7cf},
        {0xa7d2, 0xa7d3}, {0xa7d4, 0xa7d5}, {0xa7da, 0xa7db}, {0xa7dc, 0x19b}};
    for (const auto& [upper, pair] : kRecentPairs) {
      if (c == upper) lower = pair;
    }
  }
  append_utf8(out, lower);
}

namespace {
struct Forms {
  const UNormalizer2* nfc;
  const UNormalizer2* nfkc;
};
Forms forms() {
  static const Forms kForms = [] {
    UErrorCode status = U_ZERO_ERROR;
    Forms f{unorm2_getNFCInstance(&status), unorm2_getNFKCInstance(&status)};
    if (U_FAILURE(status)) throw defect_error("the Unicode library has no normalization data");
    return f;
  }();
  return kForms;
}

struct Unit {
  char32_t c;
  uint8_t ccc;  // canonical combining class
};

void decompose(char32_t c, const UNormalizer2* tables, std::vector<Unit>& out) {
  auto put = [&](char32_t d) {
    out.push_back({d, d < 0x300 ? uint8_t{0} : unorm2_getCombiningClass(tables, code(d))});
  };
  if (c < 0xa0) {
    out.push_back({c, 0});
    return;
  }
  if (!is_as_old_as(c, kNormalVersion)) {
    out.push_back({c, 0});
    return;
  }
  std::array<UChar, 64> buffer;  // the longest is 18
  UErrorCode status = U_ZERO_ERROR;
  int32_t n = unorm2_getDecomposition(tables, code(c), buffer.data(),
                                      static_cast<int32_t>(buffer.size()), &status);
  if (n < 0 || U_FAILURE(status)) {
    put(c);
    return;
  }
  for (int32_t i = 0; i < n; ++i) {
    char32_t d = buffer[static_cast<size_t>(i)];
    if (d >= 0xd800 && d < 0xdc00) {  // the first half of a pair
      d = 0x10000 + ((d - 0xd800) << 10) + (buffer[static_cast<size_t>(++i)] - 0xdc00u);
    }
    put(d);
  }
}

// Marks between starters in the order of their classes (stable).
void order(std::vector<Unit>& units) {
  for (auto it = units.begin(); it != units.end();) {
    if (it->ccc == 0) {
      ++it;
      continue;
    }
    auto end = std::find_if(it, units.end(), [](const Unit& u) { return u.ccc == 0; });
    std::stable_sort(it, end, [](const Unit& a, const Unit& b) { return a.ccc < b.ccc; });
    it = end;
  }
}

// Canonical composition, in place (Unicode Standard 3.11, D117).
void compose(std::vector<Unit>& units) {
  const UNormalizer2* nfc = forms().nfc;
  size_t out = 0;
  std::optional<size_t> starter;
  int last = 0;  // class of the last mark kept behind the starter; -1: nothing between
  for (const Unit& unit : units) {
    if (starter && (last < unit.ccc || last == -1)) {
      UChar32 joined = unorm2_composePair(nfc, code(units[*starter].c), code(unit.c));
      if (joined >= 0 && is_as_old_as(static_cast<char32_t>(joined), kNormalVersion)) {
        units[*starter].c = static_cast<char32_t>(joined);
        continue;
      }
    }
    if (unit.ccc == 0) {
      starter = out;
      last = -1;
    } else {
      last = unit.ccc;
    }
    units[out++] = unit;
  }
  units.resize(out);
}
}  // namespace

std::string normalize(std::string_view text, NormalForm form) {
  bool composed = form == NormalForm::nfc || form == NormalForm::nfkc;
  bool compatible = form == NormalForm::nfkc || form == NormalForm::nfkd;
  const UNormalizer2* tables = compatible ? forms().nfkc : forms().nfc;
  // Characters below `plain` neither change nor join what is before them.
  const char32_t plain = form == NormalForm::nfc ? 0x300 : 0xa0;
  std::string out;
  out.reserve(text.size());
  std::vector<Unit> units;
  const char* p = text.data();
  const char* end = p + text.size();
  const char* copied = p;  // everything before is in `out`
  const char* last = p;    // start of the character before `p`
  while (p != end) {
    const char* start = p;
    char32_t c = next_utf8(p);
    if (c < plain) {
      last = start;
      continue;
    }
    if (last < copied) last = start;
    out.append(copied, last);
    units.clear();
    for (p = last; p != end;) {
      const char* before = p;
      c = next_utf8(p);
      if (c < plain && before > start) {
        p = before;
        break;
      }
      decompose(c, tables, units);
    }
    order(units);
    if (composed) compose(units);
    for (const Unit& unit : units) append_utf8(out, unit.c);
    copied = last = p;
  }
  out.append(copied, end);
  return out;
}

std::vector<size_t> grapheme_ends(std::string_view text) {
  UErrorCode status = U_ZERO_ERROR;
  std::vector<size_t> ends;
  if (text.empty()) return ends;
  std::unique_ptr<UBreakIterator, decltype(&ubrk_close)> breaks(
      ubrk_open(UBRK_CHARACTER, "", nullptr, 0, &status), &ubrk_close);
  UText* view = utext_openUTF8(nullptr, text.data(), static_cast<int64_t>(text.size()), &status);
  if (U_SUCCESS(status)) ubrk_setUText(breaks.get(), view, &status);
  if (U_FAILURE(status)) {
    utext_close(view);
    throw defect_error("the Unicode library has no grapheme data");
  }
  ubrk_first(breaks.get());
  for (int32_t at = ubrk_next(breaks.get()); at != UBRK_DONE; at = ubrk_next(breaks.get())) {
    ends.push_back(static_cast<size_t>(at));
  }
  utext_close(view);
  return ends;
}

bool is_recent(char32_t c) { return find_recent(c) != nullptr; }

std::string recent_members(std::string_view wanted) {
  std::string out;
  auto hex = [](char32_t c) {
    char buffer[16];
    std::snprintf(buffer, sizeof buffer, "\\x{%x}", static_cast<unsigned>(c));
    return std::string(buffer);
  };
  for (const RecentRange& r : kRecent) {
    bool han = (r.first >= 0x2ffc && r.first <= 0x2fff) || r.first >= 0x2ebf0;
    bool in = wanted == "Han" ? han && r.category == "Lo" && r.first < 0x40000
                              : r.category.starts_with(wanted);
    if (in) out += hex(r.first) + "-" + hex(r.last);
  }
  return out;
}

}  // namespace qp
