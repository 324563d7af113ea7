// SPDX-License-Identifier: Apache-2.0
// AkidaExecutionProvider: what onnxruntime loads and calls.
//
// Factories stay for ever, because sessions outlive their registration; so does the library.
#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#if !defined(_WIN32)
#include <dlfcn.h>
#endif

#include "device_name.h"
#include "onnxruntime_abi.h"
#include "onnxruntime_model.h"
#include "onnxruntime_python.h"
#include "onnxruntime_segment.h"
#include "program.h"

using namespace akida_backend;
using namespace akida_backend::ort;

namespace {

constexpr const char* provider_name = "AkidaExecutionProvider";
constexpr const char* option_prefix = "ep.akidaexecutionprovider.";  // onnxruntime lowers it
// Makes onnxruntime fold weights to float; Python is told as if it were an option.
constexpr const char* float_weights_key = "session.disable_quant_qdq";
constexpr const char* context_domain = "com.microsoft";
constexpr const char* context_type = "EPContext";
// Options that change how a compiled model runs.
constexpr const char* run_options = "device, emulation, threads";

std::atomic<akida_backend_onnxruntime_place> python_place{nullptr};

// What `action` returns, its exceptions as a status.
template <class Action>
Status* guarded(const Api& api, const Action& action) {
  try {
    action();
    return nullptr;
  } catch (const std::bad_alloc&) {
    return api.create_status(error_fail, "AkidaExecutionProvider: memory does not suffice");
  } catch (const std::exception& error) {
    return api.create_status(error_fail, error.what());
  } catch (...) {
    return api.create_status(error_fail, "AkidaExecutionProvider: unknown error");
  }
}

struct SessionSettings {
  std::map<std::string, std::string> options;  // names as in akida_backend/options.py
  bool writes_context = false;
  bool float_weights = false;

  SessionSettings(const Api& api, const SessionOptions* session) {
    KeyValuePairs* entries = nullptr;
    api.check(api.session_options_entries(session, &entries));
    const char *const *keys = nullptr, *const *values = nullptr;
    size_t count = 0;
    api.key_values(entries, &keys, &values, &count);
    for (size_t i = 0; i < count; i++) {
      const std::string key = keys[i];
      if (key == "ep.context_enable") writes_context = std::strcmp(values[i], "1") == 0;
      if (key == float_weights_key) float_weights = std::strcmp(values[i], "1") == 0;
      if (key.rfind(option_prefix, 0) != 0) continue;
      options[key.substr(std::strlen(option_prefix))] = values[i];
    }
    api.release_key_values(entries);
  }

  std::string option(const char* name, const char* otherwise) const {
    const auto found = options.find(name);
    return found == options.end() ? otherwise : found->second;
  }

  int threads() const {
    const std::string text = option("threads", "1");
    char* end = nullptr;
    const long threads = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != 0 || threads < 1 ||
        threads > AKIDA_BACKEND_MAX_THREADS) {
      throw Failure("option 'threads' needs a whole number from 1 to " +
                    std::to_string(AKIDA_BACKEND_MAX_THREADS) + ", got '" + text + "'");
    }
    return static_cast<int>(threads);
  }
};

struct Provider : Ep {
  const Api* api;
  SessionSettings settings;
  // By the name of the tensor that leaves it.
  std::map<std::string, std::shared_ptr<Segment>> segments;
  // Why the session must fail; onnxruntime would only log what GetCapability returns.
  std::string problem;
};

struct Kernel : ComputeInfo {
  const Api* api;
  std::shared_ptr<const Segment> segment;
  size_t input_index;
};

bool is_context_node(const Api& api, const Node* node) {
  const char *type = nullptr, *domain = nullptr;
  api.check(api.node_type(node, &type));
  api.check(api.node_domain(node, &domain));
  return std::strcmp(type, context_type) == 0 && std::strcmp(domain, context_domain) == 0 &&
         text_attr(api, node, "source", "") == provider_name;
}

