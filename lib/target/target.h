// qverify --target: what an engine will do with a checkpoint, from headers and configs alone.
// DESIGN.md, "Targets".
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lib/target/checkpoint.h"
#include "lib/target/rule.h"

namespace qp::target {

enum class Verdict : uint8_t {
  used,
  ignored,        // by design: tied heads, draft layers, buffers
  dropped,        // skipped without an error
  defaulted,      // not stored; the engine takes a default
  uninitialised,  // not stored; the engine computes with whatever is in memory
  wrong_shape,
  wrong_dtype,
};
std::string_view name_of(Verdict verdict);

enum class Outcome : uint8_t { loads, lies, refuses };
std::string_view name_of(Outcome outcome);  // "loads and uses everything" ..

struct Options {
  uint64_t tp = 1, ep = 1, pp = 1;
  std::string hardware;        // "sm90"; "" when not said
  std::string engine_args;     // the rest of the command line, as the user means to give it
  uint64_t device_memory = 0;  // bytes per rank; 0: not said
};

struct Missing {
  std::string name;
  Verdict verdict = Verdict::uninitialised;
};

struct Result {
  Outcome outcome = Outcome::loads;
  std::vector<Verdict> verdicts;  // of each stored tensor
  std::vector<Missing> missing;   // parameters that no tensor fills
  std::vector<Finding> findings;
  std::string launch;       // the command that serves it
  uint64_t rank_bytes = 0;  // weights on the fullest rank
};

struct Engine;
std::span<const Engine* const> engines();
// "vllm", "sglang@0.5": the version is the user's word; rules hold for the one they were read from.
// Errors: usage, with the names that there are.
const Engine& engine_from_name(std::string_view text);
std::string_view name_of(const Engine& engine);
std::string_view version_of(const Engine& engine);
std::span<const Rule> rules_of(const Engine& engine);
std::string rule_id(const Engine& engine, const Rule& rule);

std::span<const std::string_view> hardware_names();

// Errors: usage (hardware). Whatever is wrong with the checkpoint is a finding.
Result check(const Checkpoint& checkpoint, const Engine& engine, const Options& options);

}  // namespace qp::target
