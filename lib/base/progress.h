// Where long work reports how far it is. Implemented by cmd/tool; nothing by default.
#pragma once

#include <cstdint>
#include <string_view>

namespace qp {

class Progress {
 public:
  virtual ~Progress() = default;
  // A new phase of `total` bytes, or of steps that mean nothing to people.
  enum class Unit { bytes, steps };
  virtual void begin(std::string_view what, uint64_t total, Unit unit = Unit::bytes) {
    (void)what, (void)total, (void)unit;
  }
  virtual void add(uint64_t amount) { (void)amount; }
  virtual void item(std::string_view name) { (void)name; }
  virtual void end() {}
};

}  // namespace qp
