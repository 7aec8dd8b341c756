#include "lib/calibration/collector.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "lib/kernels/forward.h"

namespace qp {
namespace {

constexpr size_t kColumns = 256;  // a thread's share at a time

template <class T>
void append(std::vector<std::byte>& out, const T* data, size_t n) {
  auto* p = reinterpret_cast<const std::byte*>(data);
  out.insert(out.end(), p, p + n * sizeof(T));
}

template <class T>
void take(std::span<const std::byte>& from, std::vector<T>& to, size_t n) {
  to.resize(n);
  std::memcpy(to.data(), from.data(), n * sizeof(T));
  from = from.subspan(n * sizeof(T));
}

}  // namespace

std::vector<std::byte> pack(const InputSums& s, InputStatistics& meta) {
  meta.module = s.module;
  meta.readers = s.readers;
  meta.cols = s.amax.size();
  meta.rows = s.rows;
  uint32_t first = 0, last = static_cast<uint32_t>(s.bins.size());
  while (first < last && s.bins[first] == 0) ++first;
  while (last > first && s.bins[last - 1] == 0) --last;
  meta.first_bin = first < last ? first : 0;
  meta.bins = last - first;
  std::vector<std::byte> out;
  append(out, s.sum_abs.data(), s.sum_abs.size());
  append(out, s.sum_sq.data(), s.sum_sq.size());
  append(out, s.amax.data(), s.amax.size());
  append(out, s.history.data(), s.history.size());
  append(out, s.bins.data() + first, meta.bins);
  return out;
}

InputSums unpack(const InputStatistics& meta, std::span<const std::byte> bytes, uint64_t windows) {
  if (bytes.size() != statistics_bytes(meta, windows)) {
    throw defect_error("statistics of another size").tensor(meta.module);
  }
  InputSums s;
  s.module = meta.module;
  s.readers = meta.readers;
  s.rows = meta.rows;
  take(bytes, s.sum_abs, meta.cols);
  take(bytes, s.sum_sq, meta.cols);
  take(bytes, s.amax, meta.cols);
  take(bytes, s.history, windows);
  if (meta.bins > 0) {
    s.bins.resize(kHistogramBins);
    std::memcpy(s.bins.data() + meta.first_bin, bytes.data(), bytes.size());
  }
  return s;
}

void Collector::begin(const engine::Graph& layer) {
  inputs_.clear();
  input_of_.clear();
  routers_.clear();
  caches_.clear();
  for (const engine::Node& node : layer.nodes()) {
    for (size_t i = 0; i < node.op->linears.size(); ++i) {
      const engine::LinearUse& linear = node.op->linears[i];
      auto [it, fresh] = input_of_.emplace(linear.input, inputs_.size());
      if (fresh) {
        size_t cols = node.op->weights[i].cols;
        InputSums sums;
        sums.module = linear.input;
        sums.sum_abs.resize(cols);
        sums.sum_sq.resize(cols);
        sums.amax.resize(cols);
        sums.history.resize(options_.windows);
        if (options_.histogram) sums.bins.resize(kHistogramBins);
        inputs_.push_back(std::move(sums));
      }
      std::vector<std::string>& readers = inputs_[it->second].readers;
      if (std::ranges::find(readers, linear.module) == readers.end()) {
        readers.push_back(linear.module);
      }
    }
  }
}

void Collector::batch(const engine::Batch& batch, size_t first_window) {
  batch_ = &batch;
  first_window_ = first_window;
}

engine::ConstMatrix Collector::before(const engine::LinearUse& linear, engine::ConstMatrix x,
                                      std::span<const uint32_t> rows, std::vector<float>&) {
  if (linear.module != linear.input) return x;  // counted with the first reader
  InputSums& sums = inputs_[input_of_.at(linear.input)];
  // Rows of each window: their sums are made apart, so that no total depends on the batch.
  std::vector<std::pair<size_t, size_t>> windows;
  size_t at = 0;
  for (size_t w = 0; w < batch_->windows(); ++w) {
    size_t end = at;
    if (rows.empty()) {
      end = batch_->starts[w + 1];
    } else {
      while (end < rows.size() && rows[end] < batch_->starts[w + 1]) ++end;
    }
    windows.emplace_back(at, end);
    at = end;
  }
  sums.rows += x.rows;
  add_columns(sums, x, windows, first_window_);
  if (options_.histogram) add_histogram(sums, x);
  return x;
}

void Collector::add_columns(InputSums& sums, engine::ConstMatrix x,
                            const std::vector<std::pair<size_t, size_t>>& windows,
                            size_t first_window) {
  size_t blocks = (x.cols + kColumns - 1) / kColumns;
  std::vector<std::vector<float>> peak(blocks, std::vector<float>(windows.size()));
  parallel_for(blocks, [&](size_t b, int) {
    size_t begin = b * kColumns, n = std::min(kColumns, x.cols - begin);
    for (size_t w = 0; w < windows.size(); ++w) {
      auto [first, last] = windows[w];
      if (first == last) continue;
      float amax[kColumns] = {};
      double sum_abs[kColumns] = {}, sum_sq[kColumns] = {};
      kernels::forward().column_sums(x.row(first) + begin, last - first, n, x.cols, amax, sum_abs,
                                     sum_sq);
      for (size_t j = 0; j < n; ++j) {
        if (!(sum_sq[j] < kFixedLimit)) {
          throw input_error("what enters it is not finite, or too large (channel " +
                            std::to_string(begin + j) + ")")
              .tensor(sums.module)
              .hint("the weights are damaged, or the model overflows");
        }
        sums.sum_abs[begin + j] += to_fixed(sum_abs[j]);
        sums.sum_sq[begin + j] += to_fixed(sum_sq[j]);
        sums.amax[begin + j] = std::max(sums.amax[begin + j], amax[j]);
        peak[b][w] = std::max(peak[b][w], amax[j]);
      }
    }
  });
  for (size_t w = 0; w < windows.size(); ++w) {
    float& entry = sums.history[first_window + w];
    for (size_t b = 0; b < blocks; ++b) entry = std::max(entry, peak[b][w]);
  }
}

void Collector::add_histogram(InputSums& sums, engine::ConstMatrix x) {
  // Counts do not care about order: each thread counts, then they are added.
  std::vector<std::vector<uint32_t>> counts(static_cast<size_t>(threads()));
  parallel_for(x.rows, [&](size_t r, int worker) {
    std::vector<uint32_t>& mine = counts[static_cast<size_t>(worker)];
    mine.resize(kHistogramBins);
    const float* row = x.row(r);
    for (size_t j = 0; j < x.cols; ++j) {
      ++mine[(std::bit_cast<uint32_t>(row[j]) & 0x7fffffffu) >> 17];
    }
  });
  for (const auto& mine : counts) {
    for (size_t b = 0; b < mine.size(); ++b) sums.bins[b] += mine[b];
  }
}

void Collector::keys_values(const std::string& block, engine::ConstMatrix k,
                            engine::ConstMatrix v) {
  if (caches_.empty() || caches_.back().block != block) caches_.push_back({block, 0, 0});
  auto amax = [](engine::ConstMatrix m) {
    std::vector<float> part(static_cast<size_t>(threads()));
    constexpr size_t kRows = 64;  // they lie one after the other
    parallel_for((m.rows + kRows - 1) / kRows, [&](size_t i, int worker) {
      float& top = part[static_cast<size_t>(worker)];
      size_t rows = std::min(kRows, m.rows - i * kRows);
      top = std::max(top, kernels::forward().largest(m.row(i * kRows), rows * m.cols));
    });
    return *std::ranges::max_element(part);
  };
  caches_.back().k_amax = std::max(caches_.back().k_amax, amax(k));
  caches_.back().v_amax = std::max(caches_.back().v_amax, amax(v));
}

void Collector::routed(const std::string& module, std::span<const uint32_t> ids, size_t top_k,
                       size_t experts) {
  if (routers_.empty() || routers_.back().module != module) {
    routers_.push_back({module, 0, std::vector<uint64_t>(experts)});
  }
  routers_.back().rows += ids.size() / top_k;
  for (uint32_t id : ids) ++routers_.back().counts[id];
}

}  // namespace qp
