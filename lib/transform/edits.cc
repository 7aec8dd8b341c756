#include "lib/transform/edits.h"

#include <algorithm>

#include "lib/base/error.h"
#include "lib/base/file.h"
#include "lib/base/parallel.h"
#include "lib/calibration/collector.h"
#include "lib/kernels/forward.h"
#include "lib/kernels/kernels.h"
#include "lib/kernels/source.h"
#include "lib/pipe/handover.h"
#include "lib/qmap/copy.h"
#include "lib/qmap/row_jobs.h"
#include "lib/qmap/writer.h"

namespace qp::transform {

using engine::Form, engine::WeightUse;

namespace {

constexpr uint64_t kChunkBytes = 1 << 20;

void multiply(std::vector<float>& factors, const std::vector<float>& by) {
  if (factors.empty())
    factors = by;
  else
    for (size_t i = 0; i < by.size(); ++i) factors[i] *= by[i];
}

bool fits(const std::vector<float>& factors, size_t n) {
  return factors.empty() || factors.size() == n;
}

}  // namespace

void Edits::add(const WeightUse& use, Edit edit) {
  if (!fits(edit.rows, use.form == Form::matrix ? use.rows : 1) || !fits(edit.cols, use.cols)) {
    throw defect_error("factors that do not fit " + use.tensor);
  }
  std::vector<Block>& blocks = edits_[use.tensor];
  auto it = std::ranges::find_if(blocks,
                                 [&](const Block& b) { return b.use.first_row == use.first_row; });
  if (it == blocks.end()) {
    blocks.push_back({use, std::move(edit)});
    return;
  }
  multiply(it->edit.rows, edit.rows);
  multiply(it->edit.cols, edit.cols);
  if (edit.turn_rows) it->edit.turn_rows = edit.turn_rows;
  if (edit.turn_cols) it->edit.turn_cols = edit.turn_cols;
  it->edit.plus = edit.plus;
}

void Edits::pre_scale(const WeightUse& use, std::vector<float> scale) {
  std::vector<float> inverse(scale.size());
  for (size_t c = 0; c < scale.size(); ++c) inverse[c] = 1 / scale[c];
  add(use, {.rows = {}, .cols = std::move(inverse), .turn_rows = {}, .turn_cols = {}});
  pre_scales_[use.tensor] = std::move(scale);
}

void Edits::inputs(const std::vector<std::string>& modules, std::vector<float> factors) {
  for (const std::string& m : modules) inputs_[m] = factors;
}

Hash128 Edits::hash() const {
  Hasher128 h;
  auto floats = [&](const std::vector<float>& v) { h.update(std::as_bytes(std::span(v))); };
  for (const auto& [tensor, blocks] : edits_) {
    h.update(std::as_bytes(std::span(tensor)));
    for (const Block& b : blocks) {
      uint64_t row = b.use.first_row,
               turned = (b.edit.turn_rows ? 1u : 0u) + (b.edit.turn_cols ? 2u : 0u);
      h.update(std::as_bytes(std::span(&row, 1)));
      h.update(std::as_bytes(std::span(&turned, 1)));
      floats(b.edit.rows);
      floats(b.edit.cols);
      if (b.edit.turn_rows) floats(b.edit.turn_rows->signs());
      if (b.edit.turn_cols) floats(b.edit.turn_cols->signs());
    }
  }
  for (const auto& [tensor, scale] : pre_scales_) {
    h.update(std::as_bytes(std::span(tensor)));
    floats(scale);
  }
  return h.digest();
}

// Writes the edited tensors into a qmap without a name.
class Editor {
 public:
  Editor(const Store& store, const Edits& edits, uint64_t memory, Progress& progress)
      : store_(store), edits_(edits), memory_(memory), progress_(progress), fd_(make_spill()),
        writer_(fd_.get(), spill_directory()), model_(store.model()) {}

