// GPTQ of one n x n layer in memory, int4 in symmetric groups of 128: seconds of each step;
// descent: 4 sweeps.
//   qp_bench_gptq N REPEAT THREADS
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "lib/algorithm/descent.h"
#include "lib/algorithm/gptq.h"
#include "lib/base/parallel.h"
#include "lib/gemm/gemm.h"

namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

int main(int argc, char** argv) {
  using namespace qp;
  size_t n = argc > 1 ? static_cast<size_t>(std::atoi(argv[1])) : 4096, rows = 2048;
  int repeat = argc > 2 ? std::atoi(argv[2]) : 1;
  set_threads(argc > 3 ? std::atoi(argv[3]) : 0);
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  std::vector<float> x(rows * n), w(n * n), size(n);
  for (float& s : size) s = uniform(random);
  for (size_t i = 0; i < x.size(); ++i) x[i] = normal(random) * size[i % n];
  for (float& v : w) v = 0.02f * normal(random);
  Scheme scheme;
  scheme.weights.num_bits = 4;
  scheme.weights.strategy = Strategy::group;
  scheme.weights.group_size = 128;
  gptq::Options options;
  options.order = gptq::Order::none;
  options.fit = Fit::range;
  options.precision = gemm::Precision::bf16;  // as qquantize --compute bf16
  for (int i = 0; i < repeat; ++i) {
    gptq::Moments m{n, std::vector<float>(n * n)};
    double t0 = now();
    gemm::rank_update_lower(gemm::Precision::bf16, x.data(), n, rows, n, m.h.data(), n);
    double t1 = now();
    std::fill(m.h.begin(), m.h.end(), 0.0f);
    double t2 = now();
    gemm::rank_update_lower(gemm::Precision::f32, x.data(), n, rows, n, m.h.data(), n);
    double t3 = now();
    auto factor = gptq::factor(m, 128, options);
    double t4 = now();
    if (!factor) return 1;
    Grid grid(scheme, DType::f32, n, n, 0);
    std::vector<float> q = w;
    double t5 = now(), loss = gptq::quantize(*factor, options, grid, q.data()), t6 = now();
    gptq::descend(m, gptq::kDescentDamp, options.precision, grid, w.data(), 4, q.data());
    std::printf("hessian_bf16 %.4f hessian_f32 %.4f factor %.4f sweep %.4f loss %g descent %.4f\n",
                t1 - t0, t3 - t2, t4 - t3, t6 - t5, loss, now() - t6);
  }
}
