// SPDX-License-Identifier: Apache-2.0
#include "context.h"

#include <algorithm>
#include <cstdlib>
#include <new>

namespace akida_backend {
namespace {

// Work that is worth sharing: some microseconds.
constexpr int64_t shared_work = 400'000;
constexpr int64_t chunks_per_thread = 4;
// Samples run together as long as their arenas stay within a cache.
constexpr int64_t group_bytes = 384 << 10;
constexpr int64_t largest_group = 32;

}  // namespace

void Context::Release::operator()(uint8_t* memory) const { std::free(memory); }

int64_t sample_values(const std::vector<int32_t>& shape) {
  int64_t values = 1;
  for (size_t i = 1; i < shape.size(); i++) values *= shape[i];
  return values;
}

int64_t type_bytes(uint32_t type) { return type <= 2 ? 1 : type <= 4 ? 2 : 4; }

Context::Context(std::shared_ptr<const Plan> plan, int threads) : plan_(std::move(plan)) {
  input_bytes_ = sample_values(plan_->input.shape) * type_bytes(plan_->input.type);
  output_bytes_ = sample_values(plan_->output.shape) * type_bytes(plan_->output.type);
  raw_bytes_ = sample_values(plan_->raw_shape) * type_bytes(plan_->raw_type);
  set_threads(threads);
  arenas(0, 1);
}

void Context::set_threads(int threads) {
  if (crew_ != nullptr && crew_->threads() == threads) return;
  auto crew = std::make_unique<Crew>(threads);
  arenas_.resize(static_cast<size_t>(threads));
  crew_ = std::move(crew);
}

// A worker's arenas for so many samples, borders filled.
uint8_t* Context::arenas(int worker, int64_t samples) {
  Arenas& own = arenas_[static_cast<size_t>(worker)];
  if (own.samples >= samples) return own.memory.get();
  own.memory.reset();
  own.samples = 0;
  const int64_t step = plan_->arena_bytes;
  auto* memory = static_cast<uint8_t*>(std::aligned_alloc(64, static_cast<size_t>(step * samples)));
  if (memory == nullptr) throw std::bad_alloc();
  own.memory.reset(memory);
  own.samples = samples;
  for (int64_t sample = 0; sample < samples; sample++) {
    for (const Border* border : plan_->lasting) border->fill(memory + sample * step);
  }
  return memory;
}

struct Context::Batch {
  const uint8_t* input;
  uint8_t* output;
  uint8_t* raw;
  int64_t samples;
  int64_t group;
  bool shared;  // threads share the steps of one group, not the groups
  Context* context;
};

int64_t Context::group_size(int64_t batch) const {
  const int64_t fitting = std::clamp<int64_t>(group_bytes / plan_->arena_bytes, 1, largest_group);
  const int64_t share = (batch + crew_->threads() - 1) / crew_->threads();
  return std::min(fitting, share);
}

void Context::run(const uint8_t* input, uint8_t* output, uint8_t* raw, int64_t batch) {
  if (batch == 0) return;
  if (crew_->left_behind()) crew_ = std::make_unique<Crew>(crew_->threads());
  Batch all{input, output, raw, batch, group_size(batch), false, this};
  const int64_t groups = (batch + all.group - 1) / all.group;
  all.shared = groups < crew_->threads();
  if (all.shared) {
    arenas(0, all.group);
    for (int64_t group = 0; group < groups; group++) {
      run_group(all, 0, group * all.group, std::min(all.group, batch - group * all.group));
    }
    return;
  }
  for (int worker = 0; worker < crew_->threads(); worker++) arenas(worker, all.group);
  const auto task = [](void* argument, int worker, int64_t group) {
    const Batch& of = *static_cast<const Batch*>(argument);
    const int64_t first = group * of.group;
    of.context->run_group(of, worker, first, std::min(of.group, of.samples - first));
  };
  // The crew counts to 2**20.
  constexpr int64_t most = 1 << 19;
  for (int64_t done = 0; done < groups; done += most) {
    Batch part = all;
    const int64_t first = done * all.group;
    part.input += first * input_bytes_;
    part.output += first * output_bytes_;
    if (raw != nullptr) part.raw += first * raw_bytes_;
    part.samples -= first;
    crew_->run(task, &part, std::min(most, groups - done));
  }
}

void Context::run_group(const Batch& batch, int worker, int64_t first, int64_t samples) {
  const int64_t step = plan_->arena_bytes;
  uint8_t* arena = arenas(worker, samples);
  const KernelTable& kernels = *plan_->kernels;
  for (int64_t sample = 0; sample < samples; sample++) {
    uint8_t* own = arena + sample * step;
    if (plan_->first_border != nullptr) plan_->first_border->fill(own);
    kernels.encode(&plan_->encode, batch.input + (first + sample) * input_bytes_, own);
  }
  for (const Step& each : plan_->steps) run_step(each, arena, samples, batch.shared);
  for (int64_t sample = 0; sample < samples; sample++) {
    uint8_t* raw = batch.raw == nullptr ? nullptr : batch.raw + (first + sample) * raw_bytes_;
    kernels.decode(&plan_->decode, arena + sample * step,
                   batch.output + (first + sample) * output_bytes_, raw);
  }
}

void Context::run_step(const Step& step, uint8_t* arena, int64_t samples, bool shared) {
  const int64_t arena_step = plan_->arena_bytes;
  if (step.border != nullptr) {
    for (int64_t sample = 0; sample < samples; sample++) {
      step.border->fill(arena + sample * arena_step);
    }
  }
  const int64_t units = step.shares_samples ? step.units : step.units * samples;
  if (!shared || crew_->threads() == 1 || step.work * samples < shared_work) {
    step.run(step.job, arena, arena_step, samples, 0, units);
    return;
  }
  struct Share {
    const Step* step;
    uint8_t* arena;
    int64_t arena_step, samples, units, chunks;
  };
  const int64_t chunks = std::min(units, chunks_per_thread * crew_->threads());
  Share share{&step, arena, arena_step, samples, units, chunks};
  const auto task = [](void* argument, int, int64_t chunk) {
    const Share& of = *static_cast<const Share*>(argument);
    const int64_t begin = of.units * chunk / of.chunks, end = of.units * (chunk + 1) / of.chunks;
    of.step->run(of.step->job, of.arena, of.arena_step, of.samples, begin, end);
  };
  crew_->run(task, &share, chunks);
}

}  // namespace akida_backend