  std::unique_ptr<Store> run() {
    std::map<std::string, const Tensor*> sources;
    for (const Tensor& t : store_.model().tensors) sources[t.name] = &t;
    refer();
    if (const auto& [from, to] = edits_.untied_; !to.empty()) {
      Tensor t = *sources.at(from);
      t.name = to;
      t.source = from;
      sources[to] = sources.at(from);
      model_.tensors.push_back(std::move(t));
      untie_config();
    }
    std::vector<size_t> edited;
    uint64_t bytes = 0;
    for (size_t i = 0; i < model_.tensors.size(); ++i) {
      Tensor& t = model_.tensors[i];
      if (!edits_.edits_.contains(t.name)) continue;
      if (t.quantized())
        throw refused(t, "is already quantized").hint("load it with qload --dequantize");
      t.dequantize = t.transposed = false;
      t.scheme = -1;
      t.parts = {Part{Role::data, t.dtype, t.shape, {}, nullptr}};
      t.parts[0].extent = writer_.place(*byte_size(t.dtype, t.shape));
      bytes += t.parts[0].extent.length;
      if (auto it = edits_.pre_scales_.find(t.name); it != edits_.pre_scales_.end()) {
        t.parts.push_back(pre_scale(t, it->second));
      }
      edited.push_back(i);
    }
    writer_.reserve();
    progress_.begin("editing weights", bytes);
    for (size_t i : edited) {
      progress_.item(model_.tensors[i].name);
      edit(*sources.at(model_.tensors[i].name), model_.tensors[i]);
    }
    progress_.end();
    statistics();
    store_.throw_if_changed();
    writer_.finish(model_, "/", true, false);
    // A name that is no path: nothing outside this process may refer to it.
    auto self = MappedFile::adopt(std::move(fd_), "edited weights of " + store_.label());
    return std::make_unique<Store>(std::move(model_), std::move(self), store_.label());
  }

 private:
  Error refused(const Tensor& t, const std::string& why) const {
    return limit_error(why).file(store_.where(t)).tensor(t.name);
  }

  // Without a quantization that keeps it, the values are data * pre_scale: the model computes as before.
  Part pre_scale(const Tensor& t, const std::vector<float>& scale) {
    std::vector<std::byte> bytes(scale.size() * dtype_bits(t.dtype) / 8);
    kernels::active().from_f32(source_of(t), scale.data(), scale.size(), bytes.data());
    return {Role::pre_scale, t.dtype, Shape{scale.size()}, writer_.append(bytes), nullptr};
  }

  // Everything that stays is referred to, or copied from a qmap without a name.
  void refer() {
    Model kept = store_.model();
    kept.tensors = std::move(model_.tensors);
    std::vector<std::pair<size_t, Tensor>> copied;
    for (size_t i = 0; i < kept.tensors.size(); ++i) {
      if (edits_.edits_.contains(kept.tensors[i].name)) continue;
      bool copy = false;
      Tensor from = kept.tensors[i];
      for (Part& p : kept.tensors[i].parts) copy = refer_extent(store_, kept, p.extent) || copy;
      if (!copy) continue;
      kept.tensors[i] = place_copy(from, writer_);
      copied.emplace_back(i, std::move(from));
    }
    for (size_t i = 0; i < kept.companions.size(); ++i) {
      Companion& c = kept.companions[i];
      if (c.extent.file == kBlob || !refer_extent(store_, kept, c.extent)) continue;
      copy_companion(store_, store_.model().companions[i], c, writer_);
    }
    writer_.reserve();
    for (auto& [i, from] : copied)
      copy_tensor(store_, from, kept.tensors[i], writer_, [](uint64_t) {});
    carry_calibration(store_, kept, writer_, false);
    model_ = std::move(kept);
  }

  // config.json says that head and embedding are two.
  void untie_config() {
    for (Companion& c : model_.companions) {
      if (c.name != "config.json") continue;
      Json config = parse_json(store_.text(store_.model().companion(c.name)->extent), c.name);
      config["tie_word_embeddings"] = false;
      if (config.contains("text_config")) config["text_config"]["tie_word_embeddings"] = false;
      std::string text = config.dump(2) + "\n";
      c.extent = writer_.append(std::as_bytes(std::span(text)));
      model_.config = std::move(config);
    }
  }

  void edit(const Tensor& from, Tensor& to) {
    for (const Part& p : from.parts) store_.verify(from, p);
    const std::vector<Edits::Block>& blocks = edits_.edits_.at(to.name);
    bool whole = blocks.front().use.form == Form::values;
    for (const Edits::Block& b : blocks) whole = whole || turns_rows(b);
    try {
      whole ? edit_whole(from, to, blocks) : edit_rows(from, to, blocks);
    } catch (Error& e) {
      store_.throw_if_changed(from);
      throw std::move(e).file(store_.where(from)).tensor(from.name);
    }
  }

  // Of the stored rows: those of a tensor stored [in, out] are the inputs.
  static bool turns_rows(const Edits::Block& b) {
    return (b.use.transposed ? b.edit.turn_cols : b.edit.turn_rows) != nullptr;
  }

  static void edit_row(const Edits::Block& b, size_t row, float* x, size_t n) {
    const std::vector<float>& by_row = b.use.transposed ? b.edit.cols : b.edit.rows;
    const std::vector<float>& by_col = b.use.transposed ? b.edit.rows : b.edit.cols;
    float factor = by_row.empty() ? 1 : by_row[row];
    for (size_t i = 0; i < n && factor != 1; ++i) x[i] *= factor;
    for (size_t i = 0; i < n && !by_col.empty(); ++i) {
      x[i] = b.edit.plus == 0 ? x[i] * by_col[i] : (x[i] + b.edit.plus) * by_col[i] - b.edit.plus;
    }
    const auto& turn = b.use.transposed ? b.edit.turn_rows : b.edit.turn_cols;
    if (turn) turn->turn(x);
  }

