// Other libraries' products, as far as they were there at configure time.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace qp::gemm {

struct Peer {
  virtual ~Peer() = default;
  virtual void run() = 0;
  std::string name;
};

void set_peer_threads(int threads);

// y [m, n] = x [m, k] w^T, w [n, k].
std::vector<std::unique_ptr<Peer>> linear_peers(bool bf16, size_t m, size_t k, size_t n, float* x,
                                                float* w, float* y);
// h [k, k] += x^T x, whole or its lower half.
std::vector<std::unique_ptr<Peer>> hessian_peers(bool bf16, size_t m, size_t k, float* x, float* h);

}  // namespace qp::gemm
