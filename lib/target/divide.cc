#include "lib/target/divide.h"

#include <algorithm>
#include <string>

namespace qp::target {
namespace {

std::string by(uint64_t a, uint64_t b) {
  return std::to_string(a) + " is not divisible by " + std::to_string(b);
}

struct Case {
  const Layer& layer;
  const std::vector<Dims>& dims;
  Scheme scheme;
  const ModelShape& model;
  uint64_t tp;
  Findings& findings;

  void fail(std::string_view topic, const Shard& s, std::string what) const {
    if (tp > 1) what += " (tensor parallel " + std::to_string(tp) + ")";
    if (findings.add(topic, s.name, std::move(what), s.name))
      findings.all().back().of_division = true;
  }

  // N and K of a rank. Members that do not divide are the topic of others.
  uint64_t rank_n(const Shard& s, Dims d) const {
    if (s.split != Split::column) return d.n;
    // More ranks than heads of keys: heads are repeated.
    bool keys = s.member == "k_proj" || s.member == "v_proj";
    return d.n / (keys && model.kv_heads > 0 ? std::min(tp, model.kv_heads) : tp);
  }
  uint64_t rank_k(const Shard& s, Dims d) const { return s.split == Split::row ? d.k / tp : d.k; }

  // Whether the ranks' parts are alike.
  bool divides(const Shard& s, Dims d) const {
    bool row = s.split == Split::row, keys = s.member == "k_proj" || s.member == "v_proj";
    uint64_t size = row ? d.k : s.split == Split::column ? d.n : 0;
    if (size % tp == 0 || keys) return true;
    bool merged = layer.part == Part::linear && layer.shards.size() > 1 && s.member != "q_proj" &&
                  findings.knows("tp-size-fused");
    fail(merged ? "tp-size-fused" : "tp-size", s,
         std::string(row ? "input" : "output") + " size " + by(size, tp));
    return false;
  }

  // SGLang asks whether Marlin fits before it cuts the layer, and again after; layers that do not
  // fit whole go to the plain kernel of AWQ.
  void packed_marlin(const Shard& s, Dims d) const {
    uint64_t k = rank_k(s, d), n = 0, whole = 0;
    for (size_t i = 0; i < dims.size(); ++i) {
      n += rank_n(layer.shards[i], dims[i]);
      whole += dims[i].n;
    }
    if (whole % 64 != 0 || d.k % 128 != 0)
      return packed(s, Dims{s.split == Split::column ? n * tp : n, d.k});
    if (n % 64 != 0) {
      fail("marlin-rows", s, "output size per rank " + by(n, 64));
    } else if (k % 128 != 0) {
      fail("marlin-columns", s, "input size per rank " + by(k, 128));
    } else if (scheme.group > 0 && k % scheme.group != 0) {
      fail("input-not-aligned", s,
           "input size per rank " + by(k, scheme.group) + ", the group size");
    }
  }

  // GPTQ and AWQ: groups along the rank's inputs, words along its outputs.
  void packed(const Shard& s, Dims d) const {
    uint64_t k = rank_k(s, d), n = rank_n(s, d);
    bool awq = scheme.params == "awq" && layer.part != Part::experts &&
               findings.knows("awq-input-not-aligned");
    if (scheme.group > 0 && k % scheme.group != 0) {
      fail(awq ? "awq-input-not-aligned" : "input-not-aligned", s,
           "input size per rank " + by(k, scheme.group) + ", the group size");
    }
    // Fraction(32, bits).numerator: 32 for 3 bits.
    uint64_t bits = static_cast<uint64_t>(scheme.bits), word = 32 % bits == 0 ? 32 / bits : 32;
    if (n % word != 0)
      fail("output-not-aligned", s,
           "output size per rank " + by(n, word) + ", the codes in a word");
  }

  void compressed(const Shard& s, Dims d) const {
    uint64_t k = rank_k(s, d), n = rank_n(s, d), bits = static_cast<uint64_t>(scheme.bits);
    bool experts = layer.part == Part::experts && scheme.params == "ct-pack" &&
                   scheme.support != "w4afp8" && findings.knows("group-split-experts");
    if (scheme.group > 0 && k % scheme.group != 0) {
      fail(experts ? "group-split-experts" : "group-split", s,
           "input size per rank " + by(k, scheme.group) + ", the group size");
    }
    if (scheme.params == "ct-pack" && !scheme.symmetric && 32 % bits == 0 && n % (32 / bits) != 0) {
      fail("zero-point-split", s,
           "output size per rank " + by(n, 32 / bits) + ", the zero points in a word");
    }
  }

  void marlin(const Shard& s, Dims d) const {
    uint64_t k = rank_k(s, d), n = rank_n(s, d);
    if (n % 64 == 0 && k % 128 == 0) return;
    fail("marlin-shape", s,
         n % 64 != 0 ? "output size per rank " + by(n, 64) : "input size per rank " + by(k, 128));
  }