void claim(const Api& api, SupportInfo* support, const std::vector<const Node*>& nodes) {
  FusionOptions fusion{api.version, true};
  api.check(api.claim(support, nodes.data(), nodes.size(), &fusion));
}

// Compiled models

void check_context_options(const SessionSettings& settings) {
  for (const auto& [name, value] : settings.options) {
    if (name == "device" || name == "threads" || (name == "emulation" && value == "device")) {
      continue;
    }
    if (name == "emulation") {
      throw Failure("option 'emulation': a compiled model always runs in the device's arithmetic, "
                    "got '" + value + "'\n  Give the model it was compiled from.");
    }
    throw Failure("option '" + name + "' has no meaning for a compiled model, which runs with " +
                  run_options + "\n  Compile the model with it.");
  }
}

std::shared_ptr<Segment> context_segment(const Provider& provider, const Node* node) {
  const Api& api = *provider.api;
  if (int_attr(api, node, "embed_mode", 1) != 1) {
    throw Failure("EPContext node: embed_mode 0, but this provider reads programs inside the model "
                  "only\n  Compile the model again.");
  }
  auto segment =
      std::make_shared<Segment>(text_attr(api, node, "ep_cache_context", ""),
                                text_attr(api, node, "notes", ""), provider.settings.threads());
  const std::string& program = segment->program();
  if (!content_hash_holds(reinterpret_cast<const uint8_t*>(program.data()), program.size())) {
    throw Failure("EPContext node: the content hash of its program does not match\n"
                  "  Compile the model again.");
  }
  segment->drop_program();
  const auto& names = segment->notes().all("devices");
  const std::string wanted = provider.settings.option("device", "");
  const bool fits = std::any_of(names.begin(), names.end(), [&](const std::string& name) {
    return same_device(name, wanted);
  });
  if (!wanted.empty() && !fits) {
    throw Failure("EPContext node: compiled for device '" + segment->notes().one("devices") +
                  "' by " + segment->notes().one("tool") + ", the option asks for '" + wanted +
                  "'\n  Leave the option out, or compile the model for '" + wanted + "'.");
  }
  return segment;
}

Node* context_node(const Api& api, const Segment& segment, const std::string& name) {
  if (api.create_node == nullptr) {
    throw Failure("this onnxruntime was built without the means to write compiled models");
  }
  const Notes& notes = segment.notes();
  const int64_t one = 1;
  const std::string input = notes.one("input"), output = notes.one("output");
  std::vector<OpAttr*> attributes;
  const auto add = [&](const char* key, const void* data, size_t size, int type) {
    OpAttr* attribute = nullptr;
    api.check(api.create_attr(key, data, static_cast<int>(size), type, &attribute));
    attributes.push_back(attribute);
  };
  const auto add_text = [&](const char* key, const std::string& text) {
    add(key, text.data(), text.size(), attr_string);
  };
  add("main_context", &one, 1, attr_int);
  add("embed_mode", &one, 1, attr_int);
  add_text("ep_cache_context", segment.program());
  add_text("source", provider_name);
  add_text("ep_sdk_version", notes.one("tool"));
  add_text("hardware_architecture", notes.one("devices"));
  add_text("partition_name", name);
  add_text("notes", notes.text());
  const char *inputs[] = {input.c_str()}, *outputs[] = {output.c_str()};
  Node* node = nullptr;
  Status* status =
      api.create_node(context_type, context_domain, name.c_str(), inputs, 1, outputs, 1,
                      attributes.data(), attributes.size(), &node);
  for (OpAttr* attribute : attributes) api.release_attr(attribute);
  api.check(status);
  return node;
}

}  // namespace

// What the place callback answers through.
struct akida_backend_onnxruntime_claims {
  struct Claim {
    std::vector<const Node*> nodes;
    std::shared_ptr<Segment> segment;
  };
  const Provider& provider;
  const std::vector<const Node*>& nodes;
  std::vector<Claim> claims;
  std::string problem;
};

