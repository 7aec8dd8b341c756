// libFuzzer over the PyTorch reader. The input is read as a whole file, and as the object of an
// otherwise good stream, so that changes of length reach the pickle past the containers' checks.
// Build with -fsanitize=fuzzer,address; corpus: make_corpus_pickle.py.
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string>

#include "formats/container/torch_file.h"
#include "lib/base/error.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void parse_and_check(std::span<const std::byte> bytes) {
  try {
    for (const qp::TorchTensor& t : qp::parse_torch_file(bytes, "fuzz").tensors) {
      const uint64_t element = qp::dtype_bits(t.dtype) / 8;
      require(t.storage_offset <= bytes.size());
      require(t.storage_bytes <= bytes.size() - t.storage_offset);
      require(t.offset >= t.storage_offset && t.strides.size() == t.shape.rank());
      require(qp::byte_size(t.dtype, t.shape).value() <= t.storage_bytes);
      uint64_t last = t.offset;
      bool empty = false;
      for (size_t i = 0; i < t.shape.rank(); ++i) {
        empty |= t.shape[i] == 0;
        last += (t.shape[i] - 1) * t.strides[i] * element;
      }
      require(empty || last + element <= t.storage_offset + t.storage_bytes);
    }
  } catch (const qp::Error& error) {
    require(error.file() == "fuzz");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  parse_and_check(input);
  // Magic number, version, system info; then the input.
  static const std::string head(
      "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
      "\x80\x02M\xe9\x03."
      "\x80\x02}.",
      15 + 6 + 4);
  std::string stream = head;
  stream.append(reinterpret_cast<const char*>(data), size);
  parse_and_check(std::as_bytes(std::span(stream)));
  return 0;
}
