// Chooses the table of kernels for this process.
#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <cstdlib>
#include <string>
#include <string_view>

#include "lib/base/error.h"
#include "lib/kernels/tables.h"

namespace qp::kernels {
namespace {

#if defined(__x86_64__) && !defined(QP_PORTABLE)
// Clang 14's __builtin_cpu_supports does not know it. That the OS saves its registers is asked
// along with avx2.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}

bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c() &&
         __builtin_cpu_supports("bmi2");
}

bool has_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vbmi") && has_avx2();
}

// AMD's multiply bf16 twice as fast as f32; Intel's, slower (and those in use have AMX).
bool has_fast_avx512_bf16() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_is("amd");
}

// bf16 tiles, and a kernel that lets processes ask for them (which is done by who uses them).
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  constexpr unsigned kTiles = 1u << 24, kBf16 = 1u << 22;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0 || (d & kTiles) == 0 || (d & kBf16) == 0) {
    return false;
  }
  constexpr long kGetSupported = 0x1021;  // ARCH_GET_XCOMP_SUPP
  uint64_t features = 0;
  return syscall(SYS_arch_prctl, kGetSupported, &features) == 0 && (features >> 18 & 1) != 0;
}
#endif

// A row of kernels.def.
struct Isa {
  const char* name;
  const Table* table;
};

#define QP_ISA(name, table, supported) +1
constexpr size_t kMaxIsas = 0
#include "lib/kernels/kernels.def"
    ;
#undef QP_ISA

struct Found {
  std::array<Isa, kMaxIsas> isas{};
  size_t size = 0;
  std::array<const Table*, kMaxIsas> tables{};  // each once
  size_t table_count = 0;
};

Found find_supported() {
  Found f;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#define QP_ISA(name, table, supported) \
  if (supported) f.isas[f.size++] = {#name, &k_##table};
#include "lib/kernels/kernels.def"
#undef QP_ISA
  for (size_t i = 0; i < f.size; ++i) {
    if (std::string_view(f.isas[i].name) == f.isas[i].table->isa) {
      f.tables[f.table_count++] = f.isas[i].table;
    }
  }
  return f;
}

const Found& found() {
  static const Found f = find_supported();
  return f;
}

const Isa& choose() {
  const Found& f = found();
  const char* wanted = std::getenv("QPIPE_ISA");
  if (wanted == nullptr || *wanted == '\0') return f.isas[f.size - 1];
  std::string names;
  for (size_t i = 0; i < f.size; ++i) {
    if (std::string_view(wanted) == f.isas[i].name) return f.isas[i];
    names += std::string(names.empty() ? "" : ", ") + f.isas[i].name;
  }
  throw usage_error("QPIPE_ISA is '" + printable(wanted) + "' (expected one of: " + names + ")")
      .hint("unset it to use the best this processor has");
}

const Isa& chosen() {
  static const Isa& isa = choose();
  return isa;
}

}  // namespace

TableList supported() { return {found().tables.data(), found().table_count}; }

const Table& active() { return *chosen().table; }

const char* active_isa() { return chosen().name; }

bool supports(const char* isa) {
  for (size_t i = 0; i < found().size; ++i) {
    if (std::string_view(isa) == found().isas[i].name) return true;
  }
  return false;
}

}  // namespace qp::kernels
