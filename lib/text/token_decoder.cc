#include "lib/text/token_decoder.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/text/normalizer.h"
#include "lib/text/token_model.h"
#include "lib/text/utf8.h"

namespace qp {
namespace {
constexpr std::string_view kReplacement = "\xef\xbf\xbd";

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  if (from.empty()) return;
  std::string out;
  size_t copied = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, copied)) {
    out.append(text, copied, at - copied);
    out += to;
    copied = at + from.size();
  }
  if (copied == 0) return;
  out.append(text, copied);
  text = std::move(out);
}

// English word pieces back together, as BERT's tokenizer does.
void clean_up(std::string& text) {
  constexpr std::pair<std::string_view, std::string_view> kRules[] = {
      {" .", "."},      {" ?", "?"},   {" !", "!"},         {" ,", ","},
      {" ' ", "'"},     {" n't", "n't"}, {" 'm", "'m"},     {" do not", " don't"},
      {" 's", "'s"},    {" 've", "'ve"}, {" 're", "'re"}};
  for (const auto& [from, to] : kRules) replace_all(text, from, to);
}

int hex_byte(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return -1;
  int value = 0;
  for (char c : {token[3], token[4]}) {
    int digit = c >= '0' && c <= '9'   ? c - '0'
                : c >= 'A' && c <= 'F' ? c - 'A' + 10
                : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                       : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

void byte_fallback(std::vector<std::string>& tokens) {
  std::vector<std::string> out;
  std::string bytes;
  auto flush = [&] {
    if (bytes.empty()) return;
    if (is_utf8(bytes)) {
      out.push_back(bytes);
    } else {
      for (size_t i = 0; i < bytes.size(); ++i) out.emplace_back(kReplacement);
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    int b = hex_byte(token);
    if (b >= 0) {
      bytes += static_cast<char>(static_cast<unsigned char>(b));
      continue;
    }
    flush();
    out.push_back(std::move(token));
  }
  flush();
  tokens = std::move(out);
}

void strip(std::string& token, std::string_view c, size_t start, size_t stop) {
  size_t begin = 0, end = token.size();
  for (size_t i = 0; i < start && token.compare(begin, c.size(), c) == 0; ++i) begin += c.size();
  for (size_t i = 0; i < stop && end >= begin + c.size() &&
                     token.compare(end - c.size(), c.size(), c) == 0; ++i) {
    end -= c.size();
  }
  token = token.substr(begin, end - begin);
}
}  // namespace

TokenDecoder::TokenDecoder(const Json& json) {
  if (json.is_null()) return;
  joined_ = true;
  add(json);
}

void TokenDecoder::add(const Json& json) {
  std::string type = component_type(json, "a decoder");
  Step step{};
  auto count = [&](const char* key) {
    return static_cast<size_t>(std::clamp<int64_t>(json_int(json, key, 0), 0, INT32_MAX));
  };
  if (type == "Sequence") {
    auto it = json.find("decoders");
    if (it == json.end() || !it->is_array()) throw input_error("Sequence has no decoders");
    for (const Json& part : *it) add(part);
    return;
  }
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
  } else if (type == "ByteFallback") {
    step.kind = Kind::byte_fallback;
  } else if (type == "Fuse") {
    step.kind = Kind::fuse;
  } else if (type == "Metaspace") {
    step.kind = Kind::metaspace;
    step.content = json_string(json, "replacement", "\xe2\x96\x81");
    step.flag = json_string(json, "prepend_scheme", "always") != "never" &&
                json_bool(json, "add_prefix_space", true);
  } else if (type == "Strip") {
    step.kind = Kind::strip;
    step.content = json_string(json, "content", " ");
    step.start = count("start");
    step.stop = count("stop");
    if (step.content.empty()) throw input_error("decoder Strip has no content");
  } else if (type == "Replace") {
    step.kind = Kind::replace;
    step.pattern = std::make_shared<SplitPattern>(json_pattern(json, "decoder Replace"));
    step.content = json_string(json, "content", "");
  } else if (type == "WordPiece") {
    step.kind = Kind::word_piece;
    step.content = json_string(json, "prefix", "##");
    step.flag = json_bool(json, "cleanup", true);
  } else if (type == "BPEDecoder") {
    step.kind = Kind::bpe;
    step.content = json_string(json, "suffix", "</w>");
  } else if (type == "CTC") {
    step.kind = Kind::ctc;
    step.content = json_string(json, "pad_token", "<pad>");
    step.delimiter = json_string(json, "word_delimiter_token", "|");
    step.flag = json_bool(json, "cleanup", true);
  } else {
    refuse_component("decoder", type);
  }
  steps_.push_back(std::move(step));
}

void TokenDecoder::apply(const Step& step, std::vector<std::string>& tokens) {
  switch (step.kind) {
    case Kind::byte_level: {
      std::string bytes;
      for (const std::string& token : tokens) bytes += byte_level_bytes(token).value_or(token);
      tokens = {is_utf8(bytes) ? bytes : replace_invalid_utf8(bytes)};
      break;
    }
    case Kind::metaspace:
      for (size_t i = 0; i < tokens.size(); ++i) {
        replace_all(tokens[i], step.content, i == 0 && step.flag ? "" : " ");
      }
      break;
    case Kind::byte_fallback: byte_fallback(tokens); break;
    case Kind::fuse: {
      std::string all;
      for (const std::string& token : tokens) all += token;
      tokens = {std::move(all)};
      break;
    }
    case Kind::strip:
      for (std::string& token : tokens) strip(token, step.content, step.start, step.stop);
      break;
    case Kind::replace: {
      MatchScratch scratch;
      for (std::string& token : tokens) {
        std::string out;
        size_t copied = 0;
        step.pattern->each(token, has_recent(token), scratch, [&](size_t begin, size_t end) {
          out.append(token, copied, begin - copied);
          out += step.content;
          copied = end;
        });
        out.append(token, copied);
        token = std::move(out);
      }
      break;
    }
    case Kind::word_piece:
      for (size_t i = 0; i < tokens.size(); ++i) {
        if (i > 0) {
          tokens[i] = tokens[i].starts_with(step.content) ? tokens[i].substr(step.content.size())
                                                          : " " + tokens[i];
        }
        if (step.flag) clean_up(tokens[i]);
      }
      break;
    case Kind::bpe:
      for (size_t i = 0; i < tokens.size(); ++i) {
        replace_all(tokens[i], step.content, i + 1 == tokens.size() ? "" : " ");
      }
      break;
    case Kind::ctc: {
      tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
      for (std::string& token : tokens) {
        replace_all(token, step.content, "");
        if (step.flag) {
          clean_up(token);
          replace_all(token, step.delimiter, " ");
        }
      }
      std::erase(tokens, "");
      break;
    }
  }
}

std::string TokenDecoder::decode(std::vector<std::string> tokens) const {
  for (const Step& step : steps_) apply(step, tokens);
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (i > 0 && !joined_) text += ' ';
    text += tokens[i];
  }
  return text;
}

}  // namespace qp
