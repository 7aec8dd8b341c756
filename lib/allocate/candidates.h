// The schemes that automatic bit allocation may choose from, and the groups of tensors that engines
// want in one scheme.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/plan/plan.h"

namespace qp {

// One scheme for every linear: what a plan with it alone would be.
struct Candidate {
  std::string name;  // "w4a16", "none": left as it is
  Recipe recipe;     // rules that go first, then the one of this scheme
  Plan plan;
};

// Tensors with one scheme: q, k and v; gate and up; the gates and ups of all experts of a layer ..
struct SchemeGroup {
  std::string name;                  // what engines fuse them to, or the one module
  std::vector<std::string> tensors;  // in the order of the plan
  std::vector<std::string> modules;  // the same
  bool experts = false;
  uint64_t params = 0;
  std::vector<uint64_t> bytes;  // by candidate
};

struct CandidateGroups {
  std::vector<SchemeGroup> groups;  // in the order of the plan
  uint64_t params = 0;              // of all groups
  uint64_t fixed_bytes = 0;         // of the output's other tensors
};

// Groups what the last rules of the candidates reach. Errors: usage (fewer than two candidates or
// none but "none", they reach different tensors, they reach nothing).
CandidateGroups group_tensors(const std::vector<Candidate>& candidates, const std::string& label);

// Whether a candidate leaves tensors as they are.
inline bool keeps(const Candidate& candidate) { return !candidate.recipe.rules.back().scheme; }

}  // namespace qp
