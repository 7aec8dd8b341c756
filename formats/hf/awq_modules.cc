#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <vector>

#include "formats/hf/int_modules.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/layout/bits.h"
#include "lib/qmap/decode.h"

namespace qp {
namespace {

using Version = AwqStored::Version;

constexpr uint64_t kMaxZeros = uint64_t{1} << 30;

const Tensor& matrix(const RawModule& m) {
  const Tensor& raw = m.at("qweight");
  if (raw.shape.rank() != 2) m.fail("its qweight is no matrix (found " + raw.shape.str() + ")");
  for (size_t i : {0u, 1u}) {
    if (raw.shape[i] > uint64_t{1} << 40) m.fail("its qweight is too large");
  }
  return raw;
}

void check_group(const RawModule& m, const IntArgs& args, uint64_t cols) {
  if (args.group_size > 0 && cols % static_cast<uint64_t>(args.group_size) != 0) {
    m.fail("has " + std::to_string(cols) + " columns, no whole number of groups of " +
           std::to_string(args.group_size));
  }
}

// [K, N / 8] words along N.
Tensor read_gemm(Model& model, const RawModule& m, const IntArgs& args, std::string_view family,
                 const LoadOptions& options) {
  const Tensor& raw = matrix(m);
  auto per_word = static_cast<uint64_t>(32 / args.bits);
  uint64_t cols = raw.shape[0], rows = raw.shape[1] * per_word, groups = int_groups(args, cols);
  check_group(m, args, cols);
  Tensor t = start_int(model, args, family, rows, cols);
  t.parts.push_back(
      m.laid_out("qweight", Role::codes, DType::i32, raw.shape, awq_layout,
                 {.rows = rows, .cols = cols, .bits = args.bits, .stored_bits = args.bits}));
  t.parts.push_back(m.transposed("scales", Role::scale, rows, groups));
  Shape shape{groups, raw.shape[1]};
  Part zeros = m.laid_out("qzeros", Role::zero_point, DType::i32, shape, awq_zeros_layout,
                          {.rows = rows, .cols = groups, .stored_bits = args.bits});
  if (!args.symmetric) {
    t.parts.push_back(std::move(zeros));
    return t;
  }
  if (options.list_only) return t;
  uint32_t want = args.bits == 4 ? 0x88888888 : 0x80808080;
  std::vector<std::byte> bytes = read_small(model, m, "qzeros", kMaxZeros);
  for (uint64_t i = 0; i < bytes.size(); i += 4) {
    if (layout::load32(&bytes[i]) == want) continue;
    m.fail("has a zero point other than " + std::to_string(1 << (args.bits - 1)) +
           ", but its config says symmetric");
  }
  return t;
}

// Zero points that were computed here, in the canonical form.
Part made_zeros(Model& model, uint64_t rows, uint64_t groups, std::span<const std::byte> zeros) {
  return blob_part(model, Role::zero_point, DType::u8, Shape{rows, groups}, zeros);
}

// [N, K / 8] words in plain order; zero points and scales padded to whole words of some groups.
Tensor read_gemv(Model& model, const RawModule& m, const IntArgs& args, std::string_view family) {
  const Tensor& raw = matrix(m);
  uint64_t rows = raw.shape[0], cols = raw.shape[1] * 8, groups = int_groups(args, cols);
  check_group(m, args, cols);
  uint64_t unit = args.group_size < 0 || args.group_size >= 128 ? 1 : args.group_size == 64 ? 2 : 4;
  uint64_t words = ceil_div(ceil_div(groups, 8), unit) * unit;
  Tensor t = start_int(model, args, family, rows, cols);
  Part codes = m.part("qweight", Role::codes, DType::i32, raw.shape);
  codes.dtype = DType::u8;
  codes.shape = Shape{rows, cols / 2};
  t.parts.push_back(std::move(codes));
  Part scale = m.float_part("scales", Role::scale, Shape{rows, words * 8});
  Decode padded;
  padded.stored = scale.dtype;
  padded.stored_row_bytes = words * 8 * dtype_bits(scale.dtype) / 8;
  scale.shape = Shape{rows, groups};
  scale.decode = std::make_shared<const Decode>(std::move(padded));
  t.parts.push_back(std::move(scale));
  m.part("qzeros", Role::zero_point, DType::i32, Shape{rows, words});
  std::vector<std::byte> stored = read_small(model, m, "qzeros", kMaxZeros), zeros(rows * groups);
  for (uint64_t r = 0; r < rows; ++r) {
    for (uint64_t g = 0; g < groups; ++g) {
      zeros[r * groups + g] = static_cast<std::byte>(layout::get(&stored[r * words * 4], g, 4));
    }
  }
  t.parts.push_back(made_zeros(model, rows, groups, zeros));
  return t;
}

// Floats of a small stored part as f32.
std::vector<float> small_floats(const Model& model, const RawModule& m, std::string_view suffix) {
  std::vector<std::byte> bytes = read_small(model, m, suffix, kMaxZeros);
  DType dtype = m.at(suffix).dtype;
  std::vector<float> out(bytes.size() / (dtype_bits(dtype) / 8));
  cast_floats(dtype, bytes.data(), out.size(), DType::f32,
              reinterpret_cast<std::byte*>(out.data()));
  return out;
}

// I16 [N / 4, K]; zero points are floats, -(scale * zero), from which the integers come back: a
// relative error of 2^-8 (BF16) is far below 1 / 32.
Tensor read_gemv_fast(Model& model, const RawModule& m, const IntArgs& args,
                      std::string_view family) {
  const Tensor& raw = matrix(m);
  uint64_t rows = raw.shape[0] * 4, cols = raw.shape[1], groups = int_groups(args, cols);
  check_group(m, args, cols);
  Tensor t = start_int(model, args, family, rows, cols);
  t.parts.push_back(m.laid_out("qweight", Role::codes, DType::i16, raw.shape, awq_gemv_fast_layout,
                               {.rows = rows, .cols = cols, .bits = 4, .stored_bits = 4}));
  const Tensor& stored = m.at("scales");
  if (stored.shape.rank() != 2 || stored.shape[1] != rows || stored.shape[0] < groups) {
    m.fail("its scales do not fit (expected a float [" + std::to_string(groups) + " or more, " +
           std::to_string(rows) + "], found " + stored.shape.str() + ")");
  }
  uint64_t lines = stored.shape[0];
  Part scale = m.transposed("scales", Role::scale, rows, lines);
  Decode first = *scale.decode;  // the lines that are not padding
  first.layout_args.cols = groups;
  scale.shape = Shape{rows, groups};
  scale.extent.length = groups * rows * dtype_bits(scale.dtype) / 8;
  scale.decode = std::make_shared<const Decode>(std::move(first));
  t.parts.push_back(std::move(scale));
  m.float_part("qzeros", Role::zero_point, Shape{lines, rows});
  std::vector<float> s = small_floats(model, m, "scales"), sz = small_floats(model, m, "qzeros");
  std::vector<std::byte> zeros(rows * groups);
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t r = 0; r < rows; ++r) {
      float at = s[g * rows + r], z = at == 0 ? 0.0f : -sz[g * rows + r] / at,
            whole = std::nearbyint(z);
      if (!(std::fabs(z - whole) <= 0.1f && whole >= 0 && whole <= 15)) {
        m.fail("has a zero point that is no integer of 4 bits in row " + std::to_string(r) +
               ": qzeros / scales is " + std::to_string(-z));
      }
      zeros[r * groups + g] = static_cast<std::byte>(static_cast<int>(whole));
    }
  }
  t.parts.push_back(made_zeros(model, rows, groups, zeros));
  return t;
}

