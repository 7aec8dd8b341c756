#include <algorithm>
#include <cstring>
#include <vector>

#include "formats/hf/int_modules.h"
#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/layout/bits.h"

namespace qp {
namespace {

using Zeros = GptqStored::Zeros;

constexpr uint64_t kMaxSmall = uint64_t{1} << 30;  // zero points of one tensor

// Shape of the codes from qweight [K * b / 32, N]. Marlin's is [K / 16, 2 N].
std::pair<uint64_t, uint64_t> matrix_of(const RawModule& m, const GptqStored& s) {
  const char* name = s.marlin ? "B" : "qweight";
  const Tensor& raw = m.at(name);
  if (raw.shape.rank() != 2)
    m.fail("its " + std::string(name) + " is no matrix (found " + raw.shape.str() + ")");
  uint64_t lines = raw.shape[0], width = raw.shape[1];
  if (lines > uint64_t{1} << 40 || width > uint64_t{1} << 40)
    m.fail("its " + std::string(name) + " is too large");
  if (s.marlin) return {width / 2, lines * 16};
  uint64_t stream = lines * 32;
  if (stream % static_cast<uint64_t>(s.args.bits) != 0) {
    m.fail("its qweight has " + std::to_string(lines) + " rows, no whole number of " +
           std::to_string(s.args.bits) + "-bit codes");
  }
  return {width, stream / static_cast<uint64_t>(s.args.bits)};
}

// Every zero point is looked at once: the one that a symmetric config promises, and none that its
// bits cannot hold.
void check_zeros(const Model& model, const RawModule& m, const GptqStored& s, const LayoutArgs& a) {
  std::vector<std::byte> bytes = read_small(model, m, "qzeros", kMaxSmall);
  uint64_t line = bytes.size() / std::max<uint64_t>(a.cols, 1);
  int bits = s.args.bits;
  auto bias = static_cast<uint32_t>(s.zeros == Zeros::v2 ? 0 : 1), centre = 1u << (bits - 1);
  auto not_centre = [&](uint32_t z, uint64_t r) {
    m.fail("has a zero point of " + std::to_string(z) + " in row " + std::to_string(r) +
           ", but its config says sym (expected " + std::to_string(centre) + " everywhere)");
  };
  if (s.args.symmetric && s.planar) {
    std::vector<std::byte> zeros(a.rows * a.cols);
    gptq_planar_zeros_layout.decode(a, bytes.data(), 0, a.rows, zeros.data());
    for (uint64_t i = 0; i < zeros.size(); ++i) {
      auto z = std::to_integer<uint32_t>(zeros[i]);
      if (z != centre) not_centre(z, i / a.cols);
    }
    return;
  }
  if (s.args.symmetric) {
    std::vector<std::byte> want(line);
    for (uint64_t r = 0; r < a.rows; ++r) layout::set(want.data(), r, bits, centre - bias);
    uint64_t whole = a.rows * static_cast<uint64_t>(bits) / 8;
    for (uint64_t g = 0; g < a.cols; ++g) {
      if (std::memcmp(&bytes[g * line], want.data(), whole) == 0) continue;
      for (uint64_t r = 0; r < a.rows; ++r) {
        uint32_t z = layout::get(&bytes[g * line], r, bits) + bias;
        if (z != centre) not_centre(z, r);
      }
    }
    return;
  }
  if (s.zeros != Zeros::v1) return;  // no other field can be out of range
  for (uint64_t g = 0; g < a.cols; ++g) {
    for (uint64_t r = 0; r < a.rows; ++r) {
      if (layout::get(&bytes[g * line], r, bits) + 1 < 1u << bits) continue;
      m.fail("has a zero point of " + std::to_string(1u << bits) + " in row " + std::to_string(r) +
             ", which " + std::to_string(bits) + " bits cannot hold (stored field " +
             std::to_string((1u << bits) - 1) +
             " of checkpoint_format gptq: some programs mean 0 by it)");
    }
  }
}

Part zero_point(const Model& model, const RawModule& m, const GptqStored& s, uint64_t rows,
                uint64_t groups, const LoadOptions& options) {
  bool words = s.zeros == Zeros::v1_words;
  LayoutArgs a{.rows = rows,
               .cols = groups,
               .stored_bits = s.args.bits,
               .bias = s.zeros == Zeros::v1 ? 1u : 0u};
  uint64_t width = ceil_div(rows * static_cast<uint64_t>(s.args.bits), 32);
  Shape shape{groups, width};
  Part p = s.planar ? m.laid_out("qzeros", Role::zero_point, DType::i32, shape,
                                 gptq_planar_zeros_layout, a)
                    : m.laid_out("qzeros", Role::zero_point, DType::i32, shape,
                                 words ? gptq_zeros_word_layout : gptq_zeros_layout, a);
  if (!options.list_only) check_zeros(model, m, s, a);
  return p;
}

// The group of each column, when it is not column / group.
void add_g_idx(const Model& model, const RawModule& m, const GptqStored& s, uint64_t cols,
               uint64_t groups, Tensor& t, const LoadOptions& options) {
  if (!m.has("g_idx")) {
    if (s.needs_g_idx) m.fail("has no g_idx");
    return;
  }
  Part p = m.part("g_idx", Role::g_idx, DType::i32, Shape{cols});
  if (options.list_only) return;
  std::vector<std::byte> bytes = read_small(model, m, "g_idx");
  uint64_t group = s.args.group_size > 0 ? static_cast<uint64_t>(s.args.group_size)
                                         : std::max<uint64_t>(cols, 1);
  bool trivial = true;
  for (uint64_t c = 0; c < cols; ++c) {
    auto g = static_cast<int32_t>(layout::load32(&bytes[c * 4]));
    if (g < 0 || static_cast<uint64_t>(g) >= groups) {
      m.fail("its g_idx names group " + std::to_string(g) + " for column " + std::to_string(c) +
             " (there are " + std::to_string(groups) + ")");
    }
    trivial = trivial && static_cast<uint64_t>(g) == c / group;
  }
  if (trivial) return;
  if (!s.act_order)
    m.fail("its g_idx is not column / group size, but its config says desc_act false");
  t.parts.push_back(std::move(p));
}

}  // namespace

Scheme int_scheme(const IntArgs& args, std::string_view numerics) {
  if (args.bits < 2 || args.bits > 8) {
    throw input_error("'bits' of its quantization config is out of range (expected 2 to 8, found " +
                      std::to_string(args.bits) + ")");
  }
  if (args.group_size < -1 || args.group_size == 0 || args.group_size > 1 << 20) {
    throw input_error(
        "'group_size' of its quantization config is out of range (expected -1 or a positive "
        "number, found " +
        std::to_string(args.group_size) + ")");
  }
  Scheme s;
  s.numerics = numerics;
  s.name = std::string(numerics) + "-w" + std::to_string(args.bits);
  s.weights.num_bits = args.bits;
  s.weights.symmetric = args.symmetric;
  s.weights.strategy = args.group_size < 0 ? Strategy::channel : Strategy::group;
  s.weights.group_size = args.group_size < 0 ? 0 : static_cast<int>(args.group_size);
  return s;
}

uint64_t int_groups(const IntArgs& args, uint64_t cols) {
  return args.group_size < 0 ? 1 : ceil_div(cols, static_cast<uint64_t>(args.group_size));
}

Tensor start_int(Model& model, const IntArgs& args, std::string_view family, uint64_t rows,
                 uint64_t cols) {
  Tensor t;
  t.scheme = model.scheme_index(int_scheme(args, family));
  t.dtype = model_dtype(model);
  t.shape = Shape{rows, cols};
  return t;
}

Tensor read_gptq(Model& model, const RawModule& m, const GptqStored& s, std::string_view family,
                 const LoadOptions& options) {
  int_scheme(s.args, family);  // the numbers below are in range
  if (m.has("B") != s.marlin)
    m.fail(s.marlin ? "has a qweight, but its config says marlin"
                    : "has a B, but its config does not say marlin");
  auto [rows, cols] = matrix_of(m, s);
  uint64_t groups = int_groups(s.args, cols);
  Tensor t = start_int(model, s.args, family, rows, cols);
  LayoutArgs codes{.rows = rows, .cols = cols, .bits = s.args.bits, .stored_bits = s.args.bits};
  if (s.marlin) {
    if (s.args.bits != 4 || !s.args.symmetric) m.fail("is marlin, but not of 4 bits and symmetric");
    t.parts.push_back(
        m.laid_out("B", Role::codes, DType::i32, m.at("B").shape, marlin_layout, codes));
    Part scale = m.laid_out("s", Role::scale, DType::f16, Shape{groups, rows}, marlin_scales_layout,
                            {.rows = rows, .cols = groups, .bits = 16, .stored_bits = 16});
    scale.dtype = DType::f16;
    scale.shape = Shape{rows, groups};
    t.parts.push_back(std::move(scale));
  } else {
    t.parts.push_back(m.laid_out("qweight", Role::codes, DType::i32, m.at("qweight").shape,
                                 s.planar ? gptq_planar_layout : gptq_layout, codes));
    t.parts.push_back(m.transposed("scales", Role::scale, rows, groups));
    Part zeros = zero_point(model, m, s, rows, groups, options);
    if (!s.args.symmetric) t.parts.push_back(std::move(zeros));
    add_g_idx(model, m, s, cols, groups, t, options);
  }
  finish_quantized(t, options, std::string(family));
  return t;
}

void write_gptq(const IntWeight& w, bool v2, bool g_idx, ExportPlan& plan) {
  auto bits = static_cast<uint64_t>(w.bits());
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    w.refuse("has " + std::to_string(bits) + "-bit codes", "widen them with --num-bits 8");
  }
  if (w.rows() * bits % 32 != 0) {
    w.refuse("has " + std::to_string(w.rows()) + " rows, whose " + std::to_string(bits) +
                 "-bit zero points do not fill whole words",
             "leave it unquantized with --ignore");
  }
  if (w.g_idx() != nullptr && !g_idx)
    w.refuse("has groups in the order of g_idx", "choose -f gptq");
  plan.tensors.push_back(
      w.codes("qweight", DType::i32, Shape{w.cols() * bits / 32, w.rows()}, gptq_layout));
  plan.tensors.push_back(
      w.zeros("qzeros", Shape{w.groups(), w.rows() * bits / 32}, gptq_zeros_layout, v2 ? 0 : 1));
  plan.tensors.push_back(w.scales("scales"));
  if (g_idx) plan.tensors.push_back(w.group_index("g_idx"));
}

void note_quantized(const Tensor& t, size_t first, ExportPlan& plan) {
  std::string names;
  for (size_t i = first; i < plan.tensors.size(); ++i)
    names += (names.empty() ? "" : " ") + plan.tensors[i].name;
  plan.ledger.push_back({t.name, "quantized", names});
}

}  // namespace qp
