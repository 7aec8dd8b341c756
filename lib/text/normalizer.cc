#include "lib/text/normalizer.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/text/token_model.h"
#include "lib/text/utf8.h"

namespace qp {

std::string component_type(const Json& component, std::string_view what) {
  if (!component.is_object() || !component.contains("type")) {
    throw input_error(std::string(what) + " is not an object with a type");
  }
  return json_string(component, "type", "");
}

void refuse_component(std::string_view what, std::string_view type) {
  throw input_error(std::string(what) + " '" + printable(type) + "' is not supported")
      .hint("tokenize elsewhere and give the ids");
}

SplitPattern json_pattern(const Json& component, std::string_view name) {
  auto it = component.find("pattern");
  if (it != component.end() && it->is_object() && it->size() == 1) {
    const std::string& kind = it->begin().key();
    const Json& value = *it->begin();
    if (value.is_string() && kind == "String") {
      return SplitPattern::literal(value.get_ref<const std::string&>());
    }
    if (value.is_string() && kind == "Regex") {
      return SplitPattern::regex(value.get_ref<const std::string&>());
    }
  }
  throw input_error(std::string(name) + " has no pattern (expected {\"String\": ..} or " +
                    "{\"Regex\": ..})");
}

bool has_recent(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    auto lead = static_cast<unsigned char>(text[at]);
    if (lead < 0xe0) {
      ++at;
      continue;
    }
    if (is_recent(char_at(text, at))) return true;
    at += utf8_length(text[at]);
  }
  return false;
}

Normalizer::Normalizer(const Json& json) {
  if (!json.is_null()) add(json);
}

void Normalizer::add(const Json& json) {
  std::string type = component_type(json, "a normalizer");
  Step step{};
  if (type == "Sequence") {
    auto it = json.find("normalizers");
    if (it == json.end() || !it->is_array()) throw input_error("Sequence has no normalizers");
    for (const Json& part : *it) add(part);
    return;
  }
  constexpr std::pair<std::string_view, Kind> kPlain[] = {
      {"NFC", Kind::nfc},   {"NFD", Kind::nfd},
      {"NFKC", Kind::nfkc}, {"NFKD", Kind::nfkd},
      {"Nmt", Kind::nmt},   {"Lowercase", Kind::lowercase},
      {"StripAccents", Kind::strip_accents}, {"ByteLevel", Kind::byte_level}};
  const auto* plain = std::find_if(std::begin(kPlain), std::end(kPlain),
                                   [&](const auto& p) { return p.first == type; });
  if (plain != std::end(kPlain)) {
    step.kind = plain->second;
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    step.left = json_bool(json, "strip_left", false);
    step.right = json_bool(json, "strip_right", false);
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    step.pattern = std::make_shared<SplitPattern>(json_pattern(json, "normalizer Replace"));
    step.content = json_string(json, "content", "");
  } else if (type == "Prepend") {
    step.kind = Kind::prepend;
    step.content = json_string(json, "prepend", "");
  } else if (type == "Precompiled") {
    step.kind = Kind::chars_map;
    step.map = std::make_shared<CharsMap>(json_string(json, "precompiled_charsmap", ""));
  } else if (type == "BertNormalizer" || type == "Bert") {
    step.kind = Kind::bert;
    step.clean = json_bool(json, "clean_text", false);
    step.chinese = json_bool(json, "handle_chinese_chars", false);
    step.lower = json_bool(json, "lowercase", false);
    step.accents = json_bool(json, "strip_accents", step.lower);
  } else {
    refuse_component("normalizer", type);
  }
  steps_.push_back(std::move(step));
}

