// tokenizer.model: a protocol buffer of which only the list of pieces matters.
#include <bit>
#include <cmath>
#include <cstring>

#include "formats/gguf/vocabulary.h"

namespace qp {
namespace {

enum Wire : uint64_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// Fields of one message. Every read is checked against the end; `ok` turns false and stays so.
struct Fields {
  std::string_view rest;
  bool ok = true;

  uint64_t varint() {
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (rest.empty()) break;
      auto byte = static_cast<uint8_t>(rest.front());
      rest.remove_prefix(1);
      value |= uint64_t{byte & 0x7fu} << shift;
      if (byte < 0x80) return value;
    }
    ok = false;
    return 0;
  }
  std::string_view bytes(uint64_t n) {
    if (n > rest.size()) {
      ok = false;
      return {};
    }
    std::string_view out = rest.substr(0, n);
    rest.remove_prefix(n);
    return out;
  }
  std::string_view skip(uint64_t wire) {
    switch (wire) {
      case kVarint: varint(); return {};
      case kFixed64: return bytes(8);
      case kBytes: return bytes(varint());
      case kFixed32: return bytes(4);
      default: ok = false; return {};
    }
  }
};

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

bool read_piece(std::string_view message, SentencePiece& piece) {
  Fields f{message};
  while (f.ok && !f.rest.empty()) {
    uint64_t tag = f.varint(), wire = tag & 7;
    if (tag >> 3 == 3 && wire == kVarint) {
      uint64_t type = f.varint();
      bool marked = type == 2 || type == 3 || type == 5 || type == 6;
      piece.type = marked ? static_cast<TokenType>(type) : TokenType::normal;
      f.ok = f.ok && type >= 1 && type <= 6;
      continue;
    }
    std::string_view value = f.skip(wire);
    if (tag >> 3 == 1 && wire == kBytes) piece.text = value;
    if (tag >> 3 == 2 && wire == kFixed32 && value.size() == 4)
      std::memcpy(&piece.score, value.data(), 4);
  }
  return f.ok && std::isfinite(piece.score);
}

}  // namespace

std::optional<std::vector<SentencePiece>> read_sentencepiece(std::string_view file) {
  std::vector<SentencePiece> pieces;
  Fields f{file};
  while (f.ok && !f.rest.empty()) {
    uint64_t tag = f.varint();
    std::string_view value = f.skip(tag & 7);
    if (tag != (1 << 3 | kBytes)) continue;
    if (!f.ok || !read_piece(value, pieces.emplace_back())) return std::nullopt;
  }
  if (!f.ok || pieces.empty()) return std::nullopt;
  return pieces;
}

// Fields of ModelProto, TrainerSpec and NormalizerSpec: sentencepiece_model.proto.
std::string write_sentencepiece(const std::vector<SentencePiece>& pieces, bool prefix) {
  auto number = [](uint64_t field, uint64_t value) {
    std::string out;
    put_varint(out, field << 3 | kVarint);
    put_varint(out, value);
    return out;
  };
  auto bytes = [](uint64_t field, std::string_view value) {
    std::string out;
    put_varint(out, field << 3 | kBytes);
    put_varint(out, value.size());
    return out.append(value);
  };
  std::string out;
  bool fallback = false;
  for (const SentencePiece& p : pieces) {
    std::string piece = bytes(1, p.text);
    put_varint(piece, 2 << 3 | kFixed32);
    piece.append(reinterpret_cast<const char*>(&p.score), sizeof p.score);
    if (p.type != TokenType::normal) piece += number(3, static_cast<uint64_t>(p.type));
    out += bytes(1, piece);
    fallback = fallback || p.type == TokenType::byte;
  }
  constexpr uint64_t kBpe = 2;
  out += bytes(2, number(3, kBpe) + number(4, pieces.size()) + number(35, fallback));
  out += bytes(3, bytes(1, "identity") + number(3, prefix) + number(4, 0) + number(5, 1));
  return out;
}

}  // namespace qp
