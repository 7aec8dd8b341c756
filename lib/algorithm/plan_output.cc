#include "lib/algorithm/plan_output.h"

#include <algorithm>
#include <map>

#include "lib/algorithm/gptq_matrix.h"
#include "lib/algorithm/quantizer.h"
#include "lib/algorithm/read_matrix.h"
#include "lib/arch/arch.h"
#include "lib/base/error.h"
#include "lib/base/parallel.h"
#include "lib/calibration/calibrate.h"
#include "lib/config/algorithms.h"
#include "lib/kernels/kernels.h"
#include "lib/model/modules.h"
#include "lib/qmap/copy.h"
#include "lib/qmap/decode.h"
#include "lib/qmap/identity.h"
#include "lib/qmap/stacks.h"

namespace qp {
namespace {

constexpr uint64_t kBigCompanion = 64 << 20;

}  // namespace

PlanOutput::PlanOutput(const Store& store, const PlanRun& run, Progress& progress,
                       std::map<std::string, float>& maxima, std::function<void()> flush)
    : store_(store), plan_(*run.plan), options_(run.options), output_(*run.output),
      progress_(progress), activations_(store, plan_), importance_(store),
      ranges_(store, plan_, std::move(flush), &maxima), writer_(output_.fd(), output_.label()),
      scratch_(static_cast<size_t>(ordered_slots())) {}

PlanOutput::~PlanOutput() = default;

void PlanOutput::begin() {
  prepare_layers();
  lay_out();
  writer_.reserve();
  open_journal();
}

QuantizeResult PlanOutput::finish() {
  if (journal_) journal_->stop_sync();
  Hash128 id = writer_.finish(model_, output_.base(), output_.unnamed(), output_.sync());
  return {id, writer_.end(), resumed_};
}

// Every offset is fixed here, before any weight is read.
void PlanOutput::lay_out() {
  const Model& from = store_.model();
  model_.format = from.format;
  model_.architecture = from.architecture;
  model_.schemes = from.schemes;
  model_.dropped = from.dropped;
  model_.kv_cache = from.kv_cache;
  model_.provenance = from.provenance;
  model_.provenance.push_back(options_.provenance);
  auto refers = [&](const Companion& c) {
    return options_.refer || (options_.refer_big_companions && c.extent.length >= kBigCompanion);
  };
  if (options_.refer || std::ranges::any_of(from.companions, refers)) model_.files = from.files;
  for (const Companion& c : from.companions) {
    Companion to = c;
    if (!refers(c) || refer_extent(store_, model_, to.extent)) {
      copy_companion(store_, c, to, writer_);
    }
    model_.companions.push_back(std::move(to));
  }
  auto scaled = pre_scales(from);
  model_.tensors.reserve(plan_.entries.size());
  for (const PlanEntry& e : plan_.entries) {
    Tensor t = *e.tensor;
    if (e.scheme >= 0) {
      const Scheme& scheme = plan_.schemes[static_cast<size_t>(e.scheme)];
      t.ggml = scheme.ggml;
      t.scheme = scheme.ggml.empty() ? model_.scheme_index(scheme) : -1;
      t.dequantize = false;
      if (e.source != e.tensor) t.transposed = true;
      t.parts.clear();
      for (const PartSpec& spec : part_specs(scheme, e.source->shape, t.dtype)) {
        Part p{spec.role, spec.dtype, spec.shape, {}, nullptr};
        p.extent = writer_.place(*byte_size(spec.dtype, spec.shape));
        t.parts.push_back(std::move(p));
      }
      size_t index = model_.tensors.size();
      for (const PartSpec& spec : layer_parts(index, scheme)) {
        Part p{spec.role, spec.dtype, spec.shape, {}, nullptr};
        p.extent = writer_.place(*byte_size(spec.dtype, spec.shape));
        t.parts.push_back(std::move(p));
      }
      if (auto it = scaled.find(t.name); it != scaled.end()) {
        const Part& p = *it->second;
        t.parts.push_back(computed({p.role, p.dtype, p.shape}, store_.stored(p.extent)));
      }
      for (const ComputedPart& c : activations_.parts(e, scheme))
        t.parts.push_back(computed(c.spec, c.bytes));
    } else {
      bool copy = !options_.refer;
      if (!copy) {
        for (Part& p : t.parts) copy = refer_extent(store_, model_, p.extent) || copy;
      }
      if (copy) t = place_copy(*e.tensor, writer_);
      if (e.retag >= 0) {
        const Scheme& scheme = plan_.schemes[static_cast<size_t>(e.retag)];
        t.scheme = model_.scheme_index(scheme);
        for (const ComputedPart& c : activations_.parts(e, scheme))
          t.parts.push_back(computed(c.spec, c.bytes));
      }
    }
    model_.tensors.push_back(std::move(t));
  }
  if (options_.kv_cache) add_cache_scales();
  // So that the activation side and the scales of the cache can be changed later.
  model_.calibration = from.calibration;
  carry_calibration(store_, model_, writer_, !options_.refer);
}

// What tensor i holds beside part_specs().
std::vector<PartSpec> PlanOutput::layer_parts(size_t i, const Scheme& scheme) const {
  const PlanEntry& e = plan_.entries[i];
  if (!by_layers_.contains(i)) return {};
  AlgorithmStep step = parse_algorithm(e.algorithm).back();
  if (step.algorithm->name != "gptq") return {};
  return gptq::parts_of(step, scheme, e.source->shape);
}

// A part whose bytes are known before any weight is read.
Part PlanOutput::computed(const PartSpec& spec, std::span<const std::byte> bytes) {
  return Part{spec.role, spec.dtype, spec.shape, writer_.append(bytes), nullptr};
}

void PlanOutput::add_cache_scales() {
  DType dtype = DType::bf16;
  std::string numerics = "compressed-tensors";
  std::map<std::string_view, size_t> index;
  for (size_t i = 0; i < model_.tensors.size(); ++i) {
    const Tensor& t = model_.tensors[i];
    index[t.name] = i;
    if (t.scheme < 0) continue;
    dtype = t.dtype;
    numerics = model_.schemes[static_cast<size_t>(t.scheme)].numerics;
  }
  for (const CacheScale& c : cache_scales(store_, numerics, dtype)) {
    Tensor t;
    t.name = c.name;
    t.dtype = DType::f32;
    t.shape = Shape{1};
    t.parts = {computed({Role::data, DType::f32, t.shape}, std::as_bytes(std::span(&c.scale, 1)))};
    auto old = index.find(c.name);
    if (old == index.end()) {
      model_.tensors.push_back(std::move(t));
      continue;
    }
    replaced_.insert(old->second);
    model_.tensors[old->second] = std::move(t);
  }
  model_.kv_cache = QuantArgs{
      .num_bits = 8, .type = NumType::floating, .strategy = Strategy::tensor, .scale_dtype = {}};
}

void PlanOutput::open_journal() {
  if (output_.unnamed() || output_.label() == "standard output") return;
  Hasher128 h;
  std::string text = to_json(plan_, identity(store_.model())).dump();
  h.update(std::as_bytes(std::span(text)));
  if (!windows_.ids.empty()) h.update(std::as_bytes(std::span(windows_.ids)));
  h.update(std::as_bytes(std::span(&options_.edits, 1)));
  std::string run = h.digest().hex() + " " + QP_VERSION + " " + kernels::active_isa();
  if (!windows_.ids.empty()) {
    run += std::string(" ") + gemm::backend(options_.precision);
    run += options_.precision == gemm::Precision::f32 ? " f32" : " bf16";  // of backends for both
  }
  journal_.emplace(output_.label() + ".partial", run, output_.resuming(), output_.fd(),
                   output_.sync());
  if (output_.resuming()) {
    journal_->check([this](size_t i, const Journal::Hashes& hashes) { return intact(i, hashes); });
  }
  for (const PlanEntry& e : plan_.entries) ++left_[layer_prefix(e.tensor->name)];
}

// The bytes that an earlier run wrote for tensor i are what its journal says.
bool PlanOutput::intact(size_t i, const Journal::Hashes& hashes) {
  if (i >= model_.tensors.size() || hashes.size() != model_.tensors[i].parts.size()) return false;
  for (size_t k = 0; k < hashes.size(); ++k) {
    const Extent& e = model_.tensors[i].parts[k].extent;
    if (e.file == 0 && writer_.hash(e) != hashes[k]) return false;
  }
  return true;
}

// The model that runs has the experts of a stack apart where the plan has them apart.
void PlanOutput::take_experts_apart() {
  std::set<std::string_view> planned;
  for (const PlanEntry& e : plan_.entries) planned.insert(e.tensor->name);
  auto apart = [&](const ExpertStack& s) { return !planned.contains(s.gate_up->name); };
  auto stacks = find_stacks(store_.model());
  if (std::ranges::none_of(stacks, [&](const auto& s) { return apart(s.second); })) return;
  apart_ = store_.with(with_experts_apart(store_.model(), apart));
}
// Which tensors are quantized by running the model, and what does it.
void PlanOutput::prepare_layers() {
  bool any = false;
  for (const PlanEntry& e : plan_.entries) {
    if (e.scheme < 0) continue;
    any = any || parse_algorithm(e.algorithm).back().algorithm->runs_model;
  }
  done_.resize(plan_.entries.size());
  if (!any) return;
  windows_ = read_windows(store_);
  take_experts_apart();
  weights_ = std::make_unique<engine::WeightSource>(running());
  arch_ = arch::make_architecture(running().model(), *weights_);
  for (size_t i : layerwise_entries(plan_, *arch_)) by_layers_.insert(i);
  std::vector<std::string> others;
  for (size_t i = 0; i < plan_.entries.size(); ++i) {
    const PlanEntry& e = plan_.entries[i];
    bool runs = e.scheme >= 0 && parse_algorithm(e.algorithm).back().algorithm->runs_model;
    if (runs && !by_layers_.contains(i)) others.push_back(e.tensor->name);
  }
  if (others.empty() || !options_.warn) return;
  options_.warn(std::to_string(others.size()) +
                " tensors are no matrices of layers that are run (" + printable(others.front()) +
                (others.size() > 1 ? ", .." : "") + "): a data-free algorithm quantizes them");
}

// The algorithm of a tensor when the model is not run for it.
std::string PlanOutput::data_free(size_t i) const {
  const PlanEntry& e = plan_.entries[i];
  const Algorithm& a = *parse_algorithm(e.algorithm).back().algorithm;
  if (!a.runs_model) return std::string(a.name);
  return why_not("mse", plan_.schemes[static_cast<size_t>(e.scheme)]).empty() ? "mse" : "rtn";
}

void PlanOutput::put(size_t entry, std::span<const std::byte> codes, const SmallParts& small) {
  Tensor& t = model_.tensors[entry];
  writer_.write(t.parts[0].extent.offset, codes);
  t.parts[0].extent.xxh3 = xxh3_64(codes);
  SmallParts all = small;
  if (t.part(Role::g_idx) != nullptr &&
      small.find(Role::g_idx) == nullptr) {  // another algorithm came in
    uint64_t cols = t.coded_shape().cols(),
             group = model_.schemes[static_cast<size_t>(t.scheme)].group_of(cols);
    std::vector<int32_t> plain(cols);
    for (uint64_t c = 0; c < cols; ++c) plain[c] = static_cast<int32_t>(c / group);
    auto bytes = std::as_bytes(std::span(plain));
    all.others.emplace_back(Role::g_idx, std::vector<std::byte>(bytes.begin(), bytes.end()));
  }
  write_small(t, all);
  finished(entry);
}

Tensor PlanOutput::get(size_t entry, Model& model) const {
  Tensor t = model_.tensors[entry];
  for (Part& p : t.parts) {
    model.blobs.push_back(writer_.read(p.extent));
    p.extent = {.file = kBlob, .offset = model.blobs.size() - 1, .length = p.extent.length};
  }
  return t;
}

// Whether an earlier run has finished tensor i.
bool PlanOutput::take_over(size_t i) {
  if (!journal_) return false;
  Tensor& t = model_.tensors[i];
  const auto* hashes = journal_->finished(i);
  if (hashes == nullptr || hashes->size() != t.parts.size()) return false;
  for (size_t k = 0; k < t.parts.size(); ++k) t.parts[k].extent.xxh3 = (*hashes)[k];
  progress_.add(plan_.entries[i].tensor->stored_bytes());
  --left_[layer_prefix(t.name)];
  done_[i] = true;
  ++resumed_;
  return true;
}

float PlanOutput::range(size_t i) {
  const PlanEntry& e = plan_.entries[i];
  if (e.scheme < 0 || replaced_.contains(i)) return 0;
  try {
    return ranges_.of(e);
  } catch (Error& error) {
    explain(error, i);
  }
}

void PlanOutput::add(size_t i, float range, RowBatch& batch) {
  const PlanEntry& e = plan_.entries[i];
  Tensor& t = model_.tensors[i];
  if (replaced_.contains(i)) return finished(i);
  std::vector<RowJob> jobs;
  try {
    e.scheme >= 0 ? add_quantize(e, t, data_free(i), range, jobs) : add_copy(e, t, jobs);
  } catch (Error& error) {
    explain(error, i);
  }
  if (jobs.empty()) return finished(i);
  auto verify = [this, &e] {
    for (const Part& p : e.tensor->parts) store_.verify(*e.tensor, p);
  };
  jobs.front().open = [verify, open = std::move(jobs.front().open)] {
    verify();
    if (open) open();
  };
  jobs.back().close = [this, i, close = std::move(jobs.back().close)] {
    close();
    finished(i);
  };
  for (RowJob& job : jobs) guard(job, i);
  // Values of a matrix, or a tensor's parts as they are stored.
  std::string rows = e.scheme >= 0 ? "values of " + e.source->name
                                   : (e.retag >= 0 ? "codes of " : "parts of ") + e.tensor->name;
  batch.add(rows, std::move(jobs));
}

// Errors of a job name its tensor.
void PlanOutput::guard(RowJob& job, size_t i) {
  auto guarded = [this, i](auto step) {
    return [this, i, step = std::move(step)](const auto&... c) {
      try {
        step(c...);
      } catch (Error& error) {
        explain(error, i);
      }
    };
  };
  if (job.open) job.open = guarded(std::move(job.open));
  job.work = guarded(std::move(job.work));
  job.retire = guarded(std::move(job.retire));
  job.close = guarded(std::move(job.close));
}
void PlanOutput::explain(Error& error, size_t i) const {
  const Tensor& from = *plan_.entries[i].tensor;
  store_.throw_if_changed(from);  // the cause behind whatever was noticed first
  throw std::move(error).file(store_.where(from)).tensor(from.name);
}

// Everything of tensor i is written.
void PlanOutput::finished(size_t i) {
  const PlanEntry& e = plan_.entries[i];
  const Tensor& t = model_.tensors[i];
  store_.throw_if_changed(*e.tensor);
  progress_.item(t.name);
  done_[i] = true;
  if (!journal_) return;
  std::vector<uint64_t> hashes;
  for (const Part& p : t.parts) hashes.push_back(p.extent.xxh3.value_or(0));
  journal_->add(i, hashes);
  // A finished layer is durable; so is what belongs to none, such as embeddings.
  std::string_view layer = layer_prefix(t.name);
  if (--left_[layer] == 0 || layer.empty()) journal_->sync();
}

void PlanOutput::add_copy(const PlanEntry& e, Tensor& t, std::vector<RowJob>& jobs) {
  if (t.parts.front().extent.file != 0) return;  // --refer
  add_copy_jobs(store_, *e.tensor, t, writer_, advance_, jobs);
}

void PlanOutput::add_quantize(const PlanEntry& e, Tensor& t, const std::string& algorithm,
                              float range, std::vector<RowJob>& jobs) {
  const Scheme& scheme = plan_.schemes[static_cast<size_t>(e.scheme)];
  struct State {
    std::unique_ptr<Quantizer> quantizer;
    Hasher64 hasher;
  };
  auto state = std::make_shared<State>();
  uint64_t begin = t.parts[0].extent.offset;
  jobs.push_back({.source = RowSource(store_, *e.source),
                  .chunk_bytes = Quantizer::kChunkBytes,
                  .unit = rows_unit(scheme, e.source->shape),
                  .open =
                      [this, &e, &scheme, algorithm, range, state] {
                        std::vector<float> importance;
                        if (algorithm == "imatrix") importance = importance_.of(e);
                        ScaleSign sign = scale_sign(parse_algorithm(e.algorithm).back());
                        state->quantizer = make_quantizer(algorithm, store_, *e.source, scheme,
                                                          range, sign, std::move(importance));
                      },
                  .work =
                      [this, state](const RowChunk& c) {
                        state->quantizer->chunk(c.rows.data(), c.first, c.count, scratch_[c.slot]);
                      },
                  .retire =
                      [this, state, begin](const RowChunk& c) {
                        const auto& codes = scratch_[c.slot].codes;
                        state->hasher.update(codes);
                        writer_.write(begin + c.first * state->quantizer->code_bytes(), codes);
                        progress_.add(c.rows.size());
                      },
                  .close =
                      [this, &t, state] {
                        t.parts[0].extent.xxh3 = state->hasher.digest();
                        write_small(t, state->quantizer->finish());
                        state->quantizer.reset();
                      }});
}

void PlanOutput::write_small(Tensor& t, const SmallParts& small) {
  for (Part& p : t.parts) {
    const std::vector<std::byte>* bytes = small.find(p.role);
    if (bytes == nullptr) continue;
    if (bytes->size() != p.extent.length)
      throw defect_error("a part has another size than planned");
    writer_.write(p.extent.offset, *bytes);
    p.extent.xxh3 = xxh3_64(*bytes);
  }
}

// True when there is something to resume.
bool PlanOutput::keep_partial() {
  if (!journal_) return false;
  try {
    if (!journal_->empty()) {
      journal_->finish();
      output_.keep_partial(true);
      return true;
    }
  } catch (const Error&) {  // a disk that is full for the result is full for the journal
  }
  give_up();
  return false;
}

void PlanOutput::give_up() {
  if (journal_) journal_->remove();
  output_.keep_partial(false);
}

}  // namespace qp
