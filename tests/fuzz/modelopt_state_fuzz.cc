// libFuzzer over the reader of ModelOpt's saved state (mto.save).
#include <string>
#include <vector>

#include "formats/modelopt/state.h"
#include "tests/fuzz/fuzz_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  qp::Fd file = qp::fuzz::memory_file(std::as_bytes(std::span(data, size)));
  std::vector<qp::Tensor> tensors(1);
  tensors[0].name = "a.k_proj.weight";
  tensors[0].shape = {2, 2};
  try {
    std::string path = "/proc/self/fd/" + std::to_string(file.get());
    qp::Calibration c = qp::modelopt::read_state(path, tensors, {});
    for (const qp::InputStatistics& s : c.inputs) qp::fuzz::require(s.observed >= 0);
  } catch (const qp::Error& e) {
    qp::fuzz::require(e.kind() == qp::ErrorKind::input || e.kind() == qp::ErrorKind::limit);
  }
  return 0;
}
