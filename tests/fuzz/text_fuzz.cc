// libFuzzer over what people give as text and tokens: the first byte says which kind of file the rest is.
#include <stdlib.h>

#include <filesystem>
#include <fstream>

#include "lib/text/documents.h"
#include "lib/text/windows.h"
#include "tests/fuzz/fuzz_input.h"

namespace {

constexpr const char* kNames[] = {"a.txt", "a.jsonl", "a.json", "a.npy", "a.bin", "a.txt.gz", "a.jsonl.zst"};

// A folder of our own, where one file after the other is written.
class Folder {
 public:
  Folder() {
    char name[] = "/tmp/qpipe-fuzz-XXXXXX";
    qp::fuzz::require(mkdtemp(name) != nullptr);
    path_ = name;
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  std::string write(const char* name, std::span<const uint8_t> bytes) const {
    std::string path = path_ + "/" + name;
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path;
  }

 private:
  std::string path_;
};

template <class Step>
void attempt(Step step) {
  try {
    step();
  } catch (const qp::Error& e) {
    qp::fuzz::require(e.kind() != qp::ErrorKind::defect && e.kind() != qp::ErrorKind::system);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const Folder folder;
  if (size == 0) return 0;
  std::string path = folder.write(kNames[data[0] % std::size(kNames)], {data + 1, size - 1});
  attempt([&] {
    qp::Documents documents({path});
    qp::Document d;
    while (documents.next(d)) qp::fuzz::require(d.text.size() <= qp::Documents::kMaxPart + (1 << 20));
  });
  attempt([&] {
    qp::WindowOptions options;
    options.seqlen = 4;
    options.count = 8;
    qp::Windows windows = qp::token_windows(path, 1000, options);
    for (int32_t id : windows.ids) qp::fuzz::require(id >= 0 && id < 1000);
  });
  return 0;
}
