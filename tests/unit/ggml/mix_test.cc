// llama-quantize's choices, worked out by hand from reference/gguf.md 7.3 to 7.6. Whole models beside
// llama-quantize itself: tests/peers/llama.cpp.py.
#include "lib/ggml/mix.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "lib/base/error.h"

namespace qp::ggml {
namespace {

struct Made {
  std::vector<std::string> names;
  std::vector<MixTensor> tensors;
};

// In llama-quantize's order.
Made dense(uint64_t layers, uint64_t cols = 4096, bool tied = false) {
  Made m;
  std::map<std::string, Shape> top = {{"output_norm.weight", Shape{cols}}, {"token_embd.weight", Shape{1000, cols}}};
  if (!tied) top["output.weight"] = Shape{1000, cols};
  std::vector<std::pair<std::string, Shape>> all(top.begin(), top.end());
  for (uint64_t i = 0; i < layers; ++i) {
    for (const char* part : {"attn_k", "attn_norm", "attn_output", "attn_q", "attn_v", "ffn_down", "ffn_gate",
                             "ffn_norm", "ffn_up"}) {
      bool norm = std::string_view(part).ends_with("norm");
      all.emplace_back("blk." + std::to_string(i) + "." + part + ".weight", norm ? Shape{cols} : Shape{cols, cols});
    }
  }
  m.names.reserve(all.size());
  for (auto& [name, shape] : all) {
    m.names.push_back(name);
    m.tensors.push_back({m.names.back(), shape});
  }
  return m;
}

std::map<std::string, std::string> choose(std::string_view mix, const Made& m, const MixModel& model,
                                          bool importance = false, MixRule rule = {}) {
  rule.mix = find_mix(mix);
  std::vector<const char*> types = choose_types(rule, model, importance, m.tensors);
  std::map<std::string, std::string> out;
  for (size_t i = 0; i < types.size(); ++i) out[m.names[i]] = types[i] == nullptr ? "-" : types[i];
  return out;
}

std::set<uint64_t> layers_with(const std::map<std::string, std::string>& types, const std::string& part,
                               const std::string& type) {
  std::set<uint64_t> found;
  for (const auto& [name, t] : types) {
    if (name.ends_with("." + part + ".weight") && t == type) found.insert(std::stoull(name.substr(4)));
  }
  return found;
}

constexpr MixModel kLlama{"llama", 32, 32, 8, 0};

TEST(Mix, MoreBitsAtTheEndsAndInEveryThirdLayer) {
  auto types = choose("Q4_K_M", dense(32), kLlama);
  std::set<uint64_t> more = {0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31};
  for (const char* part : {"attn_v", "ffn_down"}) {
    EXPECT_EQ(layers_with(types, part, "q6_k"), more) << part;
    EXPECT_EQ(layers_with(types, part, "q4_k").size(), 16u) << part;
  }
  EXPECT_EQ(types["output.weight"], "q6_k");
  EXPECT_EQ(types["token_embd.weight"], "q4_k");
  EXPECT_EQ(types["blk.5.attn_q.weight"], "q4_k");
  EXPECT_EQ(types["blk.5.attn_norm.weight"], "-");
}

TEST(Mix, HeadsThatAreTiedDecideForTheTable) {
  auto types = choose("q4_0", dense(4, 4096, true), kLlama);
  EXPECT_EQ(types["token_embd.weight"], "q6_k");
  EXPECT_EQ(choose("q8_0", dense(4, 4096, true), kLlama)["token_embd.weight"], "q8_0");
  EXPECT_EQ(choose("iq2_xs", dense(4), kLlama, true)["output.weight"], "q5_k");
  EXPECT_EQ(choose("iq2_xs", dense(4), kLlama, true)["token_embd.weight"], "q2_k");
}

TEST(Mix, RowsThatNoBlockDividesGetAnotherType) {
  // 576 is a multiple of 64, not of 256.
  auto types = choose("q4_k_m", dense(32, 576), kLlama);
  EXPECT_EQ(types["blk.5.attn_q.weight"], "q5_0");
  EXPECT_EQ(types["blk.0.ffn_down.weight"], "q8_0");
  EXPECT_EQ(types["output.weight"], "q8_0");
  EXPECT_EQ(choose("iq4_xs", dense(4, 576), kLlama)["blk.1.attn_q.weight"], "iq4_nl");
  EXPECT_EQ(choose("q3_k_s", dense(4, 576), kLlama)["blk.1.attn_q.weight"], "q4_0");
  EXPECT_EQ(choose("q3_k_s", dense(4, 100), kLlama, false, {.output = "q8_0"})["blk.1.attn_q.weight"], "f16");
  EXPECT_EQ(choose("q4_0", dense(4, 100), kLlama, false, {.output = "q8_0"})["blk.1.attn_q.weight"], "f16");
  EXPECT_EQ(choose("q2_0", dense(4, 288), kLlama)["blk.1.attn_q.weight"], "q4_0");
  EXPECT_EQ(choose("q2_0", dense(4, 512), kLlama)["token_embd.weight"], "q4_k");
  EXPECT_THROW(choose("q1_0", dense(4, 100), kLlama), Error);
}

TEST(Mix, ImportanceChangesSomeChoices) {
  EXPECT_EQ(choose("q4_0", dense(32), kLlama, false)["blk.0.ffn_down.weight"], "q4_0");
  EXPECT_EQ(choose("q4_0", dense(32), kLlama, true)["blk.3.ffn_down.weight"], "q4_1");
  EXPECT_EQ(choose("q4_0", dense(32), kLlama, true)["blk.4.ffn_down.weight"], "q4_0");
  constexpr MixModel kNoSharing{"llama", 32, 32, 32, 0};
  EXPECT_EQ(choose("iq3_xxs", dense(32), kNoSharing, true)["blk.9.attn_v.weight"], "iq3_xxs");
  EXPECT_EQ(choose("iq3_xxs", dense(32), kNoSharing, false)["blk.9.attn_v.weight"], "iq3_s");
  EXPECT_EQ(choose("iq3_xxs", dense(32), kLlama, true)["blk.9.attn_v.weight"], "q4_k");
}

TEST(Mix, EightExpertsAreMixtral) {
  constexpr MixModel kMixtral{"llama", 32, 32, 8, 8};
  Made m = dense(2);
  auto types = choose("q4_k_m", m, kMixtral);
  EXPECT_EQ(types["blk.0.attn_v.weight"], "q8_0");
  EXPECT_EQ(types["blk.1.attn_k.weight"], "q8_0");
  EXPECT_EQ(types["blk.1.attn_output.weight"], "q5_k");
}

TEST(Mix, OnlyStacksAreMxfp4) {
  std::vector<MixTensor> tensors = {{"output.weight", Shape{100, 256}},
                                    {"token_embd.weight", Shape{100, 256}},
                                    {"blk.0.attn_q.weight", Shape{256, 256}},
                                    {"blk.0.ffn_down_exps.weight", Shape{4, 256, 256}},
                                    {"blk.0.ffn_gate_inp.weight", Shape{4, 256}}};
  MixRule rule;
  rule.mix = find_mix("MXFP4_MOE");
  auto types = choose_types(rule, {"gpt-oss", 1, 4, 4, 4}, false, tensors);
  EXPECT_EQ(std::vector<std::string>(types.begin(), types.end() - 1),
            (std::vector<std::string>{"q8_0", "q8_0", "q8_0", "mxfp4"}));
  EXPECT_EQ(types.back(), nullptr);
}

TEST(Mix, WhatTheUserNamesComesFirst) {
  MixRule rule;
  rule.output = "q8_0";
  rule.embedding = "q3_k";
  auto types = choose("q4_k_m", dense(4), kLlama, false, rule);
  EXPECT_EQ(types["output.weight"], "q8_0");
  EXPECT_EQ(types["token_embd.weight"], "q3_k");
  rule.pure = true;
  types = choose("q4_k_m", dense(32), kLlama, false, rule);
  EXPECT_EQ(layers_with(types, "ffn_down", "q4_k").size(), 32u);
  // Others' decisions count for how many there are, not for whose turn it is.
  Made m = dense(32);
  for (size_t i = 0; i < m.tensors.size(); ++i) m.tensors[i].decided = m.names[i] == "blk.0.attn_v.weight";
  auto turn = layers_with(choose("q3_k_m", m, kLlama), "attn_v", "q5_k");
  EXPECT_EQ(turn, (std::set<uint64_t>{1, 2}));
}

TEST(Mix, NamesAsLlamaQuantizeTakesThem) {
  EXPECT_EQ(find_mix("Q4_K")->name, "q4_k_m");
  EXPECT_EQ(find_mix("GGUF:Q5_K_S")->file_type, 16u);
  EXPECT_EQ(find_mix("iq1_m")->file_type, 31u);
  EXPECT_EQ(find_mix("w4a16"), nullptr);
  EXPECT_TRUE(needs_importance(*find_mix("q2_k_s"), "blk.0.ffn_up.weight", "q2_k"));
  EXPECT_FALSE(needs_importance(*find_mix("q2_k"), "blk.0.ffn_up.weight", "q2_k"));
  EXPECT_FALSE(needs_importance(*find_mix("iq2_xs"), "output.weight", "iq2_xs"));
}

}  // namespace
}  // namespace qp::ggml
