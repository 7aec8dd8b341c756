// Where long work reports how far it is. Implemented by cmd/tool; nothing by default.
#pragma once

#include <cstdint>
#include <string_view>

namespace qp {

class Progress {
 public:
  virtual ~Progress() = default;
  // A new phase of `total` bytes.
  virtual void begin(std::string_view what, uint64_t total) { (void)what, (void)total; }
  virtual void add(uint64_t bytes) { (void)bytes; }
  virtual void item(std::string_view name) { (void)name; }
  virtual void end() {}
};

}  // namespace qp
