// SPDX-License-Identifier: Apache-2.0
// The delegate behind the interface that runtimes load delegates through. No exception leaves it.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "device_name.h"
#include "tflite_abi.h"
#include "tflite_answer.h"
#include "tflite_compiler.h"
#include "tflite_graph.h"
#include "tflite_kernel.h"
#include "tflite_partition.h"

namespace akida_backend::tflite {

namespace {

constexpr const char* program_operator = "akida-program";

// Of akida_backend/options.py, for processes without Python; a test compares them. Programs are
// compiled already there, so only `device` and `threads` have an effect.
constexpr const char* option_names[] = {
    "device",
    "emulation",
    "threads",
    "host",
    "fallback",
    "allow",
    "deny",
    "max_partitions",
    "min_partition_macs",
    "calibration",
    "calibration_limit",
    "allow_uncalibrated",
    "strict_converter",
    "strict_hardware",
    "diagonal_depthwise",
};

// Null where no Python runs.
std::atomic<const akida_backend_tflite_compiler*> compiler{nullptr};

struct Akida : Delegate {
  std::vector<std::string> names, values;
  std::string device;  // empty: not asked for
  int threads = 0;     // 0: as many as the runtime uses

  std::vector<const char*> name_pointers() const { return pointers(names); }
  std::vector<const char*> value_pointers() const { return pointers(values); }

 private:
  static std::vector<const char*> pointers(const std::vector<std::string>& texts) {
    std::vector<const char*> result;
    for (const auto& text : texts) result.push_back(text.c_str());
    return result;
  }
};

// Runtimes cut a message at 1024 bytes.
void report(Context* context, const std::string& text) {
  constexpr size_t part = 1000;
  for (size_t begin = 0; begin < text.size(); begin += part) {
    context->report_error(context, "%s", text.substr(begin, part).c_str());
  }
  context->report_error(context, "%s", "\n");
}

Status fail(Context* context, const std::string& text) {
  report(context, "akida-backend: " + text);
  return error;
}

int threads_of(const Akida& delegate, const Context& context) {
  if (delegate.threads != 0) return delegate.threads;
  return std::clamp(context.recommended_num_threads, 1, AKIDA_BACKEND_MAX_THREADS);
}

// The programs that a compiled model carries.
bool carried_programs(const Graph& graph, std::vector<Segment>& segments, std::string& problem) {
  for (const auto& node : graph.nodes) {
    if (node.custom_name == nullptr || std::strcmp(node.custom_name, program_operator) != 0) {
      continue;
    }
    if (node.input_count != 1 || node.output_count != 1 || node.options == nullptr) {
      problem = "operator " + std::to_string(node.index) + " " + program_operator +
                " needs one input, one output and a program in its options";
      return false;
    }
    Segment segment;
    segment.nodes = {node.index};
    segment.input = node.inputs[0];
    segment.output = node.outputs[0];
    segment.program.assign(static_cast<const char*>(node.options), node.custom_bytes);
    segments.push_back(std::move(segment));
  }
  return true;
}

// Of a compiled model; empty where it is the one asked for.
std::string other_device(const Akida& delegate, const std::vector<Segment>& segments) {
  for (const Segment& segment : segments) {
    const std::string device = segment.runner->device();
    if (delegate.device.empty() || same_device(device, delegate.device)) continue;
    return "operator " + std::to_string(segment.nodes.front()) + " " + program_operator +
           ": compiled for device '" + device + "', the option asks for '" + delegate.device +
           "'\n  Leave the option out, or compile the model for '" + delegate.device + "'.";
  }
  return {};
}

Status claim(Context* context, Akida& delegate, std::vector<Segment> segments, const Graph& graph,
             bool all_required, bool carried) {
  std::string problem;
  for (Segment& segment : segments) {
    if (!check_segment(graph, segment, threads_of(delegate, *context), carried, problem)) {
      const int first = segment.nodes.empty() ? -1 : segment.nodes.front();
      return fail(context, "operator " + std::to_string(first) + ": " + problem);
    }
  }
  if (carried) problem = other_device(delegate, segments);
  if (!problem.empty()) return fail(context, problem);
  std::vector<Partition> partitions;
  std::vector<std::string> left;
  if (!plan_partitions(context, std::move(segments), partitions, left)) {
    return fail(context, "the runtime does not show how it would divide its graph");
  }
  if (!left.empty() && all_required) {
    std::string text = "fallback wants every segment on the device, but";
    for (const auto& reason : left) text += "\n  " + reason;
    return fail(context, text);
  }
  std::vector<int> nodes;
  for (const Partition& partition : partitions) {
    nodes.insert(nodes.end(), partition.nodes.begin(), partition.nodes.end());
  }
  if (nodes.empty()) return ok;
  OfferedPartitions offered(partitions);
  return context->replace_node_subsets(context, kernel_registration(), OwnedIntArray(nodes).get(),
                                       &delegate);
}

Status prepare_checked(Context* context, Akida& delegate) {
  Graph graph;
  std::string problem;
  if (!read_graph(context, graph, problem)) return fail(context, problem);
  if (graph.nodes.empty()) return ok;
  akida_backend_tflite_answer answer;
  if (!carried_programs(graph, answer.segments, problem)) return fail(context, problem);
  if (!answer.segments.empty()) {
    // Of a compiled model the rest was left to the host when it was compiled.
    return claim(context, delegate, std::move(answer.segments), graph, true, true);
  }
  const auto* hooks = compiler.load();
  if (hooks == nullptr) {
    return fail(context,
                "this model is not compiled, and the compiler is not in this process\n"
                "  In Python import akida_backend.tflite first; elsewhere run a model that "
                "`akida-backend compile MODEL -o COMPILED.tflite` has written.");
  }
  const auto view = graph.view();
  const auto names = delegate.name_pointers(), values = delegate.value_pointers();
  if (hooks->compile(names.data(), values.data(), names.size(), &view, &answer) != 0 ||
      !answer.refusal.empty()) {
    return fail(context, answer.refusal.empty() ? "the compiler failed" : answer.refusal);
  }
  return claim(context, delegate, std::move(answer.segments), graph, answer.all_required,
               false);
}

Status prepare(Context* context, Delegate* delegate) {
  try {
    return prepare_checked(context, *static_cast<Akida*>(delegate));
  } catch (const std::bad_alloc&) {
    context->report_error(context, "%s", "akida-backend: memory does not suffice");
  } catch (const std::exception& problem) {
    context->report_error(context, "akida-backend: %s", problem.what());
  }
  return error;
}

std::string unknown_option(const std::string& name) {
  std::string text = "unknown option '" + name + "'\n  known:";
  for (const char* known : option_names) text += std::string(" ") + known;
  return text;
}

// Where Python runs, its one schema decides.
std::string refused_by_schema(const Akida& delegate) {
  const auto* hooks = compiler.load();
  if (hooks == nullptr) {
    for (const std::string& name : delegate.names) {
      const bool known = std::any_of(std::begin(option_names), std::end(option_names),
                                     [&](const char* option) { return name == option; });
      if (!known) return unknown_option(name);
    }
    return {};
  }
  akida_backend_tflite_answer answer;
  const auto names = delegate.name_pointers(), values = delegate.value_pointers();
  if (hooks->check(names.data(), values.data(), names.size(), &answer) == 0) return {};
  return answer.refusal.empty() ? "the compiler failed" : answer.refusal;
}

std::string refused_options(Akida& delegate) {
  std::string problem = refused_by_schema(delegate);
  for (size_t i = 0; i < delegate.names.size() && problem.empty(); i++) {
    if (delegate.names[i] == "device") delegate.device = delegate.values[i];
    if (delegate.names[i] != "threads") continue;
    delegate.threads = std::atoi(delegate.values[i].c_str());
    if (delegate.threads < 1 || delegate.threads > AKIDA_BACKEND_MAX_THREADS) {
      problem = "option 'threads' needs a whole number from 1 to " +
                std::to_string(AKIDA_BACKEND_MAX_THREADS) + ", got '" + delegate.values[i] + "'";
    }
  }
  return problem;
}

}  // namespace

const akida_backend_tflite_compiler* installed_compiler() { return compiler.load(); }

}  // namespace akida_backend::tflite