namespace {
// Keeps the characters for which `keep` holds.
template <class Keep>
void filter(Normalizer::Result& result, Keep keep) {
  std::string out;
  out.reserve(result.text.size());
  bool first = true;
  for (const char *p = result.text.data(), *end = p + result.text.size(); p != end;) {
    const char* start = p;
    if (keep(next_utf8(p))) {
      out.append(start, p);
    } else if (first) {
      result.at_start = false;
    }
    first = false;
  }
  result.text = std::move(out);
}

// Writes each character through `put(out, c)`.
template <class Put>
void rewrite(std::string& text, Put put) {
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (const char *p = text.data(), *end = p + text.size(); p != end;) put(out, next_utf8(p));
  text = std::move(out);
}

bool is_chinese(char32_t c) {
  auto in = [&](char32_t first, char32_t last) { return c >= first && c <= last; };
  return in(0x4e00, 0x9fff) || in(0x3400, 0x4dbf) || in(0x20000, 0x2a6df) || in(0x2a700, 0x2b81f) ||
         in(0x2b920, 0x2ceaf) || in(0xf900, 0xfaff) || in(0x2f800, 0x2fa1f);
}

void strip(Normalizer::Result& result, bool left, bool right) {
  std::string& text = result.text;
  size_t begin = 0, end = text.size();
  while (left && begin < end && is_white_space(char_at(text, begin))) {
    begin += utf8_length(text[begin]);
  }
  while (right && end > begin && is_white_space(char_at(text, previous_char(text, end)))) {
    end = previous_char(text, end);
  }
  if (begin > 0) result.at_start = false;
  text = text.substr(begin, end - begin);
}

void replace(Normalizer::Result& result, const SplitPattern& pattern, std::string_view content,
             MatchScratch& scratch) {
  std::string out;
  size_t copied = 0;
  const std::string& text = result.text;
  bool changed = false;
  pattern.each(text, has_recent(text), scratch, [&](size_t begin, size_t end) {
    if (!changed) out.reserve(text.size() + text.size() / 4);
    changed = true;
    out.append(text, copied, begin - copied);
    out += content;
    copied = end;
    // The replacement stands where the last replaced character stood.
    if (begin == 0 && end > (content.empty() ? 0 : utf8_length(text[0]))) result.at_start = false;
  });
  if (!changed) return;
  out.append(text, copied);
  result.text = std::move(out);
}

// The rules of nmt_nfkc for control characters and spaces.
void nmt(Normalizer::Result& result) {
  filter(result, [](char32_t c) {
    return !((c >= 1 && c <= 8) || c == 0xb || (c >= 0xe && c <= 0x1f) || c == 0x7f || c == 0x8f ||
             c == 0x9f);
  });
  rewrite(result.text, [](std::string& out, char32_t c) {
    bool space = c == 9 || c == 0xa || c == 0xc || c == 0xd || c == 0x1680 ||
                 (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                 c == 0xfeff || c == 0xfffd;
    append_utf8(out, space ? U' ' : c);
  });
}
}  // namespace

void Normalizer::apply(const Step& step, Result& r, MatchScratch& scratch) {
  switch (step.kind) {
    case Kind::nfc: r.text = normalize(r.text, NormalForm::nfc); break;
    case Kind::nfd: r.text = normalize(r.text, NormalForm::nfd); break;
    case Kind::nfkc: r.text = normalize(r.text, NormalForm::nfkc); break;
    case Kind::nfkd: r.text = normalize(r.text, NormalForm::nfkd); break;
    case Kind::lowercase: rewrite(r.text, append_lower); break;
    case Kind::strip: strip(r, step.left, step.right); break;
    case Kind::strip_accents: filter(r, [](char32_t c) { return !is_mark(c); }); break;
    case Kind::replace: replace(r, *step.pattern, step.content, scratch); break;
    case Kind::prepend:
      if (!r.text.empty()) r.text.insert(0, step.content);
      break;
    case Kind::byte_level: {
      std::string out;
      for (char c : r.text) append_utf8(out, byte_level_char(static_cast<unsigned char>(c)));
      r.text = std::move(out);
      break;
    }
    case Kind::bert:
      if (step.clean) {
        filter(r, [](char32_t c) {
          bool kept_control = c == '\t' || c == '\n' || c == '\r';
          return c != 0 && c != 0xfffd && (kept_control || !is_other(c));
        });
        rewrite(r.text, [](std::string& out, char32_t c) {
          append_utf8(out, is_white_space(c) ? U' ' : c);
        });
      }
      if (step.chinese) {
        rewrite(r.text, [](std::string& out, char32_t c) {
          bool apart = is_chinese(c);
          if (apart) out += ' ';
          append_utf8(out, c);
          if (apart) out += ' ';
        });
      }
      if (step.accents) {
        r.text = normalize(r.text, NormalForm::nfd);
        filter(r, [](char32_t c) { return !is_nonspacing_mark(c); });
      }
      if (step.lower) rewrite(r.text, append_lower);
      break;
    case Kind::chars_map: r.text = step.map->apply(r.text); break;
    case Kind::nmt: nmt(r); break;
  }
}

void Normalizer::apply(Result& result, MatchScratch& scratch) const {
  for (const Step& step : steps_) apply(step, result, scratch);
}

namespace {
std::string from_base64(std::string_view text) {
  std::string out;
  uint32_t bits = 0;
  int n = 0;
  while (text.ends_with('=')) text.remove_suffix(1);
  for (char c : text) {
    uint32_t v;
    if (c >= 'A' && c <= 'Z') {
      v = static_cast<uint32_t>(c - 'A');
    } else if (c >= 'a' && c <= 'z') {
      v = static_cast<uint32_t>(c - 'a' + 26);
    } else if (c >= '0' && c <= '9') {
      v = static_cast<uint32_t>(c - '0' + 52);
    } else if (c == '+' || c == '/') {
      v = c == '+' ? 62 : 63;
    } else {
      throw input_error("precompiled_charsmap is not base64");
    }
    bits = bits << 6 | v;
    n += 6;
    if (n >= 8) {
      n -= 8;
      out += static_cast<char>(static_cast<unsigned char>(bits >> n & 0xff));
    }
  }
  return out;
}
}  // namespace

CharsMap::CharsMap(std::string_view base64) {
  std::string bytes = from_base64(base64);
  auto word = [&](size_t at) {
    uint32_t v = 0;
    for (size_t i = 0; i < 4; ++i) {
      v |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[at + i])) << 8 * i;
    }
    return v;
  };
  size_t length = bytes.size() < 4 ? 0 : word(0);
  if (bytes.size() < 8 || length == 0 || length % 4 != 0 || length > bytes.size() - 4) {
    throw input_error("precompiled_charsmap is damaged (its trie has " + std::to_string(length) +
                      " of " + std::to_string(bytes.size()) + " bytes)");
  }
  for (size_t at = 4; at < 4 + length; at += 4) units_.push_back(word(at));
  replacements_ = bytes.substr(4 + length);
  if (!is_utf8(replacements_)) throw input_error("precompiled_charsmap is damaged (not UTF-8)");
}