Tensor read_marlin(Model& model, const RawModule& m, const IntArgs& args, std::string_view family) {
  const Tensor& raw = matrix(m);
  if (m.has("qzeros")) m.fail("has qzeros, which version marlin does not have");
  uint64_t rows = raw.shape[1] / 2, cols = raw.shape[0] * 16, groups = int_groups(args, cols);
  check_group(m, args, cols);
  IntArgs symmetric = args;
  symmetric.symmetric = true;
  Tensor t = start_int(model, symmetric, family, rows, cols);
  t.parts.push_back(m.laid_out("qweight", Role::codes, DType::i32, raw.shape, marlin_layout,
                               {.rows = rows, .cols = cols, .bits = 4, .stored_bits = 4}));
  Part scale =
      m.laid_out("scales", Role::scale, DType::f16, Shape{groups, rows}, marlin_scales_layout,
                 {.rows = rows, .cols = groups, .bits = 16, .stored_bits = 16});
  scale.dtype = DType::f16;
  scale.shape = Shape{rows, groups};
  t.parts.push_back(std::move(scale));
  return t;
}

}  // namespace

Tensor read_awq(Model& model, const RawModule& m, const AwqStored& s, std::string_view family,
                const LoadOptions& options) {
  int_scheme(s.args, family);
  bool wide = s.args.bits == 8 && s.version == Version::gemm;
  if (s.args.bits != 4 && !wide)
    m.fail("has " + std::to_string(s.args.bits) +
           "-bit codes in AWQ's layout (expected 4, or 8 in version gemm)");
  if (m.has("B") || m.has("s") || m.has("g_idx"))
    m.fail("has tensors that AWQ's layout does not have (B, s or g_idx)");
  Tensor t;
  switch (s.version) {
    case Version::gemm: t = read_gemm(model, m, s.args, family, options); break;
    case Version::gemv: t = read_gemv(model, m, s.args, family); break;
    case Version::gemv_fast: t = read_gemv_fast(model, m, s.args, family); break;
    case Version::marlin: t = read_marlin(model, m, s.args, family); break;
  }
  finish_quantized(t, options, std::string(family));
  return t;
}

