#include "lib/verify/sample.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "lib/base/error.h"
#include "lib/base/hash.h"
#include "lib/base/interrupt.h"
#include "lib/base/parallel.h"
#include "lib/base/random.h"

namespace qp {
namespace {

// Long enough that a disk reads it in one go, short enough that 5 % of a small matrix are several.
constexpr uint64_t kRunElements = 64 << 10;

}  // namespace

double parse_share(const std::string& text, const std::string& option) {
  auto fail = [&](const char* why) {
    return usage_error(option + " '" + printable(text) + "' " + why)
        .hint("give percent (5%) or a share below 1 (0.05)");
  };
  std::string_view number = text;
  bool percent = number.ends_with('%');
  if (percent) number.remove_suffix(1);
  while (percent && number.ends_with(' ')) number.remove_suffix(1);
  double v = 0;
  auto [end, ec] = std::from_chars(number.data(), number.data() + number.size(), v);
  if (ec != std::errc() || end != number.data() + number.size() || !std::isfinite(v)) {
    throw fail("is no number");
  }
  if (percent && !(v > 0 && v <= 100)) throw fail("is not above 0 and at most 100 percent");
  if (!percent && v >= 1) throw fail("could be percent or a share");
  if (!(v > 0)) throw fail("is not above 0");
  return percent ? v / 100 : v;
}

RowSample::RowSample(const Sampling& sampling, std::string_view name, uint64_t rows, uint64_t cols)
    : all_(rows), picked_(rows) {
  uint64_t length = std::clamp<uint64_t>(kRunElements / std::max<uint64_t>(cols, 1), 1,
                                         std::max<uint64_t>(rows, 1));
  uint64_t places = rows / length;
  if (sampling.whole() || places < 2 || cols == 0) return;
  double wanted =
      std::ceil(sampling.share * static_cast<double>(rows) / static_cast<double>(length));
  uint64_t n = std::clamp<uint64_t>(static_cast<uint64_t>(wanted), 1, places);
  if (n * length == rows) return;
  whole_ = false;
  picked_ = n * length;
  SplitMix64 random(sampling.seed ^ xxh3_64(std::as_bytes(std::span(name))));
  uint64_t turn = random.below(rows);
  // Knuth 3.4.2 S: each of the places left is taken with probability needed / left.
  for (uint64_t k = 0, needed = n; needed > 0; ++k) {
    if (random.below(places - k) >= needed) continue;
    --needed;
    uint64_t first = turn + k * length;
    if (first >= rows) first -= rows;
    uint64_t here = std::min(length, rows - first);
    runs_.push_back({first, here});
    if (here < length) runs_.push_back({0, length - here});
  }
  std::ranges::sort(runs_, {}, &RowRun::first);
}

double RowSample::weight() const {
  return picked_ == 0 ? 1.0 : static_cast<double>(all_) / static_cast<double>(picked_);
}

std::vector<RowRun> RowSample::runs(uint64_t longest) const {
  std::vector<RowRun> out;
  RowRun all{0, all_};
  for (const RowRun& run : whole_ ? std::span<const RowRun>(&all, 1) : std::span(runs_)) {
    for (uint64_t done = 0; done < run.count; done += longest) {
      out.push_back({run.first + done, std::min(longest, run.count - done)});
    }
  }
  return out;
}

void for_sampled_rows(const RowSource& source, const RowSample& sample, uint64_t chunk_bytes,
                      const RowWork& work) {
  if (sample.whole()) return for_row_chunks(source, chunk_bytes, work, nullptr);
  uint64_t bytes = std::max<uint64_t>(source.row_bytes(), 1);
  std::vector<RowRun> runs = sample.runs(std::max<uint64_t>(chunk_bytes / bytes, 1));
  std::vector<RowScratch> scratch(static_cast<size_t>(threads()));
  parallel_for(runs.size(), [&](size_t i, int worker) {
    throw_if_interrupted();
    RowChunk c;
    c.first = runs[i].first;
    c.count = runs[i].count;
    c.slot = static_cast<size_t>(worker);
    c.rows = {source.get(c.first, c.count, scratch[c.slot]), c.count * source.row_bytes()};
    work(c);
    source.drop(c.first, c.count);
  });
}

}  // namespace qp
