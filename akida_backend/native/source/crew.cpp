// SPDX-License-Identifier: Apache-2.0
#include "crew.h"

#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace akida_backend {
namespace {

constexpr int count_bits = 20;
constexpr uint64_t count_mask = (uint64_t{1} << count_bits) - 1;
constexpr auto patience = std::chrono::microseconds(100);

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

int64_t process() {
#if defined(_WIN32)
  return 0;  // nothing forks
#else
  return getpid();
#endif
}

}  // namespace

Crew::Crew(int threads) : process_(process()) {
  auto& helpers = sleep_->helpers;
  helpers.reserve(static_cast<size_t>(threads - 1));
  try {
    for (int worker = 1; worker < threads; worker++) {
      helpers.emplace_back(&Crew::help, this, worker);
    }
  } catch (...) {
    wake();
    throw;
  }
}

Crew::~Crew() {
  if (left_behind()) {
    // To end what waits in another process would wait for ever.
    (void)sleep_.release();
    return;
  }
  wake();
}

bool Crew::left_behind() const { return !sleep_->helpers.empty() && process() != process_; }

// Ends all helpers.
void Crew::wake() {
  {
    const std::lock_guard<std::mutex> lock(sleep_->mutex);
    leaving_ = true;
  }
  sleep_->called.notify_all();
  for (std::thread& helper : sleep_->helpers) helper.join();
  sleep_->helpers.clear();
}

// Claims a chunk of the task on the board. Board and claim change together, so a chunk is only
// ever claimed of the task it belongs to, and that task's fields stand until it is done.
bool Crew::take(uint64_t& seen, int64_t& chunk) {
  seen = board_.load(std::memory_order_acquire);
  while ((seen & count_mask) < (seen >> count_bits & count_mask)) {
    if (board_.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel,
                                     std::memory_order_acquire)) {
      chunk = static_cast<int64_t>(seen & count_mask);
      return true;
    }
  }
  return false;
}

void Crew::run(Task task, void* argument, int64_t chunks) {
  if (sleep_->helpers.empty() || chunks == 1) {
    for (int64_t chunk = 0; chunk < chunks; chunk++) task(argument, 0, chunk);
    return;
  }
  task_ = task;
  argument_ = argument;
  done_.store(0, std::memory_order_relaxed);
  const uint64_t serial = (board_.load(std::memory_order_relaxed) >> (2 * count_bits)) + 1;
  // Sequentially consistent, as the sleeper's own two steps: one of us sees the other.
  board_.store(serial << (2 * count_bits) | static_cast<uint64_t>(chunks) << count_bits);
  if (sleeping_.load() > 0) {
    { const std::lock_guard<std::mutex> lock(sleep_->mutex); }
    sleep_->called.notify_all();
  }
  uint64_t seen;
  int64_t chunk, own = 0;
  for (; take(seen, chunk); own++) task(argument, 0, chunk);
  int64_t done = done_.fetch_add(own, std::memory_order_acq_rel) + own;
  for (int spins = 0; done < chunks; done = done_.load(std::memory_order_acquire)) {
    if (++spins < 2000) {
      relax();
    } else {
      std::this_thread::yield();
    }
  }
}

void Crew::help(int worker) {
  uint64_t seen = 0;
  int64_t chunk;
  auto since = std::chrono::steady_clock::now();
  for (int spins = 1;; spins++) {
    if (take(seen, chunk)) {
      task_(argument_, worker, chunk);
      done_.fetch_add(1, std::memory_order_acq_rel);
      spins = 0;
      continue;
    }
    if (leaving_.load(std::memory_order_relaxed)) return;
    relax();
    if (spins % 64 != 0) continue;
    const auto now = std::chrono::steady_clock::now();
    if (spins == 64) since = now;
    if (now - since < patience) continue;
    std::unique_lock<std::mutex> lock(sleep_->mutex);
    sleeping_.fetch_add(1);
    sleep_->called.wait(lock, [&] { return leaving_ || board_.load() != seen; });
    sleeping_.fetch_sub(1);
    spins = 0;
  }
}

}  // namespace akida_backend
