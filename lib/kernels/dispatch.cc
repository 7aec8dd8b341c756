// Chooses the table of kernels for this process.
#if defined(__x86_64__)
#include <cpuid.h>
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
#endif

#define QP_ISA(name, supported) +1
constexpr size_t kMaxTables = 0
#include "lib/kernels/kernels.def"
    ;
#undef QP_ISA

struct Found {
  std::array<const Table*, kMaxTables> tables{};
  size_t size = 0;
};

Found find_supported() {
  Found f;
#if defined(__x86_64__)
  __builtin_cpu_init();
#endif
#define QP_ISA(name, supported) \
  if (supported) f.tables[f.size++] = &k_##name;
#include "lib/kernels/kernels.def"
#undef QP_ISA
  return f;
}

const Table& choose() {
  TableList list = supported();
  const char* wanted = std::getenv("QPIPE_ISA");
  if (wanted == nullptr || *wanted == '\0') return *list.data[list.size - 1];
  std::string names;
  for (const Table* t : list) {
    if (std::string_view(wanted) == t->isa) return *t;
    names += std::string(names.empty() ? "" : ", ") + t->isa;
  }
  throw usage_error("QPIPE_ISA is '" + printable(wanted) + "' (expected one of: " + names + ")")
      .hint("unset it to use the best this processor has");
}

}  // namespace

TableList supported() {
  static const Found found = find_supported();
  return {found.tables.data(), found.size};
}

const Table& active() {
  static const Table& chosen = choose();
  return chosen;
}

}  // namespace qp::kernels
