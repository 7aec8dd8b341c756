// lanes.inc for neon.
#define QP_LANE_TABLE k_lanes_neon
#include "lib/kernels/lanes.inc"
