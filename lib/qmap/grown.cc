#include "lib/qmap/grown.h"

#include <algorithm>
#include <cstring>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/layout/bits.h"

namespace qp {
namespace {

Part grow(const Part& from, const Shape& shape, uint64_t repeat, std::vector<std::byte> fill) {
  Decode d;
  d.stored = from.dtype;
  d.grown = std::make_shared<const Grown>(Grown{from, repeat, std::move(fill)});
  Part p = from;
  p.shape = shape;
  p.decode = std::make_shared<const Decode>(std::move(d));
  return p;
}

// Eight codes of zero: whole bytes, whatever the bits.
std::vector<std::byte> zero_codes(const Scheme& s) {
  const QuantArgs& w = s.weights;
  bool centred = s.code_kind() == CodeKind::integer && w.symmetric;
  std::vector<std::byte> bytes(static_cast<size_t>(w.num_bits));
  for (uint64_t i = 0; i < 8 && centred; ++i)
    layout::set(bytes.data(), i, w.num_bits, 1u << (w.num_bits - 1));
  return bytes;
}

bool can_pad(const Scheme& s, const Tensor& t, bool columns) {
  const QuantArgs& w = s.weights;
  if (w.strategy == Strategy::flat || s.code_kind() == CodeKind::codebook) return false;
  if (t.part(Role::g_idx) != nullptr || t.part(Role::offset) != nullptr) return false;
  bool apart = w.strategy != Strategy::block && w.strategy != Strategy::tensor;
  if (!columns) return w.symmetric || apart;  // else rows that are added share a zero point
  uint64_t cols = t.shape.cols();
  bool whole = cols % s.group_of(cols) == 0 && s.group_of(cols) != cols;
  return cols * static_cast<uint64_t>(w.num_bits) % 8 == 0 && (w.symmetric || whole);
}

// The inner rows that rows [first, first + count) are made from; at least one.
ByteRange inner_rows(const Part& p, uint64_t first, uint64_t count) {
  uint64_t rows = p.decode->grown->from.shape.rows();
  uint64_t begin = std::min(first, rows - 1);
  return {begin, std::clamp(first + count, begin + 1, rows)};
}

}  // namespace

std::optional<Tensor> padded(const Model& model, const Tensor& t, const Shape& shape) {
  if (t.transposed || !t.ggml.empty() || t.shape.rank() != shape.rank() || t.shape.rank() > 2 ||
      t.shape.rank() == 0)
    return std::nullopt;
  uint64_t rows = shape.rows(), cols = shape.cols();
  if (t.shape.elements() == 0u || rows < t.shape.rows() || cols < t.shape.cols())
    return std::nullopt;
  Tensor out = t;
  out.shape = shape;
  const std::vector<std::byte> zero(1), last;
  if (t.scheme < 0) {
    if (t.parts.size() != 1) return std::nullopt;
    out.parts = {grow(t.parts.front(), shape, 1, zero)};
    return out;
  }
  const Scheme& s = model.schemes[static_cast<size_t>(t.scheme)];
  if (!can_pad(s, t, cols != t.shape.cols())) return std::nullopt;
  auto specs = part_specs(s, shape, t.dtype);
  for (Part& p : out.parts) {
    auto spec = std::ranges::find(specs, p.role, &PartSpec::role);
    Shape to = p.role == Role::pre_scale ? Shape{cols}
               : spec != specs.end()     ? spec->shape
                                         : p.shape;
    if (p.role == Role::scale_2 && p.shape.elements() != 1u) to = Shape{rows, 1};
    if (to.elements() == p.shape.elements()) continue;
    if (to.rank() != p.shape.rank()) return std::nullopt;
    p = grow(p, to, 1,
             p.role == Role::codes        ? zero_codes(s)
             : p.role == Role::zero_point ? zero
                                          : last);
  }
  return out;
}

void regroup(Model& model, Tensor& t, uint64_t size) {
  if (t.scheme < 0 || t.transposed || t.shape.rank() != 2) return;
  Scheme s = model.schemes[static_cast<size_t>(t.scheme)];
  bool groups = s.weights.strategy == Strategy::group || s.weights.strategy == Strategy::channel;
  if (!groups || s.code_kind() != CodeKind::integer || s.scale_kind() != ScaleKind::source) return;
  uint64_t cols = t.shape.cols(), now = s.group_of(cols);
  if (now == size) return;
  auto refuse = [&](const std::string& why, const std::string& hint) {
    throw limit_error(why).tensor(t.name).hint(hint);
  };
  if (t.part(Role::g_idx) != nullptr)
    refuse("has groups in the order of g_idx, whose scales cannot be repeated",
           "export it without --group-size");
  if (now % size != 0)
    refuse("has groups of " + std::to_string(now) + ", which " + std::to_string(size) +
               " does not divide",
           "choose a --group-size that divides it");
  s.weights.strategy = Strategy::group;
  s.weights.group_size = static_cast<int>(size);
  Shape to{t.shape.rows(), ceil_div(cols, size)};
  for (Part& p : t.parts) {
    bool of_groups = p.role == Role::scale || p.role == Role::zero_point || p.role == Role::offset;
    if (of_groups) p = grow(p, to, now / size, {});
  }
  t.scheme = model.scheme_index(s);
}

std::optional<uint64_t> grown_stored_bytes(const Part& p) {
  const Grown& g = *p.decode->grown;
  if (p.dtype != g.from.dtype || dtype_bits(p.dtype) % 8 != 0 || g.from.shape.rows() == 0 ||
      g.from.shape.cols() == 0 || p.shape.rows() < g.from.shape.rows() || g.repeat == 0)
    return std::nullopt;
  return stored_bytes(g.from);
}

ByteRange grown_range(const Part& p, uint64_t first, uint64_t count) {
  ByteRange rows = inner_rows(p, first, count);
  return stored_range(p.decode->grown->from, rows.begin, rows.end - rows.begin);
}

void decode_grown(const Part& p, std::span<const std::byte> stored, uint64_t first, uint64_t count,
                  std::byte* out) {
  const Grown& g = *p.decode->grown;
  ByteRange rows = inner_rows(p, first, count);
  uint64_t from_bytes = row_bytes(g.from), to_bytes = row_bytes(p), unit = dtype_bits(p.dtype) / 8;
  std::vector<std::byte> inner((rows.end - rows.begin) * from_bytes);
  decode_rows(g.from, stored, rows.begin, rows.end - rows.begin, inner.data());
  for (uint64_t r = first; r < first + count; ++r, out += to_bytes) {
    bool stored_row = r < g.from.shape.rows() || g.fill.empty();
    const std::byte* in =
        inner.data() + (std::min(r, g.from.shape.rows() - 1) - rows.begin) * from_bytes;
    uint64_t at = 0;
    for (uint64_t c = 0; stored_row && c < from_bytes && at < to_bytes; c += unit) {
      for (uint64_t k = 0; k < g.repeat && at < to_bytes; ++k, at += unit)
        std::memcpy(out + at, in + c, unit);
    }
    for (; at < to_bytes && !g.fill.empty(); ++at) out[at] = g.fill[at % g.fill.size()];
    for (; at < to_bytes; at += unit) std::memcpy(out + at, in + from_bytes - unit, unit);
  }
}

}  // namespace qp
