// Our quantizers of ggml's types beside ggml's own on the same rows, measured in turn (ours,
// theirs, ours, ..) on one thread; medians of processor time and of the ratios pair by pair. The
// bytes must be equal.
//
//   qp_bench_ggml --peer LIBGGML_BASE.so [--only TYPE] [--rows N] [--cols N] [--repeat N]
//
// The peer is llama.cpp's libggml-base, built as its own build does (-DBUILD_SHARED_LIBS=ON). The
// instruction set is QPIPE_ISA's.
#include <dlfcn.h>
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "lib/kernels/ggml.h"
#include "lib/kernels/ggml_quantize.h"
#include "lib/kernels/kernels.h"

namespace qp {
namespace {

// ggml.h's, of which only these are called.
using QuantizeChunk = size_t(int type, const float* src, void* dst, int64_t start, int64_t rows,
                             int64_t cols, const float* importance);
using NameOf = const char*(int type);
struct Peer {
  QuantizeChunk* quantize;
  NameOf* name;
};

struct Options {
  std::string peer, only;
  size_t rows = 64, cols = 4096, repeat = 5;
};

double seconds(const std::function<void()>& f) {
  auto now = [] {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
  };
  double start = now();
  f();
  return now() - start;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

void measure(const Options& o, const Peer& peer, const GgmlType& type, const std::vector<float>& x,
             const float* importance) {
  const GgmlQuantizer& ours = *ggml_quantizer(type.id);
  std::vector<uint8_t> a(o.rows * o.cols / type.block * type.bytes), b(a.size());
  std::vector<double> mine, theirs, ratios;
  for (size_t r = 0; r <= o.repeat; ++r) {
    double t = seconds([&] { ours.quantize(x.data(), o.rows, o.cols, importance, a.data()); });
    double u = seconds([&] {
      peer.quantize(static_cast<int>(type.id), x.data(), b.data(), 0, static_cast<int64_t>(o.rows),
                    static_cast<int64_t>(o.cols), importance);
    });
    if (r == 0) continue;  // warm-up
    mine.push_back(t);
    theirs.push_back(u);
    ratios.push_back(u / t);
  }
  auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
  double per = 1e9 / static_cast<double>(x.size());
  std::printf("| %-8s | %-4s | %8.2f | %8.2f | %6.1f [%5.1f .. %5.1f] | %s |\n",
              std::string(type.name).c_str(), importance != nullptr ? "yes" : "no",
              median(mine) * per, median(theirs) * per, median(ratios), *low, *high,
              a == b ? "equal" : "DIFFER");
  std::fflush(stdout);
}

int run(const Options& o) {
  void* library = dlopen(o.peer.c_str(), RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  Peer peer{reinterpret_cast<QuantizeChunk*>(dlsym(library, "ggml_quantize_chunk")),
            reinterpret_cast<NameOf*>(dlsym(library, "ggml_type_name"))};
  if (peer.quantize == nullptr || peer.name == nullptr) {
    std::fprintf(stderr, "%s is no libggml-base\n", o.peer.c_str());
    return 1;
  }
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.02f);
  std::exponential_distribution<float> exponential;
  std::vector<float> x(o.rows * o.cols), importance(o.cols);
  for (float& v : x) v = normal(random);
  for (float& v : importance) v = exponential(random);
  std::printf("%s, %zu x %zu\n\n", kernels::active_isa(), o.rows, o.cols);
  std::printf(
      "| type | importance | ours, ns | ggml, ns | ratio | bytes |\n|---|---|---|---|---|---|\n");
  for (const GgmlType& type : ggml_types()) {
    const GgmlQuantizer* ours = ggml_quantizer(type.id);
    if (ours == nullptr || (!o.only.empty() && type.name != o.only)) continue;
    const char* name = type.id < 42 ? peer.name(static_cast<int>(type.id)) : nullptr;
    if (name == nullptr || ggml_type(std::string_view(name)) != &type)
      continue;  // an older or newer ggml
    if (!ours->needs_importance) measure(o, peer, type, x, nullptr);
    if (ours->uses_importance) measure(o, peer, type, x, importance.data());
  }
  return 0;
}

}  // namespace
}  // namespace qp

int main(int argc, char** argv) {
  qp::Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string key = argv[i], value = argv[i + 1];
    if (key == "--peer") {
      o.peer = value;
    } else if (key == "--only") {
      o.only = value;
    } else if (key == "--rows") {
      o.rows = std::strtoul(value.c_str(), nullptr, 10);
    } else if (key == "--cols") {
      o.cols = std::strtoul(value.c_str(), nullptr, 10);
    } else if (key == "--repeat") {
      o.repeat = std::strtoul(value.c_str(), nullptr, 10);
    }
  }
  if (o.peer.empty()) {
    std::fputs(
        "usage: qp_bench_ggml --peer LIBGGML_BASE.so [--only TYPE] [--rows N] [--cols N] [--repeat "
        "N]\n",
        stderr);
    return 2;
  }
  return qp::run(o);
}
