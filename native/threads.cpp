#include "threads.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <limits>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace qwen3 {
namespace {

constexpr auto kSpin = std::chrono::microseconds(50);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

class Pool {
 public:
  explicit Pool(int num_threads) {
    workers_.reserve(static_cast<size_t>(num_threads) - 1);
    try {
      for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { serve(); });
    } catch (const std::exception&) {
      // The system has no thread or no memory left: those that there are will do.
    }
  }

  ~Pool() {
    {
      const std::lock_guard<std::mutex> lock(sleep_);
      is_stopping_.store(true);
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  void run(size_t num_pieces, Piece* work, void* context) {
    if (num_pieces <= 1 || workers_.empty()) {
      for (size_t piece = 0; piece < num_pieces; ++piece) work(context, piece);
      return;
    }
    // A ticket has room for kMaxPieces.
    for (size_t first = 0; first < num_pieces; first += kMaxPieces) {
      run_job({work, context, first, std::min(num_pieces - first, kMaxPieces)});
    }
  }

 private:
  struct Job {
    Piece* work;
    void* context;
    size_t first, num_pieces;
  };

  // The job's number, its pieces and the next one in a single word: who takes a piece by exchanging this word knows
  // that the job is still running, so a worker that wakes late finds nothing to take and touches nothing.
  static constexpr int kPieceBits = 20;
  static constexpr size_t kMaxPieces = (size_t{1} << kPieceBits) - 1;
  static size_t next_of(uint64_t ticket) { return ticket & kMaxPieces; }
  static size_t end_of(uint64_t ticket) { return ticket >> kPieceBits & kMaxPieces; }
  static bool is_open(uint64_t ticket) { return next_of(ticket) < end_of(ticket); }

  void run_job(const Job& job) {
    job_ = job;
    num_done_.store(0, std::memory_order_relaxed);
    ++job_number_;
    ticket_.store(job_number_ << 2 * kPieceBits | static_cast<uint64_t>(job.num_pieces) << kPieceBits);
    if (num_asleep_.load() > 0) {
      const std::lock_guard<std::mutex> lock(sleep_);
      wake_.notify_all();
    }
    take_pieces();
    const auto give_up = std::chrono::steady_clock::now() + kSpin;
    while (num_done_.load(std::memory_order_acquire) < job.num_pieces) {
      // The other thread may wait for this very CPU.
      std::chrono::steady_clock::now() < give_up ? relax() : std::this_thread::yield();
    }
  }

  void take_pieces() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (is_open(ticket)) {
      if (!ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        continue;
      }
      job_.work(job_.context, job_.first + next_of(ticket));
      num_done_.fetch_add(1, std::memory_order_release);
      ticket = ticket_.load(std::memory_order_acquire);
    }
  }

  void serve() {
    while (!is_stopping_.load(std::memory_order_relaxed)) {
      take_pieces();
      const auto give_up = std::chrono::steady_clock::now() + kSpin;
      while (!is_open(ticket_.load(std::memory_order_relaxed))) {
        if (std::chrono::steady_clock::now() > give_up) {
          sleep_until_work();
          break;
        }
        for (int i = 0; i < 16; ++i) relax();
      }
    }
  }

  // run_job publishes the ticket, then looks for sleepers; here the sleeper counts itself, then looks at the ticket.
  // All four are sequentially consistent, so one of the two sees the other.
  void sleep_until_work() {
    std::unique_lock<std::mutex> lock(sleep_);
    num_asleep_.fetch_add(1);
    wake_.wait(lock, [this] { return is_open(ticket_.load()) || is_stopping_.load(); });
    num_asleep_.fetch_sub(1);
  }

  Job job_{};
  uint64_t job_number_ = 0;
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<size_t> num_done_{0};
  alignas(64) std::atomic<int> num_asleep_{0};
  std::atomic<bool> is_stopping_{false};
  std::mutex sleep_;
  std::condition_variable wake_;
  std::vector<std::thread> workers_;
};

// Never destroyed: workers may still be asleep when the process ends.
struct Owner {
  std::mutex one_job_at_a_time;
  Pool* pool = nullptr;
};

std::atomic<Owner*> owner_{nullptr};

// In a child process the pool's threads do not exist and its locks are in any state, so it is left behind whole.
void forget_after_fork() { owner_.store(new Owner); }

Owner& owner() {
  static const bool is_registered = [] {
    owner_.store(new Owner);
    return pthread_atfork(nullptr, nullptr, forget_after_fork) == 0;
  }();
  (void)is_registered;
  return *owner_.load(std::memory_order_acquire);
}

Pool& pool_of(Owner& owner) {
  if (!owner.pool) owner.pool = new Pool(default_num_threads());
  return *owner.pool;
}

#if defined(__linux__)

// CPUs that a control group's quota amounts to, from its files of either version; infinite without one.
double quota_cpus() {
  double cpus = std::numeric_limits<double>::infinity();
  const auto lower_to = [&cpus](double quota, double period) {
    if (quota > 0 && period > 0) cpus = std::min(cpus, quota / period);
  };
  std::ifstream groups("/proc/self/cgroup");
  for (std::string line; std::getline(groups, line);) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const bool is_version_2 = controllers.empty();
    if (!is_version_2 && ("," + controllers + ",").find(",cpu,") == std::string::npos) continue;
    // A quota may stand at any level above; in a container the own group is mounted as the root.
    for (std::string path = line.substr(second + 1);; path.resize(path.rfind('/'))) {
      if (path == "/") path.clear();
      if (is_version_2) {
        std::ifstream file("/sys/fs/cgroup" + path + "/cpu.max");
        double quota = 0, period = 0;
        if (file >> quota >> period) lower_to(quota, period);  // "max" is no number
      } else {
        std::ifstream quota_file("/sys/fs/cgroup/cpu" + path + "/cpu.cfs_quota_us");
        std::ifstream period_file("/sys/fs/cgroup/cpu" + path + "/cpu.cfs_period_us");
        double quota = 0, period = 0;
        if (quota_file >> quota && period_file >> period) lower_to(quota, period);
      }
      if (path.empty() || path.rfind('/') == std::string::npos) break;
    }
  }
  return cpus;
}