namespace {

// Asks Python what of the graph to claim. Without Python there is nothing.
void place_graph(Provider* provider, const Graph* graph, const std::vector<const Node*>& nodes,
                 SupportInfo* support) {
  const Api& api = *provider->api;
  const akida_backend_onnxruntime_place place = python_place.load();
  const SessionSettings& settings = provider->settings;
  if (place == nullptr) {
    const std::string fallback = settings.option("fallback", "allow");
    if (fallback == "error" || fallback == "strict") {
      throw Failure("fallback '" + fallback + "': the model is not compiled, and only the Python "
                    "package places models\n  Compile it: akida-backend compile -o model.onnx");
    }
    return;
  }
  if (settings.writes_context && settings.option("emulation", "device") != "device") {
    throw Failure("ep.context_enable: a compiled model always runs in the device's arithmetic, "
                  "emulation is '" + settings.option("emulation", "") + "'");
  }
  std::string options;
  for (const auto& [name, value] : settings.options) {
    options.append(name).push_back('\0');
    options.append(value).push_back('\0');
  }
  if (settings.float_weights) {
    options.append(float_weights_key).push_back('\0');
    options.append("1").push_back('\0');
  }
  const std::string model = model_bytes(api, graph);
  akida_backend_onnxruntime_claims answer{*provider, nodes, {}, ""};
  place(model.data(), model.size(), options.data(), options.size(), &answer);
  if (!answer.problem.empty()) throw Failure(answer.problem);
  for (const auto& each : answer.claims) {
    claim(api, support, each.nodes);
    provider->segments[each.segment->notes().one("output")] = each.segment;
  }
}

const char* get_name(const Ep*) { return provider_name; }

Status* get_capability(Ep* ep, const Graph* graph, SupportInfo* support) {
  auto* provider = static_cast<Provider*>(ep);
  const Api& api = *provider->api;
  return guarded(api, [&] {
    if (is_nested(api, graph)) return;
    const std::vector<const Node*> nodes = nodes_of(api, graph);
    if (nodes.empty()) return;
    try {
      bool compiled = false;
      for (const Node* node : nodes) {
        if (!is_context_node(api, node)) continue;
        if (!compiled) check_context_options(provider->settings);
        compiled = true;
        const auto outputs = outputs_of(api, node);
        if (outputs.size() != 1 || inputs_of(api, node).size() != 1) {
          throw Failure("EPContext node: needs one input and one output");
        }
        provider->segments[name_of(api, outputs[0])] = context_segment(*provider, node);
        claim(api, support, {node});
      }
      if (!compiled) place_graph(provider, graph, nodes, support);
    } catch (const std::exception& error) {
      // One node is claimed, and Compile fails: the only way to make the session fail.
      if (provider->problem.empty()) provider->problem = error.what();
      claim(api, support, {nodes[0]});
    }
  });
}

void compile_one(Provider* provider, const Graph* graph, const Node* fused, Kernel* kernel,
                 Node** context) {
  const Api& api = *provider->api;
  const auto outputs = outputs_of(api, fused);
  const auto inputs = inputs_of(api, fused);
  const auto found = outputs.empty() ? provider->segments.end()
                                     : provider->segments.find(name_of(api, outputs[0]));
  if (found == provider->segments.end() || outputs.size() != 1) {
    throw Failure("AkidaExecutionProvider: onnxruntime compiles other nodes than were claimed; "
                  "please report this");
  }
  Segment& segment = *found->second;
  const auto nodes = nodes_of(api, graph);
  const bool compiled = nodes.size() == 1 && is_context_node(api, nodes[0]);
  const std::string name = segment.notes().one("input");
  kernel->input_index = 0;
  while (!compiled && kernel->input_index < inputs.size() &&
         name_of(api, inputs[kernel->input_index]) != name) {
    kernel->input_index++;
  }
  if (kernel->input_index >= inputs.size()) {
    throw Failure("AkidaExecutionProvider: the claimed nodes do not read '" + name +
                  "'; please report this");
  }
  segment.check_types(element_type_of(api, inputs[kernel->input_index]),
                      element_type_of(api, outputs[0]));
  kernel->segment = found->second;
  if (context != nullptr && provider->settings.writes_context && !compiled) {
    const char* fused_name = nullptr;
    api.check(api.node_name(fused, &fused_name));
    *context = context_node(api, segment, fused_name);
  }
  segment.drop_program();
}

Status* compute(ComputeInfo* info, void*, KernelContext* context) {
  const auto* kernel = static_cast<Kernel*>(info);
  try {
    return kernel->segment->compute(*kernel->api, context, kernel->input_index);
  } catch (...) {
    return kernel->api->create_status(error_runtime_exception,
                                      "AkidaExecutionProvider: memory does not suffice");
  }
}

Status* create_state(ComputeInfo*, ComputeContext*, void** state) {
  *state = nullptr;
  return nullptr;
}

void release_state(ComputeInfo*, void*) {}

Status* compile(Ep* ep, const Graph** graphs, const Node** fused, size_t count,
                ComputeInfo** infos, Node** contexts) {
  auto* provider = static_cast<Provider*>(ep);
  return guarded(*provider->api, [&] {
    if (!provider->problem.empty()) throw Failure(provider->problem);
    std::vector<std::unique_ptr<Kernel>> kernels;
    for (size_t i = 0; i < count; i++) {
      auto kernel = std::make_unique<Kernel>();
      kernel->version = provider->api->version;
      kernel->create_state = create_state;
      kernel->compute = compute;
      kernel->release_state = release_state;
      kernel->api = provider->api;
      compile_one(provider, graphs[i], fused[i], kernel.get(),
                  contexts == nullptr ? nullptr : &contexts[i]);
      kernels.push_back(std::move(kernel));
    }
    for (size_t i = 0; i < count; i++) infos[i] = kernels[i].release();
  });
}

void release_compute_infos(Ep*, ComputeInfo** infos, size_t count) {
  for (size_t i = 0; i < count; i++) delete static_cast<Kernel*>(infos[i]);
}

Status* is_concurrent_run_supported(Ep*, bool* supported) {
  *supported = true;
  return nullptr;
}

// The factory

struct ProviderFactory : Factory {
  Api api;
};

const char* factory_name(const Factory*) { return provider_name; }

const char* factory_vendor(const Factory*) { return "akida-backend (simulated)"; }

uint32_t factory_vendor_id(const Factory*) { return 0; }

const char* factory_version(const Factory*) {
  const char* version = akida_backend_version();  // must be semantic
  return std::isdigit(static_cast<unsigned char>(*version)) != 0 ? version : "0.0.0";
}

// The first CPU: whichever device is simulated, that is where it runs.
Status* supported_devices(Factory* factory, const HardwareDevice* const* devices, size_t count,
                          EpDevice** found, size_t most, size_t* written) {
  const Api& api = static_cast<ProviderFactory*>(factory)->api;
  *written = 0;
  return guarded(api, [&] {
    for (size_t i = 0; i < count && *written == 0 && most > 0; i++) {
      if (api.device_type(devices[i]) != device_cpu) continue;
      api.check(api.create_device(factory, devices[i], nullptr, nullptr, &found[(*written)++]));
    }
  });
}

Status* create_ep(Factory* factory, const HardwareDevice* const*, const KeyValuePairs* const*,
                  size_t, const SessionOptions* session, const Logger*, Ep** made) {
  const Api& api = static_cast<ProviderFactory*>(factory)->api;
  *made = nullptr;
  return guarded(api, [&] {
    Ep ep{};
    ep.version = api.version;
    ep.name = get_name;
    ep.get_capability = get_capability;
    ep.compile = compile;
    ep.release_compute_infos = release_compute_infos;
    ep.is_concurrent_run_supported = is_concurrent_run_supported;
    *made = new Provider{ep, &api, SessionSettings(api, session), {}, ""};
  });
}

void release_ep(Factory*, Ep* ep) { delete static_cast<Provider*>(ep); }

Status* create_allocator(Factory*, const void*, const KeyValuePairs*, void** allocator) {
  *allocator = nullptr;
  return nullptr;
}

void release_allocator(Factory*, void*) {}

Status* create_data_transfer(Factory*, void** transfer) {
  *transfer = nullptr;
  return nullptr;
}

bool is_stream_aware(const Factory*) { return false; }

// A session may still run when its application unregisters the provider.
void keep_library() {
#if !defined(_WIN32) && defined(RTLD_NODELETE)
  Dl_info info;
  if (dladdr(reinterpret_cast<void*>(&keep_library), &info) != 0) {
    dlopen(info.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_NODELETE);
  }
#endif
}

}  // namespace

