// The table of each instruction set; one file each. Only dispatch.cc and the files themselves
// use this header.
#pragma once

#include "lib/kernels/kernels.h"

namespace qp::kernels {

#define QP_ISA(name, table, supported) extern const Table k_##table;
#include "lib/kernels/kernels.def"
#undef QP_ISA

}  // namespace qp::kernels