  void blocks(const Shard& s, Dims d) const {
    bool expert = layer.part == Part::experts;
    bool cut_n = s.split == Split::column && (tp > 1 || expert || layer.shards.size() > 1);
    uint64_t n = rank_n(s, d), k = rank_k(s, d);
    // Without tensor parallelism the last shard of a fused layer may be ragged in vLLM, not in
    // SGLang.
    bool last = tp == 1 && !expert && &s == &layer.shards.back();
    if (cut_n && n % scheme.block_n != 0) {
      bool fused = !expert && layer.shards.size() > 1 && scheme.params != "ct-fp8-block" &&
                   findings.knows("block-rows-fused");
      fail(last    ? "block-rows-last"
           : fused ? "block-rows-fused"
                   : "block-rows",
           s, "output size per rank " + by(n, scheme.block_n) + ", the block");
    }
    if (s.split == Split::row && tp > 1 && k % scheme.block_k != 0) {
      bool modelopt =
          scheme.params == "modelopt-fp8-block" && findings.knows("block-columns-modelopt");
      fail(modelopt ? "block-columns-modelopt" : "block-columns", s,
           "input size per rank " + by(k, scheme.block_k) + ", the block");
    }
  }
};

}  // namespace

void check_division(const Layer& layer, const Scheme& scheme, const std::vector<Dims>& dims,
                    const ModelShape& model, const Options& options, Findings& findings) {
  // Experts that are spread over ranks are not cut.
  uint64_t tp = layer.part == Part::experts && options.ep > 1 ? 1 : options.tp;
  Case c{layer, dims, scheme, model, tp, findings};
  bool int4 = scheme.params == "gptq" || scheme.params == "awq";
  for (size_t i = 0; i < layer.shards.size(); ++i) {
    const Shard& s = layer.shards[i];
    if (dims[i].n == 0 || dims[i].k == 0) continue;
    if (layer.part == Part::experts && s.expert > 0) continue;  // all have the first one's sizes
    if (!c.divides(s, dims[i])) continue;
    bool sglang = findings.knows("marlin-columns"), linear = layer.part != Part::experts;
    if (int4 && !sglang) c.packed(s, dims[i]);
    if (sglang && scheme.params == "awq" && linear && i == 0) c.packed_marlin(s, dims[i]);
    if (sglang && scheme.support == "gptq-marlin" && linear && s.split == Split::row && tp > 1 &&
        scheme.group > 0 && dims[i].k / tp % scheme.group != 0) {
      c.fail("gptq-groups-cut", s,
             "input size per rank " + by(dims[i].k / tp, scheme.group) + ", the group size");
    }
    static constexpr std::string_view kGrouped[] = {"ct-pack", "ct-nvfp4", "ct-mxfp4", "ct-mxfp8",
                                                    "ct-int-group"};
    if (std::ranges::find(kGrouped, scheme.params) != std::end(kGrouped)) c.compressed(s, dims[i]);
    if (scheme.support == "gptq-marlin" || (scheme.support == "awq" && !sglang) ||
        scheme.support == "pack")
      c.marlin(s, dims[i]);
    if (scheme.block_n > 0 && scheme.block_k > 0) c.blocks(s, dims[i]);
    if (scheme.params == "modelopt-mxfp8" && c.rank_k(s, dims[i]) % 32 != 0)
      c.fail("mxfp8-columns", s, "input size per rank " + by(c.rank_k(s, dims[i]), 32));
    bool fp4 = scheme.params == "modelopt-nvfp4" || scheme.params == "modelopt-nvfp4-awq";
    if (fp4 && c.rank_k(s, dims[i]) % 16 != 0)
      c.fail("fp4-columns", s, "input size per rank " + by(c.rank_k(s, dims[i]), 16));
    if (scheme.support == "w4afp8" && layer.part == Part::experts) {
      uint64_t n = c.rank_n(s, dims[i]), k = c.rank_k(s, dims[i]);
      if (n % 256 != 0 || k % 256 != 0)
        c.fail("w4afp8-shape", s, "a size per rank " + by(n % 256 != 0 ? n : k, 256));
    }
  }
}

void check_cuts(const Layer& layer, const std::vector<Dims>& dims, const ModelShape& model,
                const Options& options, Findings& findings) {
  Case c{layer, dims, {}, model, options.tp, findings};
  for (size_t i = 0; i < layer.shards.size(); ++i) {
    if (dims[i].n != 0 && dims[i].k != 0) c.divides(layer.shards[i], dims[i]);
  }
}

void check_parallel(const Engine& engine, const ModelShape& m, const Options& o, Findings& f) {
  bool few = m.experts > 0 && o.tp > m.experts &&
             std::ranges::any_of(engine.rank_per_expert, [&](std::string_view architecture) {
               return m.architecture.starts_with(architecture);
             });
  if (few) {
    f.add(
        "tp-experts", "",
        "--tp " + std::to_string(o.tp) + " is more than " + std::to_string(m.experts) + " experts");
  }
  if (o.tp > 1 && m.heads > 0 && m.heads % o.tp != 0) {
    f.add("tp-heads", "", "num_attention_heads " + by(m.heads, o.tp) + " (--tp)",
          std::to_string(m.heads));
  }
  if (o.tp > 1 && m.kv_heads > 0 && m.kv_heads % o.tp != 0 && o.tp % m.kv_heads != 0) {
    f.add("tp-kv-heads", "",
          "num_key_value_heads " + std::to_string(m.kv_heads) + " and --tp " +
              std::to_string(o.tp) + " do not divide each other");
  }
  if (o.ep > 1 && m.experts == 0)
    f.add("ep-experts", "", "the model has no experts (--ep " + std::to_string(o.ep) + ")");
  if (o.ep > 1 && m.experts % o.ep != 0)
    f.add("ep-experts", "", "the number of experts " + by(m.experts, o.ep) + " (--ep)");
  if (o.pp > 1 && m.layers > 0 && o.pp > m.layers) {
    f.add("pp-layers", "",
          "--pp " + std::to_string(o.pp) + " is more than " + std::to_string(m.layers) + " layers");
  }
}

}  // namespace qp::target
