// What qcalibrate found, as a qmap keeps it: the token windows and, per input of the linears, sums
// over all tokens. man/qmap.5, CALIBRATION.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lib/base/json.h"
#include "lib/qmap/extent.h"

namespace qp {

// Sums over the rows that entered some linears. The extent holds, one after the other, all
// little-endian: sum |x| and sum x^2 per channel as signed 128-bit numbers of 2^-64 (so that sums of
// parts are exact in any order), max |x| per channel in f32, max |x| of each window in f32 (0 where
// no row came), and counts of the bins first_bin .. first_bin + bins - 1 in u64. The bin of x is the
// upper 14 bits of |x| as f32 without its sign: 64 bins per power of two.
struct InputStatistics {
  std::string module;                // the first linear that reads this input
  std::vector<std::string> readers;  // all of them, `module` included
  uint64_t cols = 0;                 // channels: in_features of the linears
  uint64_t rows = 0;                 // tokens seen; fewer for experts
  uint32_t first_bin = 0, bins = 0;  // bins 0: no histogram was asked for
  float observed = 0;                // the range of the whole input that the observer chose
  Extent extent;
};

struct RouterStatistics {
  std::string module;
  uint64_t rows = 0;
  std::vector<uint64_t> counts;  // rows sent to each expert
};

struct CacheStatistics {
  std::string block;  // "model.layers.3.self_attn"
  float k_amax = 0, v_amax = 0;
};

struct Calibration {
  Json options = Json::object();  // what was asked: seqlen, n, observer .. (numbers change with them)
  // u32 length of each window, then all ids as i32.
  Extent tokens;
  uint64_t windows = 0, token_count = 0;
  std::vector<InputStatistics> inputs;  // in the order in which the model runs
  std::vector<RouterStatistics> routers;
  std::vector<CacheStatistics> caches;
};

// Bytes of an extent of statistics. Errors: none; 0 on overflow.
uint64_t statistics_bytes(const InputStatistics& input, uint64_t windows);

Json to_json(const Calibration& calibration);
// Errors: input, what is not well-formed; sizes that do not fit together.
Calibration calibration_from_json(const Json& json);

}  // namespace qp
