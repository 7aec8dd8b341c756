#include "lib/algorithm/codebook.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "lib/algorithm/rtn.h"
#include "lib/base/checked.h"

namespace qp {
namespace codebook {
namespace {

constexpr std::array<float, 16> kNf4 = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f, 0.16093020141124725f, 0.24611230194568634f, 0.33791524171829224f,
    0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

std::array<float, 16> make_fp4() {
  constexpr float kMagnitude[8] = {0, 0.0625f, 8, 12, 4, 6, 2, 3};
  std::array<float, 16> t{};
  for (size_t i = 0; i < 8; ++i) {
    t[i] = static_cast<float>(static_cast<double>(kMagnitude[i]) / 12);
    t[i + 8] = i == 0 ? 0.0f : -t[i];
  }
  return t;
}

// For i = 0..6 the midpoints of 2^i steps from 0.1 to 1, times 10^(i - 6), with both signs; 0; 1. Every
// step in F32, as torch takes them (linspace counts its second half from the end, and fuses).
std::array<float, 256> make_dynamic_map() {
  std::vector<float> values = {0.0f, 1.0f};
  for (int i = 0; i < 7; ++i) {
    int steps = 1 << i;
    float step = (1.0f - 0.1f) / static_cast<float>(steps), power = static_cast<float>(std::pow(10.0, i - 6));
    auto point = [steps, step](int k) {
      bool low = k < (steps + 1) / 2;
      return low ? std::fma(step, static_cast<float>(k), 0.1f) : std::fma(-step, static_cast<float>(steps - k), 1.0f);
    };
    for (int k = 0; k < steps; ++k) {
      float v = power * ((point(k) + point(k + 1)) / 2);
      values.push_back(v);
      values.push_back(-v);
    }
  }
  std::ranges::sort(values);
  std::array<float, 256> map{};
  std::ranges::copy(values, map.begin());
  return map;
}

}  // namespace

std::span<const float, 16> nf4() { return kNf4; }
std::span<const float, 16> fp4() {
  static const std::array<float, 16> table = make_fp4();
  return table;
}
std::span<const float, 16> table_of(const Scheme& scheme) {
  return scheme.name.find("fp4") != std::string::npos ? fp4() : nf4();
}
const std::array<float, 256>& dynamic_map() {
  static const std::array<float, 256> map = make_dynamic_map();
  return map;
}

}  // namespace codebook

namespace {

// The entry of the dynamic map that bitsandbytes' CPU backend takes for x in [-1, 1]: x goes to the
// nearest of 65536 points, the point to the nearest entry (the lower one of two as near).
uint8_t dynamic_code(float x) {
  const auto& map = codebook::dynamic_map();
  float point = std::floor((std::clamp(x, -1.0f, 1.0f) + 1.0f) * 0.5f * 65535.0f + 0.5f) / 32767.5f - 1.0f;
  auto it = std::ranges::lower_bound(map, point);
  auto i = static_cast<size_t>(it - map.begin());
  if (i == map.size()) return 255;
  if (i > 0 && point <= (map[i - 1] + map[i]) / 2) --i;
  return static_cast<uint8_t>(i);
}

template <class T>
std::vector<std::byte> bytes_of(std::span<const T> values) {
  auto bytes = std::as_bytes(values);
  return {bytes.begin(), bytes.end()};
}

}  // namespace

CodebookQuantizer::CodebookQuantizer(const Tensor& t, const Scheme& scheme)
    : cols_(t.shape.cols()), block_(static_cast<uint64_t>(scheme.weights.group_size)),
      nested_(scheme.weights.nested_scale), table_(codebook::table_of(scheme)),
      absmax_(*scale_shape(scheme.weights, t.shape).elements()) {
  std::iota(order_.begin(), order_.end(), uint8_t{0});
  std::ranges::stable_sort(order_, [this](uint8_t a, uint8_t b) { return table_[a] < table_[b]; });
  for (size_t i = 0; i < 15; ++i) bounds_[i] = (table_[order_[i]] + table_[order_[i + 1]]) / 2;
}

uint64_t CodebookQuantizer::unit_of(const Scheme& scheme, const Shape& shape) {
  auto block = static_cast<uint64_t>(scheme.weights.group_size);
  return block / std::gcd(block, std::max<uint64_t>(shape.cols(), 1));
}

bool CodebookQuantizer::chunk(std::span<const float> values, uint64_t first, uint8_t* codes) {
  uint64_t at = first * cols_ / block_;
  for (uint64_t begin = 0; begin < values.size(); begin += block_, ++at) {
    auto block = values.subspan(begin, std::min(block_, values.size() - begin));
    float amax = 0;
    for (float v : block) amax = std::isfinite(v) ? std::max(amax, std::fabs(v)) : INFINITY;
    if (!std::isfinite(amax)) return false;
    absmax_[at] = amax;
    float inverse = 1.0f / std::max(amax, 1e-38f);
    for (uint64_t i = 0; i < block.size(); ++i) {
      float x = std::clamp(block[i] * inverse, -1.0f, 1.0f);
      unsigned rank = 0;
      for (float b : bounds_) rank += x > b;
      unsigned code = order_[rank];
      uint8_t& byte = codes[(begin + i) / 2];
      byte = static_cast<uint8_t>((begin + i) % 2 == 0 ? code : byte | code << 4);
    }
  }
  return true;
}

void CodebookQuantizer::finish(SmallParts& parts) const {
  parts.others.emplace_back(Role::codebook, bytes_of(std::span<const float>(table_)));
  if (!nested_) {
    parts.scale = bytes_of(std::span(absmax_));
    return;
  }
  double sum = 0;
  for (float a : absmax_) sum += static_cast<double>(a);
  auto offset = static_cast<float>(sum / static_cast<double>(absmax_.size()));
  std::vector<float> nested(ceil_div(absmax_.size(), 256));
  parts.scale.resize(absmax_.size());
  for (size_t j = 0; j < nested.size(); ++j) {
    size_t end = std::min(absmax_.size(), (j + 1) * 256);
    for (size_t i = j * 256; i < end; ++i) nested[j] = std::max(nested[j], std::fabs(absmax_[i] - offset));
    float inverse = 1.0f / std::max(nested[j], 1e-38f);
    for (size_t i = j * 256; i < end; ++i) {
      parts.scale[i] = static_cast<std::byte>(dynamic_code((absmax_[i] - offset) * inverse));
    }
  }
  parts.others.emplace_back(Role::nested_scale, bytes_of(std::span<const float>(nested)));
  parts.others.emplace_back(Role::nested_codebook, bytes_of(std::span<const float>(codebook::dynamic_map())));
  parts.others.emplace_back(Role::nested_offset, bytes_of(std::span<const float>(&offset, 1)));
}

}  // namespace qp
