// lanes.inc for avx2.
#define QP_LANE_TABLE k_lanes_avx2
#include "lib/kernels/lanes.inc"
