// Threads: a team that waits for work, grown when first asked for.
#pragma once

#include <cstddef>
#include <functional>

namespace qp {

// Threads of later parallel calls; 0 = one per processor this process may run on.
void set_threads(int threads);
int threads();

// body(i, worker) for i in [0, n), in any order, worker in [0, threads()). The exception of the
// lowest i is rethrown after all workers have stopped, so a message does not depend on timing.
void parallel_for(size_t n, const std::function<void(size_t i, int worker)>& body);

// A pipeline in order: produce(i, slot) runs in parallel, then retire(i, slot) runs for
// i = 0, 1, 2 .. strictly in order, one at a time, on whichever thread is free; the others go on
// producing. What produce leaves for retire belongs to its slot in [0, ordered_slots()), which no
// other i has meanwhile. Errors as in parallel_for.
void parallel_ordered(size_t n, const std::function<void(size_t i, int slot)>& produce,
                      const std::function<void(size_t i, int slot)>& retire);
int ordered_slots(int threads);
inline int ordered_slots() { return ordered_slots(threads()); }

}  // namespace qp
