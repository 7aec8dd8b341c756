#include "lib/engine/ops/attention.h"

#include <algorithm>
#include <array>
#include <limits>

#include "lib/base/error.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/kernels/forward.h"

namespace qp::engine {
namespace {

constexpr size_t kQueries = 128;  // rows of scores at a time
constexpr float kInfinity = std::numeric_limits<float>::infinity();

}  // namespace

// Queries [first, last) of a window see keys [from, last): counted from the window's start, so the
// bits depend on nothing else in the batch.
struct Attention::Block {
  size_t begin = 0;  // the window's first row, of keys and values
  size_t query = 0;  // row of the first query
  size_t first = 0, last = 0, from = 0;
  size_t head = 0;
  size_t rows() const { return last - first; }
  size_t keys() const { return last - from; }
};

Attention::Attention(AttentionSpec spec) : spec_(std::move(spec)) {
  if (spec_.kv_heads == 0 || spec_.heads % spec_.kv_heads != 0) {
    throw input_error("has " + std::to_string(spec_.heads) + " attention heads over " +
                      std::to_string(spec_.kv_heads) + " key/value heads").file("config.json");
  }
  if (!spec_.sinks.empty()) weights.push_back({spec_.sinks, Form::values, 1, spec_.heads});
}

std::vector<size_t> Attention::inputs() const {
  return {spec_.heads * spec_.head_dim, spec_.kv_heads * spec_.head_dim,
          spec_.kv_heads * spec_.value_dim};
}

std::vector<uint32_t> Attention::carries(size_t input) const {
  std::vector<uint32_t> channels;
  size_t group = spec_.heads / spec_.kv_heads;
  for (size_t c = 0; input == 2 && c < width(); ++c) {
    size_t head = c / spec_.value_dim / group;
    channels.push_back(static_cast<uint32_t>(head * spec_.value_dim + c % spec_.value_dim));
  }
  return channels;
}

Attention::Block Attention::block(const Step& step, size_t window, size_t head,
                                  size_t index) const {
  Block b;
  size_t start = step.batch.starts[window], past = step.past == nullptr ? 0 : step.past->rows;
  size_t tokens = step.batch.starts[window + 1] - start;
  b.begin = start;  // a past has one window, from row 0 on
  b.query = start + index * kQueries;
  b.first = past + index * kQueries;
  b.last = std::min(past + tokens, b.first + kQueries);
  if (spec_.window > 0 && b.first + 1 > spec_.window) b.from = b.first + 1 - spec_.window;
  b.head = head;
  return b;
}

// s: the probabilities [rows, keys]; capped (may be null): the scores that went into softmax.
void Attention::probabilities(const Step& step, std::span<const ConstMatrix> in, const Block& b,
                              float* s, float* capped, gemm::Scratch& scratch) const {
  const kernels::ForwardTable& k = kernels::forward();
  size_t kv = b.head / (spec_.heads / spec_.kv_heads), keys = b.keys(), dim = spec_.head_dim;
  gemm::product_serial(step.precision, b.rows(), keys, dim, spec_.scale,
                       {in[0].row(b.query) + b.head * dim, in[0].cols, false},
                       {in[1].row(b.begin + b.from) + kv * dim, in[1].cols, true}, s, keys, false,
                       scratch);
  float sink = spec_.sinks.empty() ? -kInfinity : step.weights[0].values[b.head];
  for (size_t i = 0; i < b.rows(); ++i) {
    size_t at = b.first + i;  // sees [low, at]
    size_t low = spec_.window > 0 && at + 1 > spec_.window ? at + 1 - spec_.window : 0;
    float* row = s + i * keys;
    float* begin = row + (low - b.from);
    size_t n = at + 1 - low;
    if (spec_.softcap > 0) k.softcap(begin, n, spec_.softcap);
    if (capped != nullptr) std::copy(row, row + keys, capped + i * keys);
    k.softmax(begin, n, sink);
    std::fill(row, begin, 0.0f);
    std::fill(begin + n, row + keys, 0.0f);
  }
}

// Keys or values of the past with those of the batch behind them.
static ConstMatrix append(std::vector<float>& kept, ConstMatrix x) {
  kept.insert(kept.end(), x.data, x.data + x.rows * x.cols);
  return {kept.data(), kept.size() / x.cols, x.cols};
}

void Attention::forward(const Step& step, std::span<const ConstMatrix> inputs, Matrix out) const {
  if (step.hook != nullptr) step.hook->keys_values(spec_.name, inputs[1], inputs[2]);
  std::array<ConstMatrix, 3> in = {inputs[0], inputs[1], inputs[2]};
  if (step.past != nullptr) {
    Past::KeysValues& kept = step.past->attention[this];
    in[1] = append(kept.keys, in[1]);
    in[2] = append(kept.values, in[2]);
  }
  struct Item {
    size_t window, head, index;
  };
  std::vector<Item> items;
  for (size_t w = 0; w < step.batch.windows(); ++w) {
    size_t tokens = step.batch.starts[w + 1] - step.batch.starts[w];
    for (size_t h = 0; h < spec_.heads; ++h) {
      for (size_t i = 0; i * kQueries < tokens; ++i) items.push_back({w, h, i});
    }
  }
  std::vector<std::vector<float>> scores(static_cast<size_t>(threads()));
  std::vector<gemm::Scratch> scratch(static_cast<size_t>(threads()));
  parallel_for(items.size(), [&](size_t i, int worker) {
    throw_if_interrupted();
    auto at = static_cast<size_t>(worker);
    Block b = block(step, items[i].window, items[i].head, items[i].index);
    if (scores[at].size() < b.rows() * b.keys()) scores[at].resize(b.rows() * b.keys());
    probabilities(step, in, b, scores[at].data(), nullptr, scratch[at]);
    size_t kv = b.head / (spec_.heads / spec_.kv_heads), dim = spec_.value_dim;
    gemm::product_serial(step.precision, b.rows(), dim, b.keys(), 1.0f,
                         {scores[at].data(), b.keys(), false},
                         {in[2].row(b.begin + b.from) + kv * dim, in[2].cols, false},
                         out.row(b.query) + b.head * dim, out.cols, false, scratch[at]);
  });
}

void Attention::backward(const Step& step, std::span<const ConstMatrix> in, ConstMatrix dout,
                         std::span<const Matrix> din) const {
  const kernels::ForwardTable& table = kernels::forward();
  size_t group = spec_.heads / spec_.kv_heads, dim = spec_.head_dim, vdim = spec_.value_dim;
  // One key/value head at a time: its query heads add to the same gradients, in order.
  parallel_for(step.batch.windows() * spec_.kv_heads, [&](size_t item, int) {
    size_t w = item / spec_.kv_heads, kv = item % spec_.kv_heads;
    size_t tokens = step.batch.starts[w + 1] - step.batch.starts[w];
    gemm::Scratch scratch;
    std::vector<float> p, capped, dp;
    for (size_t h = kv * group; h < (kv + 1) * group; ++h) {
      for (size_t index = 0; index * kQueries < tokens; ++index) {
        throw_if_interrupted();
        Block b = block(step, w, h, index);
        size_t rows = b.rows(), keys = b.keys();
        p.resize(rows * keys);
        capped.resize(rows * keys);
        dp.resize(rows * keys);
        probabilities(step, in, b, p.data(), capped.data(), scratch);
        gemm::Operand q{in[0].row(b.begin + b.first) + h * dim, in[0].cols, false};
        gemm::Operand k{in[1].row(b.begin + b.from) + kv * dim, in[1].cols, false};
        gemm::Operand dy{dout.row(b.begin + b.first) + h * vdim, dout.cols, false};
        gemm::Operand v{in[2].row(b.begin + b.from) + kv * vdim, in[2].cols, true};
        gemm::product_serial(step.precision, keys, vdim, rows, 1.0f, {p.data(), keys, true}, dy,
                             din[2].row(b.begin + b.from) + kv * vdim, din[2].cols, true, scratch);
        gemm::product_serial(step.precision, rows, keys, vdim, 1.0f, dy, v, dp.data(), keys, false,
                             scratch);
        for (size_t i = 0; i < rows; ++i) {
          float* dpi = dp.data() + i * keys;
          const float* pi = p.data() + i * keys;
          const float* ci = capped.data() + i * keys;
          float sum = table.dot(dpi, pi, keys);
          for (size_t j = 0; j < keys; ++j) dpi[j] = pi[j] * (dpi[j] - sum);
          for (size_t j = 0; spec_.softcap > 0 && j < keys; ++j) {
            float t = ci[j] / spec_.softcap;
            dpi[j] = pi[j] == 0 ? 0 : dpi[j] * (1 - t * t);
          }
        }
        gemm::product_serial(step.precision, rows, dim, keys, spec_.scale, {dp.data(), keys, false},
                             k, din[0].row(b.begin + b.first) + h * dim, din[0].cols, true,
                             scratch);
        gemm::product_serial(step.precision, keys, dim, rows, spec_.scale, {dp.data(), keys, true},
                             q, din[1].row(b.begin + b.from) + kv * dim, din[1].cols, true,
                             scratch);
      }
    }
  });
}

}  // namespace qp::engine
