#include "bench/gemm/peers.h"

#include <omp.h>

#include <algorithm>
#include <cstdint>

#include "lib/tensor/minifloat.h"
#if defined(QP_HAVE_EIGEN)
#include <Eigen/Core>
#endif
#if defined(QP_HAVE_ONEDNN)
#include <dnnl.hpp>
#endif

namespace qp::gemm {

using Peers = std::vector<std::unique_ptr<Peer>>;

void set_peer_threads(int threads) {
  omp_set_num_threads(threads);
#if defined(QP_HAVE_EIGEN)
  Eigen::setNbThreads(threads);
#endif
}

namespace {

#if defined(QP_HAVE_EIGEN)
using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Index = Eigen::Index;

struct EigenLinear : Peer {
  EigenLinear(size_t m, size_t k, size_t n, float* xs, float* ws, float* ys)
      : x(xs, Index(m), Index(k)), w(ws, Index(n), Index(k)), y(ys, Index(m), Index(n)) {
    name = "Eigen f32";
  }
  void run() override { y.noalias() = x * w.transpose(); }
  Eigen::Map<Matrix> x, w, y;
};

struct EigenHessian : Peer {
  EigenHessian(size_t m, size_t k, float* xs, float* hs)
      : x(xs, Index(m), Index(k)), h(hs, Index(k), Index(k)) {
    name = "Eigen f32 rankUpdate";
  }
  void run() override { h.selfadjointView<Eigen::Lower>().rankUpdate(x.transpose()); }
  Eigen::Map<Matrix> x, h;
};
#endif

#if defined(QP_HAVE_ONEDNN)
using Type = dnnl::memory::data_type;
using Tag = dnnl::memory::format_tag;

std::vector<uint16_t> rounded(const float* v, size_t n) {
  std::vector<uint16_t> r(n);
  std::transform(v, v + n, r.begin(), f32_to_bf16);
  return r;
}

struct OneDnn : Peer {
  // left [m, k] by right [k, n], in the orders that the tags say.
  OneDnn(bool bf16, bool packed, size_t m, size_t k, size_t n, Tag left_tag, Tag right_tag,
         float* left_data, size_t left_size, float* right_data, size_t right_size, float* out,
         bool add)
      : engine(dnnl::engine::kind::cpu, 0), stream(engine) {
    auto dim = [](size_t v) { return static_cast<dnnl::memory::dim>(v); };
    Type type = bf16 ? Type::bf16 : Type::f32;
    void* left_at = left_data;
    void* right_at = right_data;
    if (bf16) {
      left16 = rounded(left_data, left_size);
      right16 = rounded(right_data, right_size);
      left_at = left16.data();
      right_at = right16.data();
    }
    dnnl::memory::desc ld({dim(m), dim(k)}, type, left_tag), rd({dim(k), dim(n)}, type, right_tag);
    dnnl::memory::desc any({dim(k), dim(n)}, type, Tag::any);
    dnnl::memory::desc od({dim(m), dim(n)}, Type::f32, Tag::ab);
    dnnl::primitive_attr attributes;
    if (add) {
      dnnl::post_ops ops;
      ops.append_sum(1);
      attributes.set_post_ops(ops);
    }
    dnnl::matmul::primitive_desc pd({ld, packed ? any : rd, od}, attributes, engine);
    matmul = dnnl::matmul(pd);
    left = dnnl::memory(ld, engine, left_at);
    right = dnnl::memory(rd, engine, right_at);
    result = dnnl::memory(od, engine, out);
    if (packed && pd.weights_desc() != rd) {
      dnnl::memory ordered(pd.weights_desc(), engine);
      dnnl::reorder(right, ordered).execute(stream, right, ordered);
      stream.wait();
      right = ordered;
    }
    name = std::string("oneDNN ") + (bf16 ? "bf16" : "f32") + (packed ? " packed" : " plain");
  }
  void run() override {
    matmul.execute(stream, {{DNNL_ARG_SRC, left}, {DNNL_ARG_WEIGHTS, right},
                            {DNNL_ARG_DST, result}});
    stream.wait();
  }
  dnnl::engine engine;
  dnnl::stream stream;
  dnnl::matmul matmul;
  dnnl::memory left, right, result;
  std::vector<uint16_t> left16, right16;
};
#endif

}  // namespace

Peers linear_peers([[maybe_unused]] bool bf16, [[maybe_unused]] size_t m,
                   [[maybe_unused]] size_t k, [[maybe_unused]] size_t n, [[maybe_unused]] float* x,
                   [[maybe_unused]] float* w, [[maybe_unused]] float* y) {
  Peers peers;
#if defined(QP_HAVE_ONEDNN)
  for (bool packed : {false, true}) {
    peers.push_back(std::make_unique<OneDnn>(bf16, packed, m, k, n, Tag::ab, Tag::ba, x, m * k, w,
                                             n * k, y, false));
  }
#endif
#if defined(QP_HAVE_EIGEN)
  if (!bf16) peers.push_back(std::make_unique<EigenLinear>(m, k, n, x, w, y));
#endif
  return peers;
}

Peers hessian_peers([[maybe_unused]] bool bf16, [[maybe_unused]] size_t m,
                    [[maybe_unused]] size_t k, [[maybe_unused]] float* x,
                    [[maybe_unused]] float* h) {
  Peers peers;
#if defined(QP_HAVE_ONEDNN)
  peers.push_back(std::make_unique<OneDnn>(bf16, false, k, m, k, Tag::ba, Tag::ab, x, m * k, x,
                                           m * k, h, true));
#endif
#if defined(QP_HAVE_EIGEN)
  if (!bf16) peers.push_back(std::make_unique<EigenHessian>(m, k, x, h));
#endif
  return peers;
}

}  // namespace qp::gemm