extern "C" {

AKIDA_BACKEND_API Status* CreateEpFactories(const char*, const ApiBase* base, const Logger*,
                                            Factory** factories, size_t most, size_t* count);
AKIDA_BACKEND_API Status* ReleaseEpFactory(Factory* factory);

Status* CreateEpFactories(const char*, const ApiBase* base, const Logger*, Factory** factories,
                          size_t most, size_t* count) {
  *count = 0;
  try {
    auto made = std::make_unique<ProviderFactory>();
    static_cast<Factory&>(*made) = Factory{};
    made->api = Api::of(*base);
    made->version = made->api.version;
    made->name = factory_name;
    made->vendor = factory_vendor;
    made->supported_devices = supported_devices;
    made->create_ep = create_ep;
    made->release_ep = release_ep;
    made->vendor_id = factory_vendor_id;
    made->provider_version = factory_version;
    made->create_allocator = create_allocator;
    made->release_allocator = release_allocator;
    made->create_data_transfer = create_data_transfer;
    made->is_stream_aware = is_stream_aware;
    keep_library();
    if (most > 0) factories[(*count)++] = made.release();
    return nullptr;
  } catch (const std::exception& error) {
    // Every release can make a status: the function is the first of its oldest table.
    const auto* table = base->get_api(1);
    using Create = Status* (*)(int, const char*);
    Create create = nullptr;
    if (table != nullptr) std::memcpy(&create, table, sizeof create);
    return create == nullptr ? nullptr : create(error_fail, error.what());
  }
}

Status* ReleaseEpFactory(Factory*) { return nullptr; }

void akida_backend_onnxruntime_install(akida_backend_onnxruntime_place place,
                                       akida_backend_onnxruntime_compute compute,
                                       akida_backend_onnxruntime_release release) {
  python_place.store(place);
  python_compute.store(compute);
  python_release.store(release);
}

void akida_backend_onnxruntime_claim(akida_backend_onnxruntime_claims* claims,
                                     const int64_t* nodes, size_t count, const void* program,
                                     size_t program_bytes, const char* notes, uint64_t source) {
  if (!claims->problem.empty()) return;
  try {
    std::vector<const Node*> chosen;
    for (size_t i = 0; i < count; i++) {
      chosen.push_back(claims->nodes.at(static_cast<size_t>(nodes[i])));
    }
    claims->claims.push_back(
        {chosen, std::make_shared<Segment>(
                     std::string(static_cast<const char*>(program), program_bytes), notes,
                     claims->provider.settings.threads(), source)});
  } catch (const std::exception& error) {
    akida_backend_onnxruntime_refuse(claims, error.what());
  }
}

void akida_backend_onnxruntime_refuse(akida_backend_onnxruntime_claims* claims, const char* text) {
  if (!claims->problem.empty()) return;
  try {
    claims->problem = *text == 0 ? "refused" : text;
  } catch (const std::exception&) {
    claims->problem = "refused";  // short enough to need no memory
  }
}

}  // extern "C"
