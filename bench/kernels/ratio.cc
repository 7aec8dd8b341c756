// Speed of the kernels beside a copy of the same rows, measured in turn (copy, kernel, copy,
// kernel, ..) on the same threads; medians. Time is processor time, but memory is shared with
// other programs too: read the ratio.
//
//   qp_bench_kernels [--threads N] [--isa NAME] [--only TEXT] [--rows N] [--repeat N]
//
// GB/s counts bytes of the source (bf16 weights; codes' f32 output for the inverses).
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "lib/kernels/kernels.h"
#include "lib/tensor/minifloat.h"

namespace qp::kernels {
namespace {

constexpr size_t kCols = 14336;

struct Options {
  size_t threads = 0;  // 0: one, then two
  size_t rows = 8192;
  size_t repeat = 9;
  std::string isa, only;
};

// What one thread keeps between rows.
struct Scratch {
  std::vector<float> amax = std::vector<float>(kCols), low = amax, scale = amax, values = amax;
  std::vector<uint8_t> small = std::vector<uint8_t>(kCols);
};

struct Op {
  const char* name;
  // One row: bf16 source, codes of an earlier int8 run, where to write.
  std::function<void(const Table&, const uint16_t* row, uint8_t* out, Scratch&)> run;
  size_t bytes_per_row = kCols * 2;
  size_t rows = 1;  // a run does so many at once
};

void scale_by(Scratch& s, size_t groups, float divisor) {
  for (size_t g = 0; g < groups; ++g) {
    float scale = bf16_to_f32(f32_to_bf16(s.amax[g] / divisor));
    s.scale[g] = scale == 0 ? 0x1p-7f : scale;
  }
}

void integer(const Table& k, const uint16_t* row, uint8_t* out, Scratch& s, size_t group,
             int bits) {
  k.group_absmax(Src::bf16, row, kCols, group, s.amax.data());
  scale_by(s, (kCols + group - 1) / group, static_cast<float>((1 << bits) - 1) / 2);
  k.int_codes(Src::bf16, row, kCols, group, s.scale.data(), nullptr, bits, out);
}

void asymmetric(const Table& k, const uint16_t* row, uint8_t* out, Scratch& s) {
  k.group_minmax(Src::bf16, row, kCols, 128, s.low.data(), s.amax.data());
  for (size_t g = 0; g < kCols / 128; ++g) {
    s.scale[g] = bf16_to_f32(f32_to_bf16((s.amax[g] - s.low[g]) / 15));
    s.low[g] = std::nearbyint(-8 - s.low[g] / s.scale[g]);
  }
  k.int_codes(Src::bf16, row, kCols, 128, s.scale.data(), s.low.data(), 4, out);
}

void fp8(const Table& k, const uint16_t* row, uint8_t* out, Scratch& s, size_t group) {
  k.group_absmax(Src::bf16, row, kCols, group, s.amax.data());
  scale_by(s, (kCols + group - 1) / group, 448);
  k.e4m3_codes(Src::bf16, row, kCols, group, s.scale.data(), true, out);
}

// Blocks of 128 x 128: a pass over 128 rows for the scales, another for the codes.
void fp8_block(const Table& k, const uint16_t* row, uint8_t* out, Scratch& s) {
  constexpr size_t kBlocks = kCols / 128;
  std::fill_n(s.low.begin(), kBlocks, 0.0f);
  for (size_t r = 0; r < 128; ++r) {
    k.group_absmax(Src::bf16, row + r * kCols, kCols, 128, s.amax.data());
    for (size_t g = 0; g < kBlocks; ++g) s.low[g] = std::max(s.low[g], s.amax[g]);
  }
  s.amax.swap(s.low);
  scale_by(s, kBlocks, 448);
  for (size_t r = 0; r < 128; ++r) {
    k.e4m3_codes(Src::bf16, row + r * kCols, kCols, 128, s.scale.data(), true, out + r * kCols);
  }
}

void nvfp4(const Table& k, const uint16_t* row, uint8_t* out, Scratch& s) {
  k.group_absmax(Src::bf16, row, kCols, 16, s.amax.data());
  k.nvfp4_scales(Src::bf16, s.amax.data(), kCols / 16, 20000.0f, s.small.data(), s.scale.data());
  k.e2m1_codes(Src::bf16, row, kCols, 16, s.scale.data(), false, out);
}

void mxfp(const Table& k, const uint16_t* row, uint8_t* out, Scratch& s, int offset) {
  k.group_absmax(Src::bf16, row, kCols, 32, s.amax.data());
  k.mx_scales(Src::bf16, s.amax.data(), kCols / 32, offset, s.small.data(), s.scale.data());
  if (offset == 2) {
    k.e2m1_codes(Src::bf16, row, kCols, 32, s.scale.data(), true, out);
  } else {
    k.e4m3_codes(Src::bf16, row, kCols, 32, s.scale.data(), true, out);
  }
}

// The inverses read the source's bytes as codes; all scales are 1.
template <class Decode>
Op inverse(const char* name, Decode decode) {
  return {name,
          [decode](const Table& k, const uint16_t* row, uint8_t*, Scratch& s) {
            if (s.scale[0] != 1) std::fill(s.scale.begin(), s.scale.end(), 1.0f);
            decode(k, reinterpret_cast<const uint8_t*>(row), s);
          },
          kCols * 4};
}

std::vector<Op> operations() {
  auto i = [](size_t group, int bits) {
    return [=](const Table& k, const uint16_t* row, uint8_t* out, Scratch& s) {
      integer(k, row, out, s, group, bits);
    };
  };
  auto absmax = [](size_t group) {
    return [=](const Table& k, const uint16_t* row, uint8_t*, Scratch& s) {
      k.group_absmax(Src::bf16, row, kCols, group, s.amax.data());
    };
  };
  using namespace std::placeholders;
  return {
      {"absmax channel", absmax(kCols)},
      {"absmax g128", absmax(128)},
      {"absmax g32", absmax(32)},
      {"absmax g16", absmax(16)},
      {"int8 channel", i(kCols, 8)},
      {"int8 g128", i(128, 8)},
      {"int4 channel", i(kCols, 4)},
      {"int4 g128", i(128, 4)},
      {"int4 g32", i(32, 4)},
      {"int4 g128 asymmetric", asymmetric},
      {"int3 g128", i(128, 3)},
      {"int6 g128", i(128, 6)},
      {"fp8 channel", std::bind(fp8, _1, _2, _3, _4, kCols)},
      {"fp8 g128", std::bind(fp8, _1, _2, _3, _4, 128)},
      {"fp8 block 128x128", fp8_block, kCols * 2, 128},
      {"nvfp4", nvfp4},
      {"mxfp4", std::bind(mxfp, _1, _2, _3, _4, 2)},
      {"mxfp8", std::bind(mxfp, _1, _2, _3, _4, 8)},
      {"bf16 to f32",
       [](const Table& k, const uint16_t* row, uint8_t*, Scratch& s) {
         k.to_f32(Src::bf16, row, kCols, s.values.data());
       }},
      {"f32 to bf16",
       [](const Table& k, const uint16_t* row, uint8_t* out, Scratch&) {
         k.from_f32(Src::bf16, reinterpret_cast<const float*>(row), kCols / 2, out);
       }},
      inverse("int8 channel values",
              [](const Table& k, const uint8_t* codes, Scratch& s) {
                k.int_values(codes, kCols, kCols, s.scale.data(), nullptr, 8, s.values.data());
              }),
      inverse("int4 g128 values",
              [](const Table& k, const uint8_t* codes, Scratch& s) {
                k.int_values(codes, kCols, 128, s.scale.data(), nullptr, 4, s.values.data());
              }),
      inverse("fp8 channel values",
              [](const Table& k, const uint8_t* codes, Scratch& s) {
                k.e4m3_values(codes, kCols, kCols, s.scale.data(), s.values.data());
              }),
      inverse("nvfp4 values",
              [](const Table& k, const uint8_t* codes, Scratch& s) {
                k.e2m1_values(codes, kCols, 16, s.scale.data(), s.values.data());
              }),
      {"compare (bf16 as f32)",
       [](const Table& k, const uint16_t* row, uint8_t*, Scratch& s) {
         ErrorSums sums;
         k.compare(reinterpret_cast<const float*>(row), s.values.data(), kCols / 2, &sums);
         s.low[0] = static_cast<float>(sums.a2);
       }},
      {"histogram int8",
       [](const Table& k, const uint16_t* row, uint8_t*, Scratch& s) {
         uint64_t counts[256] = {};
         k.histogram(reinterpret_cast<const uint8_t*>(row), kCols * 2, 8, counts);
         s.low[0] = static_cast<float>(counts[3]);
       }},
      {"histogram int4",
       [](const Table& k, const uint16_t* row, uint8_t*, Scratch& s) {
         uint64_t counts[16] = {};
         k.histogram(reinterpret_cast<const uint8_t*>(row), kCols * 4, 4, counts);
         s.low[0] = static_cast<float>(counts[3]);
       }},
  };
}

// Processor time of the slowest thread: time slices given to other programs do not count.
double seconds_of(size_t threads, size_t rows, const std::function<void(size_t, size_t)>& run) {
  std::vector<double> used(threads);
  auto part = [&](size_t t) {
    timespec start, end;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    for (size_t r = rows * t / threads; r < rows * (t + 1) / threads; ++r) run(t, r);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    used[t] = static_cast<double>(end.tv_sec - start.tv_sec) +
              static_cast<double>(end.tv_nsec - start.tv_nsec) * 1e-9;
  };
  std::vector<std::thread> others;
  for (size_t t = 1; t < threads; ++t) others.emplace_back(part, t);
  part(0);
  for (auto& t : others) t.join();
  return *std::max_element(used.begin(), used.end());
}

double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<std::ptrdiff_t>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

void measure(const Options& o, size_t threads, const std::vector<uint16_t>& source,
             std::vector<uint8_t>& target) {
  std::vector<Scratch> scratch(threads);
  auto copy = [&](size_t, size_t r) {
    std::memcpy(target.data() + r * kCols * 2, source.data() + r * kCols, kCols * 2);
  };
  for (const Table* k : supported()) {
    if (!o.isa.empty() && o.isa != k->isa) continue;
    for (const Op& op : operations()) {
      if (std::string_view(op.name).find(o.only) == std::string_view::npos) continue;
      // The scalar kernels are twenty times slower: fewer rows tell as much.
      size_t rows = std::string_view(k->isa) == "scalar" ? std::min<size_t>(o.rows, 256) : o.rows;
      auto run = [&](size_t t, size_t r) {
        if (r % op.rows != 0) return;
        op.run(*k, source.data() + r * kCols, target.data() + r * kCols * 2, scratch[t]);
      };
      std::vector<double> speed, ratio, copied;
      for (size_t i = 0; i <= o.repeat; ++i) {
        double c = seconds_of(threads, rows, copy), s = seconds_of(threads, rows, run);
        if (i == 0) continue;  // warm-up
        auto bytes = static_cast<double>(rows * op.bytes_per_row);
        speed.push_back(bytes / s / 1e9);
        copied.push_back(static_cast<double>(rows * kCols * 2) / c / 1e9);
        ratio.push_back(c / s);
      }
      std::printf("%-8s %zu  %-24s %8.2f GB/s  copy %6.2f GB/s  ratio %5.2f\n", k->isa, threads,
                  op.name, median(speed), median(copied), median(ratio));
      std::fflush(stdout);
    }
  }
}

// Weights with a normal distribution of 0.02, the same in every run.
std::vector<uint16_t> weights(size_t n) {
  std::vector<uint16_t> w(n);
  uint64_t state = 1;
  for (auto& v : w) {
    int sum = 0;
    for (int i = 0; i < 4; ++i) {
      state = state * 6364136223846793005u + 1442695040888963407u;
      sum += static_cast<int>(state >> 48) - 32768;
    }
    v = f32_to_bf16(static_cast<float>(sum) * (0.02f / 37837));
  }
  return w;
}

int run(int argc, char** argv) {
  Options o;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string_view name = argv[i];
    if (name == "--threads") o.threads = std::strtoul(argv[i + 1], nullptr, 10);
    if (name == "--rows") o.rows = std::strtoul(argv[i + 1], nullptr, 10);
    if (name == "--repeat") o.repeat = std::strtoul(argv[i + 1], nullptr, 10);
    if (name == "--isa") o.isa = argv[i + 1];
    if (name == "--only") o.only = argv[i + 1];
  }
  std::vector<uint16_t> source = weights(o.rows * kCols);
  std::vector<uint8_t> target(o.rows * kCols * 2, 1);
  for (size_t threads : {size_t{1}, size_t{2}}) {
    if (o.threads == 0 || o.threads == threads) measure(o, threads, source, target);
  }
  if (o.threads > 2) measure(o, o.threads, source, target);
  return 0;
}

}  // namespace
}  // namespace qp::kernels

int main(int argc, char** argv) { return qp::kernels::run(argc, argv); }