using akida_backend::tflite::Akida;
using akida_backend::tflite::Delegate;
using akida_backend::tflite::PythonSegment;
using akida_backend::tflite::Segment;

extern "C" {

AKIDA_BACKEND_API Delegate* tflite_plugin_create_delegate(char** names, char** values, size_t count,
                                                          void (*report_error)(const char*)) {
  try {
    auto delegate = std::make_unique<Akida>();
    delegate->prepare = akida_backend::tflite::prepare;
    // A batch may be resized without the graph being divided again.
    delegate->flags = akida_backend::tflite::allow_dynamic_tensors;
    // Some callers pass the count as an int.
    for (int i = 0; i < static_cast<int>(count); i++) {
      delegate->names.emplace_back(names[i]);
      delegate->values.emplace_back(values[i]);
    }
    const std::string problem = akida_backend::tflite::refused_options(*delegate);
    if (problem.empty()) return delegate.release();
    if (report_error != nullptr) report_error(problem.c_str());
  } catch (const std::exception&) {
    if (report_error != nullptr) report_error("memory does not suffice");
  }
  return nullptr;
}

AKIDA_BACKEND_API void tflite_plugin_destroy_delegate(Delegate* delegate) {
  delete static_cast<Akida*>(delegate);
}

void akida_backend_tflite_set_compiler(const akida_backend_tflite_compiler* hooks) {
  akida_backend::tflite::compiler.store(hooks);
}

void akida_backend_tflite_add_segment(akida_backend_tflite_answer* answer,
                                      const akida_backend_tflite_segment* given) {
  try {
    Segment segment;
    if (given->callback >= 0) {
      segment.python = std::make_shared<PythonSegment>(given->callback);
    }
    segment.nodes.assign(given->nodes, given->nodes + given->node_count);
    if (given->picks != nullptr) {
      segment.picks.assign(given->picks, given->picks + given->pick_count);
    }
    segment.input = given->input;
    segment.output = given->output;
    segment.program.assign(static_cast<const char*>(given->program), given->program_bytes);
    answer->segments.push_back(std::move(segment));
  } catch (const std::exception&) {
    akida_backend_tflite_refuse(answer, "memory does not suffice");
  }
}

void akida_backend_tflite_require_all(akida_backend_tflite_answer* answer) {
  answer->all_required = true;
}

void akida_backend_tflite_refuse(akida_backend_tflite_answer* answer, const char* text) {
  try {
    answer->refusal = text;
  } catch (const std::exception&) {
    answer->refusal.clear();
  }
}

}  // extern "C"
