// libFuzzer over the safetensors header: an Error, or entries that lie inside the file and have
// the size their dtype and shape say.
#include "formats/container/safetensors.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using qp::fuzz::require;
  std::span<const std::byte> bytes{reinterpret_cast<const std::byte*>(data), size};
  try {
    qp::SafetensorsHeader header = qp::parse_safetensors(bytes, "fuzz");
    require(header.data_offset <= size);
    uint64_t last = 0;
    for (const qp::SafetensorsEntry& e : header.entries) {
      require(e.begin == last && e.begin <= e.end && e.end <= size - header.data_offset);
      require(qp::byte_size(e.dtype, e.shape) == e.end - e.begin);
      last = e.end;
    }
  } catch (const qp::Error& e) {
    require(e.kind() == qp::ErrorKind::input && e.file() == "fuzz");
  }
  return 0;
}
