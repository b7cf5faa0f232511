// The thread pool of the kernels: one for the process, started by its first use.
//
// A job is a number of equal pieces. Threads take them one at a time, in no fixed order, so a piece must write only
// what is its own; then results do not depend on the number of threads. A piece must not throw: it may run on a worker,
// where nobody catches. Idle workers spin for a moment, since the next product of a model follows within microseconds,
// and then sleep.
//
// Jobs of several callers run one after the other. A piece may not start a job. After a fork the child starts workers
// of its own.
#pragma once

#include <stddef.h>

namespace qwen3 {

// QWEN3_THREADS, else the CPUs that the process may use: its affinity, and the quota of its control group.
// Throws std::invalid_argument if QWEN3_THREADS is no number from 1 to 1024.
int default_num_threads();

// Of the pool, the caller's own included: fewer than asked for where the system gave no more. Waits for the running job.
int num_threads();

// How many of `count` things to put into a piece so that there are eight pieces for each thread: one that other work
// slows down then takes fewer. 0 if `count` is smaller.
inline size_t fair_share(size_t count) { return count / (8 * static_cast<size_t>(num_threads())); }

// Waits for the running job, then replaces the workers. `count` includes the caller's own thread: 1 means no workers.
void set_num_threads(int count);

using Piece = void(void* context, size_t piece);
void run_pieces(size_t num_pieces, Piece* work, void* context);

// work(piece) for every piece in [0, num_pieces), on all threads; returns when all are done.
template <class Work>
void parallel_for(size_t num_pieces, Work&& work) {
  run_pieces(num_pieces, [](void* context, size_t piece) { (*static_cast<Work*>(context))(piece); }, &work);
}

}  // namespace qwen3
