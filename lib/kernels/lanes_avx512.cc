// lanes.inc for avx512.
#define QP_LANE_TABLE k_lanes_avx512
#include "lib/kernels/lanes.inc"
