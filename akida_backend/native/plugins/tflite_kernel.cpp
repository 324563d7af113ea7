// SPDX-License-Identifier: Apache-2.0
#include "tflite_kernel.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <utility>

#include "tflite_answer.h"
#include "tflite_graph.h"

namespace akida_backend::tflite {

namespace {

thread_local std::vector<Partition>* offered = nullptr;

struct Kernel {
  Partition partition;
  std::vector<std::vector<char>> slots;  // values between programs
  std::vector<char> picked;              // a program's input after picking
};

// What `action` returns. No exception leaves a kernel.
template <class Action>
Status guarded(Context* context, const Action& action) {
  try {
    return action();
  } catch (const std::exception&) {  // nothing else is thrown here
    context->report_error(context, "%s", "akida-backend: memory does not suffice");
    return error;
  }
}

// Some runtimes call a kernel whose `init` has failed.
Kernel* kernel_of(Context* context, Node* node) {
  if (node->user_data == nullptr || node->user_data == reinterpret_cast<void*>(-1)) {
    context->report_error(context, "%s", "akida-backend: this kernel was not initialised");
    return nullptr;
  }
  return static_cast<Kernel*>(node->user_data);
}

void* init(Context*, const char* buffer, size_t) {
  // Of a delegate's kernel the buffer is not bytes but the partition.
  const auto* params = reinterpret_cast<const DelegateParams*>(buffer);
  if (offered == nullptr || params == nullptr) return reinterpret_cast<void*>(-1);
  try {
    auto nodes = values_of(params->nodes_to_replace);
    std::sort(nodes.begin(), nodes.end());
    const auto found = std::find_if(offered->begin(), offered->end(),
                                    [&](const Partition& p) { return p.nodes == nodes; });
    if (found == offered->end()) return reinterpret_cast<void*>(-1);
    return new Kernel{*found, {}, {}};
  } catch (const std::bad_alloc&) {
    return reinterpret_cast<void*>(-1);
  }
}

void release(Context*, void* user_data) {
  if (user_data != reinterpret_cast<void*>(-1)) delete static_cast<Kernel*>(user_data);
}

bool has_dims(const Tensor& tensor, const std::vector<int>& dims) {
  const IntArray* found = tensor.dims;
  return found != nullptr && found->size == static_cast<int>(dims.size()) + 1 &&
         std::equal(dims.begin(), dims.end(), found->data + 1);
}

IntArray* new_dims(Context* context, int batch, const std::vector<int>& dims) {
  const auto count = static_cast<int>(dims.size()) + 1;
#ifdef _WIN32
  IntArray* array = context->create_int_array(count);
#else
  (void)context;
  auto* array = static_cast<IntArray*>(
      std::malloc(sizeof(IntArray) + static_cast<size_t>(count) * sizeof(int)));
#endif
  if (array == nullptr) return nullptr;
  array->size = count;
  array->data[0] = batch;
  std::copy(dims.begin(), dims.end(), array->data + 1);
  return array;
}

// Gives the outputs of the partition the batch of its inputs.
Status resize(Context* context, const Kernel& kernel, bool dynamic_ones) {
  std::vector<int> batches(static_cast<size_t>(kernel.partition.slots), 0);
  for (const Step& step : kernel.partition.steps) {
    int batch;
    if (step.input_slot >= 0) {
      batch = batches[static_cast<size_t>(step.input_slot)];
    } else {
      const Tensor& input = context->tensors[step.input];
      if (!has_dims(input, step.input_dims)) {
        context->report_error(context,
                              "akida-backend: tensor '%s' has another shape than the one its "
                              "program was compiled for; only axis 0 may be resized",
                              input.name == nullptr ? "" : input.name);
        return error;
      }
      batch = input.dims->data[0];
    }
    if (step.output_slot >= 0) batches[static_cast<size_t>(step.output_slot)] = batch;
    Tensor& output = context->tensors[step.output];
    // A tensor inside the partition has no memory; its shape is of no concern.
    const bool visible = step.output_slot < 0;
    if (!visible || (output.allocation_type == dynamic) != dynamic_ones) continue;
    if (has_dims(output, step.output_dims) && output.dims->data[0] == batch &&
        (!dynamic_ones || output.data != nullptr)) {
      continue;
    }
    IntArray* dims = new_dims(context, batch, step.output_dims);
    if (dims == nullptr || context->resize_tensor(context, &output, dims) != ok) return error;
  }
  return ok;
}

Status prepare_checked(Context* context, const Node* node, const Kernel& kernel) {
  const auto inputs = values_of(node->inputs);
  const bool unknown = std::any_of(inputs.begin(), inputs.end(), [&](int tensor) {
    return tensor >= 0 && context->tensors[tensor].allocation_type == dynamic;
  });
  if (!unknown) return resize(context, kernel, false);
  // Shapes are known when the values are: the memory of the outputs waits until then.
  for (int tensor : values_of(node->outputs)) {
    Tensor& output = context->tensors[tensor];
    if (output.allocation_type == dynamic) continue;
    output.allocation_type = dynamic;
    output.data = nullptr;
  }
  return ok;
}

Status prepare(Context* context, Node* node) {
  const Kernel* kernel = kernel_of(context, node);
  if (kernel == nullptr) return error;
  return guarded(context, [&] { return prepare_checked(context, node, *kernel); });
}

// `picks` for every sample of the input.
const char* picked(Kernel& kernel, const Step& step, const char* input, size_t batch) {
  kernel.picked.resize(step.picks.size() * batch);
  char* to = kernel.picked.data();
  for (size_t sample = 0; sample < batch; sample++, input += step.input_bytes) {
    for (const int32_t pick : step.picks) {
      *to++ = pick >= 0 ? input[pick] : static_cast<char>(-1 - pick);
    }
  }
  return kernel.picked.data();
}

// A segment in Python.
Status call_back(Context* context, const Step& step, const char* input, char* output,
                  size_t batch) {
  akida_backend_tflite_answer answer;
  const auto* compiler = installed_compiler();
  if (compiler == nullptr) {
    answer.refusal = "this segment runs in Python, which has ended";
  } else if (compiler->run(step.python->number(), input, output, batch, &answer) == 0) {
    return ok;
  }
  context->report_error(context, "akida-backend: %s", answer.refusal.c_str());
  return error;
}

Status run(Context* context, Kernel& kernel, const Step& step, std::vector<size_t>& batches) {
  const char* input;
  size_t batch;
  if (step.input_slot >= 0) {
    input = kernel.slots[static_cast<size_t>(step.input_slot)].data();
    batch = batches[static_cast<size_t>(step.input_slot)];
  } else {
    const Tensor& tensor = context->tensors[step.input];
    if (!has_dims(tensor, step.input_dims)) return error;
    input = static_cast<const char*>(tensor.data);
    batch = static_cast<size_t>(tensor.dims->data[0]);
    if (tensor.bytes < batch * step.input_bytes) return error;
  }
  const size_t size = batch * step.output_bytes;
  char* output;
  if (step.output_slot >= 0) {
    auto& slot = kernel.slots[static_cast<size_t>(step.output_slot)];
    slot.resize(size);
    batches[static_cast<size_t>(step.output_slot)] = batch;
    output = slot.data();
  } else {
    const Tensor& tensor = context->tensors[step.output];
    if (tensor.bytes < size) return error;
    output = static_cast<char*>(tensor.data);
  }
  if (batch == 0) return ok;
  if (input == nullptr || output == nullptr) return error;
  if (!step.picks.empty()) input = picked(kernel, step, input, batch);
  if (step.python != nullptr) return call_back(context, step, input, output, batch);
  if (step.runner->run(input, output, batch)) return ok;
  context->report_error(context, "akida-backend: %s", akida_backend_error());
  return error;
}

Status invoke(Context* context, Node* node) {
  Kernel* kernel = kernel_of(context, node);
  if (kernel == nullptr) return error;
  return guarded(context, [&] {
    if (resize(context, *kernel, true) != ok) return error;
    kernel->slots.resize(static_cast<size_t>(kernel->partition.slots));
    std::vector<size_t> batches(kernel->slots.size(), 0);
    for (const Step& step : kernel->partition.steps) {
      if (run(context, *kernel, step, batches) != ok) {
        context->report_error(context, "%s", "akida-backend: a program did not run");
        return error;
      }
    }
    return ok;
  });
}

}  // namespace

PythonSegment::~PythonSegment() {
  const auto* compiler = installed_compiler();
  if (compiler != nullptr) compiler->release(number_);
}

OfferedPartitions::OfferedPartitions(std::vector<Partition>& partitions) { offered = &partitions; }

OfferedPartitions::~OfferedPartitions() { offered = nullptr; }

Registration kernel_registration() {
  Registration registration{};
  registration.init = init;
  registration.free = release;
  registration.prepare = prepare;
  registration.invoke = invoke;
  registration.builtin_code = delegate_operator;
  registration.custom_name = "AkidaDelegate";
  registration.version = 1;
  return registration;
}

}  // namespace akida_backend::tflite
