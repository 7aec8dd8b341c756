// Test helper: qp_tokenize TOKENIZER_JSON [CONFIG_JSON] < framed texts > framed results.
// A frame is a little-endian u32 length and that many bytes. Of a text: one byte of flags (1: add
// special tokens, 2: skip them when decoding), then the text. The answer is two frames: the ids as
// int32, and their decoded text; or, after an error, a frame of length 0xffffffff is not sent but
// the program ends with the message. With --time N nothing is answered: each text is encoded N
// times, and a line "BYTES SECONDS PEAK_KIB IDS" is printed for it.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

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
}  // namespace

int main(int argc, char** argv) {
  int times = 0;
  int first = 1;
  if (argc > 3 && std::strcmp(argv[1], "--time") == 0) {
    times = std::atoi(argv[2]);
    first = 3;
  }
  if (argc <= first) return 2;
  try {
    std::string config = argc > first + 1 ? qp::read_text_file(argv[first + 1], 1 << 30) : "";
    qp::Tokenizer tokenizer(qp::read_text_file(argv[first], 1 << 30), config, argv[first]);
    std::string frame;
    while (read_frame(frame)) {
      if (frame.empty()) break;
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
  } catch (const qp::Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return e.exit_code();
  }
  return 0;
}
