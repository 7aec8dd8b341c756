// Matrix products beside other libraries' on the same numbers, measured in turn (ours, theirs,
// ours, ..) on the same threads. Medians of seconds and of the ratios pair by pair; machines are
// shared: read the ratio. GFLOP/s count two per multiply-add, full products also where half is made.
//
//   qp_bench_gemm [--threads N] [--only TEXT] [--repeat N] [--isa NAME]
//
// Ours takes f32 activations, rounds and packs them inside the call; W is packed before. oneDNN gets
// bf16 made before, W as it lies ("plain") or in the order it asks for ("packed").
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "bench/gemm/peers.h"
#include "lib/base/parallel.h"
#include "lib/gemm/backends.h"
#include "lib/gemm/gemm.h"

namespace qp::gemm {
namespace {

struct Options {
  int threads = 0;  // 0: one, then two
  size_t repeat = 7;
  std::string isa, only;
};

double seconds(const std::function<void()>& f) {
  auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  return v[v.size() / 2];
}

struct Contender {
  std::string name;
  std::function<void()> run;
};

// The first is ours; the others are compared with it.
void measure(const Options& o, const std::string& what, int threads, double flop,
             const std::vector<Contender>& all) {
  if (!o.only.empty() && what.find(o.only) == std::string::npos) return;
  std::vector<std::vector<double>> times(all.size());
  for (size_t r = 0; r <= o.repeat; ++r) {
    for (size_t i = 0; i < all.size(); ++i) {
      double t = seconds(all[i].run);
      if (r > 0) times[i].push_back(t);  // the first is warm-up
    }
  }
  for (size_t i = 0; i < all.size(); ++i) {
    std::vector<double> ratios;
    for (size_t r = 0; r < o.repeat; ++r) ratios.push_back(times[i][r] / times[0][r]);
    auto [low, high] = std::minmax_element(ratios.begin(), ratios.end());
    std::printf("| %-26s | %d | %-22s | %8.1f | ", i == 0 ? what.c_str() : "", threads,
                all[i].name.c_str(), flop / median(times[i]) * 1e-9);
    if (i == 0) {
      std::printf("%22s |\n", "");
    } else {
      std::printf("%6.2f [%5.2f .. %5.2f] |\n", median(ratios), *low, *high);
    }
    std::fflush(stdout);
  }
}

std::vector<float> numbers(size_t n, float scale) {
  std::minstd_rand g(static_cast<unsigned>(n));
  std::vector<float> v(n);
  for (float& x : v) x = (static_cast<float>(g()) * 0x1p-30f - 1) * scale;
  return v;
}

std::string sizes(size_t m, size_t k, size_t n) {
  return std::to_string(m) + "x" + std::to_string(k) + "x" + std::to_string(n);
}

// Y = X W^T, X [m, k], W [n, k].
void linears(const Options& o, int threads) {
  const struct {
    size_t m, k, n;
  } shapes[] = {{2048, 2048, 2048},  {2048, 2048, 5632},  {2048, 4096, 4096},
                {2048, 4096, 14336}, {2048, 14336, 4096}, {256, 4096, 4096}};
  for (auto [m, k, n] : shapes) {
    for (Precision p : {Precision::bf16, Precision::f32}) {
      std::string what = std::string(p == Precision::bf16 ? "bf16 " : "f32 ") + sizes(m, k, n);
      if (!o.only.empty() && what.find(o.only) == std::string::npos) continue;
      auto x = numbers(m * k, 1), w = numbers(n * k, 0.02f);
      std::vector<float> y(m * n);
      Packed packed(n, k, p);
      packed.pack_all(w.data(), k);
      std::vector<Contender> all{{std::string("qpipe ") + backend(p), [&] {
                                    multiply(x.data(), k, m, packed, nullptr, y.data(), n, false);
                                  }}};
      std::vector<std::unique_ptr<Peer>> peers = linear_peers(p == Precision::bf16, m, k, n,
                                                              x.data(), w.data(), y.data());
      for (auto& peer : peers) all.push_back({peer->name, [&peer] { peer->run(); }});
      measure(o, what, threads, 2.0 * static_cast<double>(m * k * n), all);
    }
  }
}

// h += x^T x, lower half.
void hessians(const Options& o, int threads) {
  const size_t m = 2048;
  for (size_t k : {2048u, 4096u}) {
    for (Precision p : {Precision::bf16, Precision::f32}) {
      std::string what = std::string("hessian ") + (p == Precision::bf16 ? "bf16 " : "f32 ") +
                         std::to_string(m) + "x" + std::to_string(k);
      if (!o.only.empty() && what.find(o.only) == std::string::npos) continue;
      auto x = numbers(m * k, 1);
      std::vector<float> h(k * k);
      std::vector<Contender> all{{std::string("qpipe ") + backend(p), [&] {
                                    rank_update_lower(p, x.data(), k, m, k, h.data(), k);
                                  }}};
      auto peers = hessian_peers(p == Precision::bf16, m, k, x.data(), h.data());
      for (auto& peer : peers) all.push_back({peer->name, [&peer] { peer->run(); }});
      measure(o, what, threads, 2.0 * static_cast<double>(m * k * k), all);
    }
  }
}

// dW [n, k] += dY [m, n]^T X [m, k].
void gradients(const Options& o, int threads) {
  const size_t m = 2048, n = 4096, k = 4096;
  for (Precision p : {Precision::bf16, Precision::f32}) {
    std::string what = std::string("gradient ") + (p == Precision::bf16 ? "bf16" : "f32");
    if (!o.only.empty() && what.find(o.only) == std::string::npos) continue;
    auto x = numbers(m * k, 1), dy = numbers(m * n, 1);
    std::vector<float> dw(n * k);
    measure(o, what, threads, 2.0 * static_cast<double>(m * k * n),
            {{std::string("qpipe ") + backend(p), [&] {
                product(p, n, k, m, 1, {dy.data(), n, true}, {x.data(), k}, dw.data(), k, true);
              }}});
  }
}

// One head of attention in one thread: scores = q k^T / sqrt(d), then p v, for blocks of rows.
void attention(const Options& o) {
  for (Precision p : {Precision::bf16, Precision::f32}) {
    for (size_t t : {512u, 2048u}) {
      for (size_t d : {64u, 128u}) {
        auto q = numbers(t * d, 1), key = numbers(t * d, 1), v = numbers(t * d, 1);
        std::vector<float> scores(t * t), out(t * d);
        Scratch s;
        std::string tail = std::string(p == Precision::bf16 ? "bf16 " : "f32 ") +
                           std::to_string(t) + " d" + std::to_string(d);
        double flop = 2.0 * static_cast<double>(t * t * d);
        std::string ours = std::string("qpipe ") + backend(p);
        measure(o, "q k^T " + tail, 1, flop, {{ours, [&] {
          product_serial(p, t, t, d, 0.125f, {q.data(), d}, {key.data(), d, true}, scores.data(),
                         t, false, s);
        }}});
        measure(o, "p v " + tail, 1, flop, {{ours, [&] {
          product_serial(p, t, d, t, 1, {scores.data(), t}, {v.data(), d}, out.data(), d, false, s);
        }}});
      }
    }
  }
}

void packing(const Options& o, int threads) {
  const size_t n = 14336, k = 4096;
  if (!o.only.empty() && std::string_view("pack").find(o.only) == std::string::npos) return;
  std::vector<uint16_t> w(n * k, 0x3f80);
  Packed packed(n, k, Precision::bf16);
  std::vector<double> t;
  for (size_t r = 0; r <= o.repeat; ++r) t.push_back(seconds([&] { packed.pack_all(w.data(), k); }));
  std::printf("| %-26s | %d | %-22s | %5.1f GB/s of bf16 |\n", "pack W 14336x4096", threads,
              backend(Precision::bf16), static_cast<double>(n * k * 2) / median(t) * 1e-9);
}

int run(const Options& o) {
  std::unique_ptr<Forced> forced;
  for (const Pair& p : supported()) {
    if (o.isa == p.isa) forced = std::make_unique<Forced>(p);
  }
  if (!o.isa.empty() && !forced) return std::fprintf(stderr, "no such --isa\n"), 2;
  std::printf("| %-26s | t | %-22s | %8s | %22s |\n| --- | --- | --- | --- | --- |\n", "what", "who",
              "GFLOP/s", "theirs / ours, seconds");
  for (int threads : {1, 2}) {
    if (o.threads != 0) threads = o.threads;
    set_threads(threads);
    set_peer_threads(threads);
    linears(o, threads);
    hessians(o, threads);
    gradients(o, threads);
    if (threads == 1) attention(o);
    packing(o, threads);
    if (o.threads != 0) break;
  }
  return 0;
}

}  // namespace
}  // namespace qp::gemm

int main(int argc, char** argv) {
  qp::gemm::Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string_view name = argv[i];
    if (name == "--threads") o.threads = std::atoi(argv[i + 1]);
    if (name == "--repeat") o.repeat = std::strtoul(argv[i + 1], nullptr, 10);
    if (name == "--isa") o.isa = argv[i + 1];
    if (name == "--only") o.only = argv[i + 1];
  }
  return qp::gemm::run(o);
}
