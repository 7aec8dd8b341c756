// lanes.inc for any processor.
#define QP_LANE_TABLE k_lanes_scalar
#include "lib/kernels/lanes.inc"