bool centred_zeros(const Model& model, int bits) {
  std::array<std::byte, 4> want{};
  want.fill(static_cast<std::byte>(bits == 4 ? 0x88 : 0x80));
  for (const Tensor& t : model.tensors) {
    if (!t.name.ends_with(".qzeros") || t.dtype != DType::i32) continue;
    const Extent& e = t.parts.front().extent;
    if (e.file == kBlob || e.file == 0 || e.file > model.files.size()) return false;
    auto file = MappedFile::open(model.files[e.file - 1].path);
    if (e.offset > file->size() || e.length > file->size() - e.offset) return false;
    auto bytes = file->bytes().subspan(e.offset, e.length);
    for (uint64_t i = 0; i + 4 <= bytes.size(); i += 4) {
      if (std::memcmp(&bytes[i], want.data(), 4) != 0) return false;
    }
  }
  return true;
}

void write_awq(const IntWeight& w, ExportPlan& plan) {
  auto bits = static_cast<uint64_t>(w.bits());
  if (bits != 4 && bits != 8) {
    w.refuse("has " + std::to_string(bits) + "-bit codes",
             bits < 4 ? "widen them with --num-bits 4" : "choose -f gptq");
  }
  if (w.g_idx() != nullptr) w.refuse("has groups in the order of g_idx", "choose -f gptq");
  if (w.group_size() > 0 && w.cols() % static_cast<uint64_t>(w.group_size()) != 0) {
    w.refuse("has " + std::to_string(w.cols()) + " columns, no whole number of groups of " +
                 std::to_string(w.group_size()),
             "leave it unquantized with --ignore");
  }
  uint64_t words = w.rows() * bits / 32;
  plan.tensors.push_back(w.codes("qweight", DType::i32, Shape{w.cols(), words}, awq_layout));
  plan.tensors.push_back(w.zeros("qzeros", Shape{w.groups(), words}, awq_zeros_layout, 0));
  plan.tensors.push_back(w.scales("scales"));
}

}  // namespace qp
