// Test helper, not installed.
// qp_tokenize TOKENIZER_JSON [CONFIG_JSON] < framed texts > framed results
//   A frame is a little-endian u32 length and that many bytes. Of a text: one byte of flags (1: add
//   special tokens, 2: skip them when decoding), then the text. The answer is two frames: the ids
//   as int32, and their decoded text. An error ends the program, as it does in ours.
// qp_tokenize --time N TOKENIZER_JSON < framed texts
//   Encodes each text N times and prints "BYTES SECONDS PEAK_KIB IDS" for each.
// qp_tokenize --from-gguf FILE FOLDER
//   Writes the tokenizer files that qload makes of a GGUF.
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "formats/gguf/tokenizer.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/text/tokenizer.h"

namespace {
bool read_frame(std::string& out) {
  uint32_t length = 0;
  if (std::fread(&length, 1, 4, stdin) != 4) return false;
  out.resize(length);
  return std::fread(out.data(), 1, length, stdin) == length;
}
void write_frame(const void* data, size_t length) {
  auto n = static_cast<uint32_t>(length);
  std::fwrite(&n, 1, 4, stdout);
  std::fwrite(data, 1, length, stdout);
}

void time_it(const qp::Tokenizer& tokenizer, const std::string& text, int times) {
  for (int i = 0; i < times; ++i) {
    auto start = std::chrono::steady_clock::now();
    size_t n = tokenizer.encode(text, false).size();
    std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
    std::printf("%zu %.6f %llu %zu\n", text.size(), took.count(),
                static_cast<unsigned long long>(qp::memory_use().peak_resident >> 10), n);
  }
}

int from_gguf(const std::string& path, const std::string& folder) {
  auto mapping = qp::MappedFile::open(path);
  qp::GgufFile file = qp::parse_gguf(mapping->bytes(), path);
  auto warn = [](const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); };
  for (const qp::GeneratedFile& made : qp::gguf_tokenizer(file, warn)) {
    qp::write_file_atomically(folder + "/" + made.name, made.text);
  }
  return 0;
}

int tokenize(const std::string& path, const std::string& config_path, int times) {
  std::string config = config_path.empty() ? "" : qp::read_text_file(config_path, 1 << 30);
  qp::Tokenizer tokenizer(qp::read_text_file(path, 1 << 30), config, path);
  std::string frame;
  while (read_frame(frame) && !frame.empty()) {
    int flags = frame[0];
    std::string text = frame.substr(1);
    if (times > 0) {
      time_it(tokenizer, text, times);
      continue;
    }
    std::vector<int32_t> ids = tokenizer.encode(text, (flags & 1) != 0);
    write_frame(ids.data(), ids.size() * 4);
    std::string back = tokenizer.decode(ids, (flags & 2) != 0);
    write_frame(back.data(), back.size());
  }
  return 0;
}
}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> args(argv + 1, argv + argc);
  try {
    if (args.size() == 3 && args[0] == "--from-gguf") return from_gguf(args[1], args[2]);
    if (args.size() == 3 && args[0] == "--time") return tokenize(args[2], "", std::stoi(args[1]));
    if (args.size() == 1) return tokenize(args[0], "", 0);
    if (args.size() == 2) return tokenize(args[0], args[1], 0);
  } catch (const qp::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
  return 2;
}