  // The block that a stored row belongs to; null: none.
  static const Edits::Block* block_of(const std::vector<Edits::Block>& blocks, size_t row) {
    for (const Edits::Block& b : blocks) {
      size_t rows = b.use.transposed ? b.use.cols : b.use.rows;
      if (row >= b.use.first_row && row < b.use.first_row + rows) return &b;
    }
    return nullptr;
  }

  // f32 to the tensor's dtype. `values` are lost.
  void encode(const Tensor& to, std::vector<float>& values, std::vector<std::byte>& out) const {
    const kernels::Table& k = kernels::active();
    kernels::Src src = source_of(to);
    out.resize(values.size() * dtype_bits(to.dtype) / 8);
    k.from_f32(src, values.data(), values.size(), out.data());
    k.to_f32(src, out.data(), values.size(), values.data());
    if (!kernels::forward().all_finite(values.data(), values.size())) {
      throw limit_error("a value does not fit " + std::string(dtype_name(to.dtype)) +
                        " once it is edited");
    }
  }

  static void check_finite(const std::vector<float>& values) {
    if (kernels::forward().all_finite(values.data(), values.size())) return;
    throw input_error("holds values that are not finite (NaN, infinity), which an edit would spread")
        .hint("the source is damaged; qverify finds where");
  }

  static kernels::Src source_of(const Tensor& t) {
    if (auto src = kernel_source(t.dtype)) return *src;
    throw limit_error("is " + std::string(dtype_name(t.dtype)) + ", whose values cannot be edited");
  }

  void edit_rows(const Tensor& from, Tensor& to, const std::vector<Edits::Block>& blocks) {
    RowSource source(store_, from);
    size_t cols = source.cols();
    uint64_t begin = to.parts[0].extent.offset;
    kernels::Src src = source_of(from);
    struct Room {
      std::vector<float> values;
      std::vector<std::byte> out;
    };
    std::vector<Room> rooms(static_cast<size_t>(ordered_slots()));
    Hasher64 hasher;
    auto work = [&](const RowChunk& chunk) {
      Room& room = rooms[chunk.slot];
      room.values.resize(chunk.count * cols);
      kernels::active().to_f32(src, chunk.rows.data(), room.values.size(), room.values.data());
      check_finite(room.values);
      for (size_t r = 0; r < chunk.count; ++r) {
        const Edits::Block* b = block_of(blocks, chunk.first + r);
        if (b != nullptr)
          edit_row(*b, chunk.first + r - b->use.first_row, &room.values[r * cols], cols);
      }
      encode(to, room.values, room.out);
    };
    auto retire = [&](const RowChunk& chunk) {
      const std::vector<std::byte>& out = rooms[chunk.slot].out;
      writer_.write(begin + chunk.first * source.row_bytes(), out);
      hasher.update(out);
    };
    for_row_chunks(source, kChunkBytes, work, retire);
    to.parts[0].extent.xxh3 = hasher.digest();
    progress_.add(to.parts[0].extent.length);
  }

  // Block by block (experts of a stack): all rows of one are needed at once. Rows between are
  // copied.
  void edit_whole(const Tensor& from, Tensor& to, std::vector<Edits::Block> blocks) {
    RowSource source(store_, from);
    bool vector = blocks.front().use.form == Form::values;
    size_t at = 0;
    hasher_ = {};
    std::ranges::sort(blocks, {}, [](const Edits::Block& b) { return b.use.first_row; });
    for (const Edits::Block& b : blocks) {
      if (vector) continue;
      edit_part(source, to, at, b.use.first_row, nullptr);
      at = b.use.first_row + (b.use.transposed ? b.use.cols : b.use.rows);
      edit_part(source, to, b.use.first_row, at, &b);
    }
    if (!vector)
      edit_part(source, to, at, source.rows(), nullptr);
    else
      edit_vectors(source, to, blocks);
    to.parts[0].extent.xxh3 = hasher_.digest();
    progress_.add(to.parts[0].extent.length);
  }

  std::vector<float> values(const RowSource& source, size_t first, size_t last) const {
    size_t cols = source.cols();
    uint64_t need = uint64_t{last - first} * cols *
                    (sizeof(float) + source.row_bytes() / std::max<size_t>(1, cols));
    if (need > memory_) {
      std::string least = std::to_string(need / 1'000'000 + 1) + "MB";
      throw limit_error("needs " + least + " of memory to be rotated (allowed are " +
                        std::to_string(memory_ / 1'000'000) + "MB)")
          .hint("use --max-memory " + least + " or more");
    }
    std::vector<float> all = read_f32(source, first, last - first);
    check_finite(all);
    return all;
  }

