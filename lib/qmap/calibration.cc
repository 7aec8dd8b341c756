#include "lib/qmap/calibration.h"

#include <charconv>

#include "lib/base/checked.h"
#include "lib/base/error.h"
#include "lib/base/hash.h"

namespace qp {
namespace {

constexpr uint64_t kMaxCols = 1 << 24, kMaxWindows = 1 << 28;
constexpr uint32_t kBins = 1 << 14;

Error malformed(const std::string& what) {
  return input_error("calibration: " + what).hint("the qmap is damaged, or not written by qpipe");
}

uint64_t number(const Json& j, const char* key, uint64_t limit) {
  auto it = j.find(key);
  if (it == j.end() || !it->is_number_unsigned() || it->get<uint64_t>() > limit) {
    throw malformed("no sane '" + std::string(key) + "'");
  }
  return it->get<uint64_t>();
}

float real(const Json& j, const char* key) {
  auto it = j.find(key);
  if (it == j.end() || !it->is_number()) throw malformed("no number '" + std::string(key) + "'");
  return it->get<float>();
}

Json to_json(const Extent& e) {
  return Json::array({e.file, e.offset, e.length, hex64(e.xxh3.value_or(0))});
}

Extent extent(const Json& j) {
  auto it = j.find("extent");
  if (it == j.end() || !it->is_array() || it->size() != 4) throw malformed("no extent");
  const Json& e = *it;
  Extent out;
  for (size_t i = 0; i < 3; ++i) {
    if (!e[i].is_number_unsigned()) throw malformed("an extent that is none");
  }
  if (!e[3].is_string()) throw malformed("an extent without checksum");
  if (e[0].get<uint64_t>() >= 0xffffffff) throw malformed("a file number out of range");
  out.file = e[0].get<uint32_t>();
  out.offset = e[1].get<uint64_t>();
  out.length = e[2].get<uint64_t>();
  const auto& hash = e[3].get_ref<const std::string&>();
  uint64_t value = 0;
  auto [end, ec] = std::from_chars(hash.data(), hash.data() + hash.size(), value, 16);
  if (ec != std::errc() || end != hash.data() + hash.size()) throw malformed("a bad checksum");
  out.xxh3 = value;
  return out;
}

const Json& list(const Json& j, const char* key) {
  auto it = j.find(key);
  if (it == j.end() || !it->is_array()) throw malformed("no list '" + std::string(key) + "'");
  return *it;
}

InputStatistics input(const Json& j, uint64_t windows) {
  InputStatistics s;
  s.module = json_string(j, "module", "");
  for (const Json& reader : list(j, "readers")) {
    if (!reader.is_string()) throw malformed("a reader that is no name");
    s.readers.push_back(reader.get<std::string>());
  }
  s.cols = number(j, "cols", kMaxCols);
  s.rows = number(j, "rows", uint64_t{1} << 48);
  s.first_bin = static_cast<uint32_t>(number(j, "first_bin", kBins));
  s.bins = static_cast<uint32_t>(number(j, "bins", kBins));
  s.observed = real(j, "observed");
  s.extent = extent(j);
  if (s.first_bin + s.bins > kBins || s.extent.length != statistics_bytes(s, windows)) {
    throw malformed("sizes of '" + printable(s.module) + "' that do not fit together");
  }
  return s;
}

}  // namespace

uint64_t statistics_bytes(const InputStatistics& s, uint64_t windows) {
  if (s.cols > kMaxCols || windows > kMaxWindows) return 0;
  return s.cols * (16 + 16 + 4) + windows * 4 + uint64_t{s.bins} * 8;
}

Json to_json(const Calibration& c) {
  Json out = {{"options", c.options},
              {"windows", c.windows},
              {"tokens", {{"count", c.token_count}, {"extent", to_json(c.tokens)}}},
              {"inputs", Json::array()},
              {"routers", Json::array()},
              {"caches", Json::array()}};
  for (const InputStatistics& s : c.inputs) {
    out["inputs"].push_back({{"module", s.module},       {"readers", s.readers},
                             {"cols", s.cols},           {"rows", s.rows},
                             {"first_bin", s.first_bin}, {"bins", s.bins},
                             {"observed", s.observed},
                             {"extent", to_json(s.extent)}});
  }
  for (const RouterStatistics& r : c.routers) {
    out["routers"].push_back({{"module", r.module}, {"rows", r.rows}, {"counts", r.counts}});
  }
  for (const CacheStatistics& s : c.caches) {
    out["caches"].push_back({{"block", s.block}, {"k_amax", s.k_amax}, {"v_amax", s.v_amax}});
  }
  return out;
}

Calibration calibration_from_json(const Json& j) {
  Calibration c;
  if (!j.is_object()) throw malformed("no object");
  if (auto it = j.find("options"); it != j.end() && it->is_object()) c.options = *it;
  c.windows = number(j, "windows", kMaxWindows);
  auto tokens = j.find("tokens");
  if (tokens == j.end() || !tokens->is_object()) throw malformed("no tokens");
  c.token_count = number(*tokens, "count", uint64_t{1} << 48);
  c.tokens = extent(*tokens);
  if (c.tokens.length != 4 * (c.windows + c.token_count)) {
    throw malformed("token windows of the wrong size");
  }
  for (const Json& s : list(j, "inputs")) c.inputs.push_back(input(s, c.windows));
  for (const Json& r : list(j, "routers")) {
    RouterStatistics s{json_string(r, "module", ""), number(r, "rows", uint64_t{1} << 48), {}};
    for (const Json& count : list(r, "counts")) {
      if (!count.is_number_unsigned()) throw malformed("a count that is none");
      s.counts.push_back(count.get<uint64_t>());
    }
    c.routers.push_back(std::move(s));
  }
  for (const Json& s : list(j, "caches")) {
    c.caches.push_back({json_string(s, "block", ""), real(s, "k_amax"), real(s, "v_amax")});
  }
  return c;
}

}  // namespace qp
