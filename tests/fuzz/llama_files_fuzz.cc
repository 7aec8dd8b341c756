// libFuzzer over what people bring beside a model for llama.cpp: the first byte says whether the rest is an
// importance matrix or a tokenizer.model.
#include <cmath>

#include "formats/gguf/imatrix.h"
#include "formats/gguf/vocabulary.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

using qp::fuzz::require;

void imatrix(std::span<const std::byte> bytes) {
  try {
    qp::Imatrix m = qp::parse_imatrix(bytes, "fuzz.dat"), twice = m;
    require(!m.entries.empty());
    for (const qp::ImatrixEntry& e : m.entries) {
      require(!e.counts.empty() && e.sums.size() % e.counts.size() == 0);
      for (float x : e.sums) require(std::isfinite(x) && x >= 0);
    }
    qp::add(twice, m, "fuzz.dat");
    require(twice.entries.size() == m.entries.size());
  } catch (const qp::Error& e) {
    require(e.kind() == qp::ErrorKind::input);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  auto rest = std::as_bytes(std::span(data + 1, size - 1));
  if (data[0] % 2 == 0) {
    imatrix(rest);
  } else if (auto pieces = qp::read_sentencepiece({reinterpret_cast<const char*>(rest.data()), rest.size()})) {
    for (const qp::SentencePiece& p : *pieces) require(std::isfinite(p.score));
  }
  return 0;
}
