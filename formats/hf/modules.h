// What readers of quantized checkpoints share: the raw tensors of a module become one tensor.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "formats/format.h"

namespace qp {

// The raw tensors of one quantized linear, by suffix ("qweight", "scales" ..), as they are stored.
class RawModule {
 public:
  std::string name;  // "model.layers.0.mlp.up_proj"

  bool has(std::string_view suffix) const { return find(suffix) != nullptr; }
  const Tensor* find(std::string_view suffix) const;  // null when it is not there
  // Errors: input, naming the missing companion.
  const Tensor& at(std::string_view suffix) const;
  // The part of a raw tensor, for a role, after a check of its dtype and shape.
  // Errors: input, "its qzeros does not fit (expected I32 [32, 512], found ..)".
  Part part(std::string_view suffix, Role role, DType dtype, const Shape& shape) const;
  // The same for any float dtype, which is kept. A shape of as many elements fits, too.
  Part float_part(std::string_view suffix, Role role, const Shape& shape) const;
  // Stored as `dtype` and `shape`, codes or zero points of `args` in `layout`.
  Part laid_out(std::string_view suffix, Role role, DType dtype, const Shape& shape,
                const Layout& layout, const LayoutArgs& args) const;
  // Matrix [rows, cols] stored transposed as a float [cols, rows].
  Part transposed(std::string_view suffix, Role role, uint64_t rows, uint64_t cols) const;
  [[noreturn]] void fail(const std::string& what) const;  // errors: input, naming the module

  std::map<std::string, Tensor*, std::less<>> tensors;
};

// Which raw tensors belong to quantized linears: `root` (one or more spellings, first found) makes
// a module quantized; `parts` are its other tensors. What else a quantized module has but `bias`
// and `keep` is an error: extra tensors are not dropped in silence.
struct ModuleSuffixes {
  std::span<const std::string_view> root;
  std::span<const std::string_view> parts;
  std::span<const std::string_view> keep = {};
};

// Replaces the raw tensors of every quantized module by what `build` makes of them, in the place of
// the root; the name is the module's with ".weight" unless `build` set one. An empty name means:
// no, leave this module's tensors as they are. Errors: input; those of build.
void assemble(Model& model, const ModuleSuffixes& suffixes,
              const std::function<Tensor(const RawModule&)>& build);

// A small part whose bytes were computed: they live in Model::blobs.
Part blob_part(Model& model, Role role, DType dtype, const Shape& shape,
               std::span<const std::byte> bytes);

// The bytes of a small stored part (scalars, indices): at most `limit`. Errors: input, system.
std::vector<std::byte> read_small(const Model& model, const RawModule& module,
                                  std::string_view suffix, uint64_t limit = uint64_t{1} << 26);

// The dtype that config.json gives the model's values, or `otherwise` when it says nothing.
DType model_dtype(const Model& model, DType otherwise = DType::bf16);

// Marks a tensor decode-on-read when options ask for it, and says where it came from.
void finish_quantized(Tensor& tensor, const LoadOptions& options, const std::string& kind);

}  // namespace qp
