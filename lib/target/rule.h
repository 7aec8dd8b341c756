// Rules: what an engine does when it meets a condition. A condition is a topic that the replay
// detects for every engine alike; an engine that has no rule for it is not known to mind.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qp::target {

enum class Effect : uint8_t {
  refuses,  // it stops with an error
  lies,     // it serves a model that is not the one in the checkpoint
  warns,    // it works, and something is worth knowing
  notes,    // what the engine does is not known
};
std::string_view name_of(Effect effect);

struct Rule {
  std::string_view topic;  // "missing-parameter"; the rule's id is "vllm.missing-parameter"
  Effect effect;
  std::string_view what;    // what the engine does, for --list-rules
  std::string_view source;  // file and version of the engine, or the thread, it was read from
  std::string_view hint;    // what to do
  // The text it prints, or a part of it: "{}" stands for the parameter or module, "{inner}" for the
  // same as a decoder's own loader calls it, "{2}" for what else the topic tells.
  std::string_view error = {};
};

struct Finding {
  const Rule* rule = nullptr;
  std::string id;       // "vllm.missing-parameter"
  std::string subject;  // tensor or module, or ""
  std::string what;     // this case, with expected and found
  std::string error;    // what the engine prints, or ""
  bool of_division = false;  // ranks cut where they may not: other sizes or groups would do
};

struct Engine;

// Findings of one check, by the rules of one engine.
class Findings {
 public:
  explicit Findings(const Engine& engine) : engine_(engine) {}
  // Nothing when the engine has no such rule. `slot` replaces "{}" in the rule's error text,
  // `second` "{2}". Returns whether there is a rule.
  bool add(std::string_view topic, std::string_view subject, std::string what,
           std::string_view slot = {}, std::string_view second = {});
  bool knows(std::string_view topic) const;
  bool any(Effect effect) const;
  std::vector<Finding>& all() { return all_; }
  const std::vector<Finding>& all() const { return all_; }

 private:
  const Engine& engine_;
  std::vector<Finding> all_;
};

}  // namespace qp::target