// A unit of the double array (Darts-clone): label in bits 0 to 7 and 31, "has a value" in bit 8,
// distance to the children in bits 10 to 30, times 256 when bit 9 is set; a value has bit 31.
bool CharsMap::find(std::string_view text, std::string_view& replacement) const {
  auto distance = [](uint32_t unit) { return unit >> 10 << ((unit & 1u << 9) >> 6); };
  size_t node = distance(units_[0]);
  for (char c : text) {
    auto byte = static_cast<unsigned char>(c);
    if (byte == 0) break;
    node ^= byte;
    if (node >= units_.size()) return false;
    uint32_t unit = units_[node];
    if ((unit & (1u << 31 | 0xff)) != byte) return false;
    node ^= distance(unit);
    if ((unit & 1u << 8) == 0) continue;
    if (node >= units_.size()) return false;
    size_t at = units_[node] & ~(1u << 31);
    if (at >= replacements_.size()) return false;
    replacement = replacements_.c_str() + at;  // up to the NUL
    return true;
  }
  return false;
}

std::string CharsMap::apply(std::string_view text) const {
  std::string out;
  out.reserve(text.size());
  size_t start = 0;
  std::string_view replacement;
  for (size_t end : grapheme_ends(text)) {
    std::string_view cluster = text.substr(start, end - start);
    start = end;
    if (cluster.size() < 6 && find(cluster, replacement)) {
      out += replacement;
      continue;
    }
    for (size_t at = 0; at < cluster.size();) {
      std::string_view c = cluster.substr(at, utf8_length(cluster[at]));
      out += find(c, replacement) ? replacement : c;
      at += c.size();
    }
  }
  return out;
}

}  // namespace qp
