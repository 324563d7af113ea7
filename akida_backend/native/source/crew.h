// SPDX-License-Identifier: Apache-2.0
// Threads that share the units of one task after another.
#ifndef AKIDA_BACKEND_CREW_H
#define AKIDA_BACKEND_CREW_H

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace akida_backend {

// The calling thread takes part and never waits for a helper that has not begun; helpers spin for
// a moment between tasks, then sleep.
class Crew {
 public:
  // `worker`: 0 for the calling thread, 1 and up for helpers.
  using Task = void (*)(void* argument, int worker, int64_t chunk);

  explicit Crew(int threads);
  ~Crew();
  Crew(const Crew&) = delete;
  Crew& operator=(const Crew&) = delete;

  int threads() const { return static_cast<int>(sleep_->helpers.size()) + 1; }

  // Whether this process is a fork of the one that made it: its helpers are not here, so it must
  // not run, and leaves them alone when it goes.
  bool left_behind() const;

  // Runs `task` for every chunk, fewer than 2**20 of them; returns when all are done.
  void run(Task task, void* argument, int64_t chunks);

 private:
  void help(int worker);
  bool take(uint64_t& seen, int64_t& chunk);
  void wake();

  // One word says all that a claim needs: serial of the task, its chunks, the next one.
  std::atomic<uint64_t> board_{0};
  alignas(64) std::atomic<int64_t> done_{0};
  alignas(64) std::atomic<int> sleeping_{0};
  std::atomic<bool> leaving_{false};
  Task task_ = nullptr;
  void* argument_ = nullptr;
  struct Sleep {
    std::mutex mutex;
    std::condition_variable called;
    std::vector<std::thread> helpers;
  };
  std::unique_ptr<Sleep> sleep_ = std::make_unique<Sleep>();
  const int64_t process_;
};

}  // namespace akida_backend

#endif
