// Each dialect by hand-worked cases; facts: reference pages, "matching".
#include "lib/target/match.h"

#include <gtest/gtest.h>

namespace qp::target {
namespace {

struct Case {
  Dialect dialect;
  const char* entry;
  const char* module;
  bool covered;
};

TEST(Match, Dialects) {
  const Case cases[] = {
      {Dialect::name_or_regex, "model.layers.0.mlp.gate", "model.layers.0.mlp.gate", true},
      {Dialect::name_or_regex, "mlp.gate", "model.layers.0.mlp.gate", false},
      {Dialect::name_or_regex, "re:.*mlp.gate$", "model.layers.0.mlp.gate", true},
      {Dialect::name_or_regex, "re:mlp", "model.layers.0.mlp.gate", false},  // from the start
      {Dialect::name_or_regex, "re:model.layers.0", "model.layers.0.mlp.gate",
       true},  // not to the end
      {Dialect::path_suffix, "mlp.gate", "model.layers.0.mlp.gate", true},
      {Dialect::path_suffix, "lp.gate", "model.layers.0.mlp.gate", false},
      {Dialect::path_suffix, "model.layers.0", "model.layers.0.mlp.gate", false},  // never a prefix
      {Dialect::path_suffix, "lm_head", "lm_head", true},
      {Dialect::exact, "model.layers.0.mlp.gate", "model.layers.0.mlp.gate", true},
      {Dialect::exact, "mlp.gate", "model.layers.0.mlp.gate", false},
      {Dialect::sub_path, "layers.0.mlp", "model.layers.0.mlp.gate", true},
      {Dialect::sub_path, "gate", "model.layers.0.mlp.gate_proj", false},  // whole components
      {Dialect::sub_path, "model.layers.1", "layers.1.mlp.up_proj",
       true},  // "model." in front or not
      {Dialect::sub_path, "layers.1", "model.layers.11.mlp.up_proj", false},
      {Dialect::substring, "gate", "model.layers.0.mlp.gate_proj", true},
      {Dialect::substring, "visual", "model.layers.0.mlp.gate_proj", false},
      {Dialect::components, "o_proj", "model.layers.10.o_proj", true},
      {Dialect::components, "layers.1", "model.layers.11.o_proj", false},
      {Dialect::regex_start, "model.layers.*.self_attn", "model.layers.3.self_attn.q_proj", true},
      {Dialect::regex_start, "self_attn", "model.layers.3.self_attn.q_proj", false},
      {Dialect::prefix, "model.layers", "model.layers.0.mlp.up_proj", true},
      {Dialect::prefix, "layers", "model.layers.0.mlp.up_proj", false},
      {Dialect::modelopt_vllm, "model.layers.1*", "model.layers.10.mlp.up_proj",
       true},  // a substring: the trap
      {Dialect::modelopt_vllm, "model.layers.2.*", "model.layers.2.mlp.up_proj", true},
      {Dialect::modelopt_sglang, "model.layers.1.*", "model.layers.10.mlp.up_proj", false},
      {Dialect::modelopt_sglang, "model.layers.1*", "model.layers.10.mlp.up_proj", true},
      {Dialect::modelopt_sglang, "lm_head", "language_model.lm_head", true},
      {Dialect::modelopt_sglang, "*attn*", "model.layers.0.self_attn.q_proj", true},
      {Dialect::substring_nocase, "GATE", "model.layers.0.mlp.gate_proj", true},
      {Dialect::substring_nocase, "re:.*up_proj", "model.layers.0.mlp.up_proj", true},
  };
  for (const Case& c : cases) {
    NameList list(c.dialect, {c.entry});
    EXPECT_EQ(list.covers(c.module), c.covered)
        << name_of(c.dialect) << ": " << c.entry << " / " << c.module;
  }
}

TEST(Match, BadPatternsAreListed) {
  NameList list(Dialect::name_or_regex, {"re:(", "lm_head"});
  EXPECT_EQ(list.bad(), std::vector<std::string>{"re:("});
  EXPECT_TRUE(list.covers("lm_head"));
}

TEST(Match, OnlyStringsOfAList) {
  EXPECT_EQ(strings_of(Json::parse(R"(["a", 1, null, "b"])")),
            (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(strings_of(Json::parse(R"({"a": 1})")).empty());
}

}  // namespace
}  // namespace qp::target
