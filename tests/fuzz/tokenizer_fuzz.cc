// libFuzzer over tokenizer.json and text: what is before the first NUL is the file, behind it the text.
#include <algorithm>
#include <string_view>

#include "lib/text/tokenizer.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  size_t cut = std::min(input.find('\0'), input.size());
  std::string_view text = input.substr(std::min(cut + 1, input.size())).substr(0, 256);
  try {
    qp::Tokenizer tokenizer(input.substr(0, cut));
    for (bool special : {false, true}) {
      std::vector<int32_t> ids = tokenizer.encode(text, special);
      for (int32_t id : ids) qp::fuzz::require(id >= 0 && id < tokenizer.vocab_size());
      tokenizer.decode(ids, special);
    }
  } catch (const qp::Error& e) {
    qp::fuzz::require(e.kind() == qp::ErrorKind::input || e.kind() == qp::ErrorKind::limit);
  }
  return 0;
}