int usable_cpus() {
  // Large enough a set for any machine; sched_getaffinity fails on one that is too small.
  constexpr int kMostCpus = 8192;
  cpu_set_t* set = CPU_ALLOC(kMostCpus);
  const size_t size = CPU_ALLOC_SIZE(kMostCpus);
  const int count = sched_getaffinity(0, size, set) == 0 ? CPU_COUNT_S(size, set) : 1;
  CPU_FREE(set);
  return static_cast<int>(std::max(1.0, std::min<double>(count, std::ceil(quota_cpus()))));
}

#else

int usable_cpus() { return static_cast<int>(std::max(1u, std::thread::hardware_concurrency())); }

#endif

}  // namespace

int default_num_threads() {
  const char* text = std::getenv("QWEN3_THREADS");
  if (!text || !*text) return std::min(usable_cpus(), 1024);
  char* end;
  const long count = std::strtol(text, &end, 10);
  if (*end || count < 1 || count > 1024) {
    throw std::invalid_argument("QWEN3_THREADS must be a number from 1 to 1024, not \"" + std::string(text) + "\"");
  }
  return static_cast<int>(count);
}

int num_threads() {
  Owner& it = owner();
  const std::lock_guard<std::mutex> lock(it.one_job_at_a_time);
  return pool_of(it).num_threads();
}

void set_num_threads(int count) {
  Owner& it = owner();
  const std::lock_guard<std::mutex> lock(it.one_job_at_a_time);
  delete it.pool;
  it.pool = nullptr;
  it.pool = new Pool(count);
}

void run_pieces(size_t num_pieces, Piece* work, void* context) {
  Owner& it = owner();
  const std::lock_guard<std::mutex> lock(it.one_job_at_a_time);
  pool_of(it).run(num_pieces, work, context);
}

}  // namespace qwen3