  // In the order of rows.
  void write_rows(const RowSource& source, const Tensor& to, size_t first, std::vector<float> all) {
    std::vector<std::byte> out;
    encode(to, all, out);
    writer_.write(to.parts[0].extent.offset + first * source.row_bytes(), out);
    hasher_.update(out);
  }

  // Stored rows [first, last), by `b` or as they are.
  void edit_part(const RowSource& source, const Tensor& to, size_t first, size_t last,
                 const Edits::Block* b) {
    size_t cols = source.cols();
    if (b == nullptr) {
      size_t chunk = std::max<size_t>(1, kChunkBytes / std::max<uint64_t>(1, source.row_bytes()));
      for (; first < last; first += chunk)
        write_rows(source, to, first, values(source, first, std::min(last, first + chunk)));
      return;
    }
    std::vector<float> all = values(source, first, last);
    parallel_for(last - first,
                 [&](size_t r, int) { edit_row(*b, r, all.data() + r * cols, cols); });
    const auto& turn = b->use.transposed ? b->edit.turn_cols : b->edit.turn_rows;
    if (turn) turn->turn_rows(all.data(), cols);
    write_rows(source, to, first, std::move(all));
  }

  // Stored as [n], [1, n], [n, 1] or in a stack of such.
  void edit_vectors(const RowSource& source, const Tensor& to,
                    const std::vector<Edits::Block>& blocks) {
    std::vector<float> all = values(source, 0, source.rows());
    for (const Edits::Block& b : blocks)
      edit_row(b, 0, all.data() + b.use.first_row * b.use.cols, b.use.cols);
    write_rows(source, to, 0, std::move(all));
  }

  // Sums of what enters edited linears follow.
  void statistics() {
    bool changed = edits_.drop_ || edits_.drop_caches_ || !edits_.inputs_.empty();
    if (!model_.calibration || !changed) return;
    Calibration c = *model_.calibration;
    if (edits_.drop_ || edits_.drop_caches_) c.caches.clear();
    if (edits_.drop_) {
      c.inputs.clear();
      c.routers.clear();
    }
    std::vector<InputStatistics> inputs = std::move(c.inputs);
    c.inputs.clear();
    for (InputStatistics& s : inputs) {
      auto it = edits_.inputs_.find(s.module);
      for (size_t i = 0; it == edits_.inputs_.end() && i < s.readers.size(); ++i) {
        it = edits_.inputs_.find(s.readers[i]);
      }
      bool kept = it == edits_.inputs_.end() || follow(s, it->second, c.windows);
      if (kept) c.inputs.push_back(std::move(s));
    }
    model_.calibration = std::make_shared<const Calibration>(std::move(c));
  }

  // False where the range of all channels is not their maximum: what a histogram says does not
  // follow.
  bool follow(InputStatistics& s, const std::vector<float>& factors, uint64_t windows) {
    const Calibration& was = *store_.model().calibration;
    auto original = std::ranges::find(was.inputs, s.module, &InputStatistics::module);
    std::span<const std::byte> bytes = store_.stored(original->extent);
    InputSums sums = unpack(*original, bytes, windows);
    float most = 0, before = 0;
    for (size_t i = 0; i < sums.amax.size(); ++i) {
      before = std::max(before, sums.amax[i]);
      sums.amax[i] *= factors[i];
      most = std::max(most, sums.amax[i]);
      double f = static_cast<double>(factors[i]);
      sums.sum_abs[i] = to_fixed(from_fixed(sums.sum_abs[i]) * f);
      sums.sum_sq[i] = to_fixed(from_fixed(sums.sum_sq[i]) * f * f);
    }
    if (s.rows > 0 && s.observed != before) return false;
    std::fill(sums.history.begin(), sums.history.end(), 0.0f);
    if (!sums.history.empty()) sums.history[0] = most;
    sums.bins.clear();
    InputStatistics meta = s;
    std::vector<std::byte> packed = pack(sums, meta);
    meta.extent = writer_.append(packed);
    meta.observed = most;
    s = std::move(meta);
    return true;
  }

  const Store& store_;
  const Edits& edits_;
  uint64_t memory_;
  Progress& progress_;
  Fd fd_;
  QmapWriter writer_;
  Model model_;
  Hasher64 hasher_;  // of the tensor that is written in parts
};

std::unique_ptr<Store> edited(const Store& store, const Edits& edits, uint64_t memory,
                              Progress& progress) {
  return Editor(store, edits, memory, progress).run();
}

}  // namespace qp::transform
