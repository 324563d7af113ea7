// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime_model.h"

#include <cstring>
#include <set>

#include "program.h"

namespace akida_backend::ort {
namespace {

// A protobuf message under construction. Field numbers are those of onnx.proto.
class Message {
 public:
  void number(int field, int64_t value) {
    varint(static_cast<uint64_t>(field) << 3);
    varint(static_cast<uint64_t>(value));
  }
  void bytes(int field, const void* data, size_t size) {
    varint(static_cast<uint64_t>(field) << 3 | 2);
    varint(size);
    text_.append(static_cast<const char*>(data), size);
  }
  void text(int field, const std::string& value) { bytes(field, value.data(), value.size()); }
  void message(int field, const Message& value) { text(field, value.text_); }
  void real(int field, float value) {
    varint(static_cast<uint64_t>(field) << 3 | 5);
    text_.append(reinterpret_cast<const char*>(&value), sizeof value);
  }
  std::string take() { return std::move(text_); }

 private:
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_.push_back(static_cast<char>(value | 0x80));
    text_.push_back(static_cast<char>(value));
  }
  std::string text_;
};

template <class Item, class Owner, class Count, class Fill>
std::vector<const Item*> list_of(const Api& api, const Owner* owner, Count count, Fill fill) {
  size_t size = 0;
  api.check(count(owner, &size));
  std::vector<const Item*> items(size);
  if (size != 0) api.check(fill(owner, items.data(), size));
  return items;
}

// What a TensorInfo says; it is released with it where `owned`.
struct Described {
  int type = 0;
  std::vector<int64_t> shape;
  std::vector<std::string> symbols;
};

Described described(const Api& api, const TensorInfo* info) {
  Described found;
  api.check(api.element_type(info, &found.type));
  size_t rank = 0;
  api.check(api.dimension_count(info, &rank));
  found.shape.resize(rank);
  std::vector<const char*> symbols(rank, "");
  if (rank != 0) {
    api.check(api.dimensions(info, found.shape.data(), rank));
    api.check(api.symbolic_dimensions(info, symbols.data(), rank));
  }
  for (const char* symbol : symbols) found.symbols.emplace_back(symbol == nullptr ? "" : symbol);
  return found;
}

Described described(const Api& api, const Value* value) {
  TensorInfo* info = nullptr;
  api.check(api.tensor_info(value, &info));
  const Described found = described(api, info);
  api.release_tensor_info(info);
  return found;
}

// onnxruntime has no FLOAT8E8M0 before its 2-bit integers, onnx.proto has.
int64_t onnx_type(int type) { return type <= last_common_type ? type : type + 1; }

const TensorInfo* tensor_info_of(const Api& api, const ValueInfo* value) {
  const TypeInfo* type = nullptr;
  api.check(api.value_type(value, &type));
  int kind = 0;
  if (type != nullptr) api.check(api.value_kind(type, &kind));
  const TensorInfo* info = nullptr;
  if (kind == kind_tensor) api.check(api.tensor_info_of(type, &info));
  return info;
}

Message value_info(const Api& api, const ValueInfo* value) {
  Message proto;
  proto.text(1, name_of(api, value));
  const TensorInfo* info = tensor_info_of(api, value);
  if (info == nullptr) return proto;
  const Described known = described(api, info);
  Message shape;
  for (size_t axis = 0; axis < known.shape.size(); axis++) {
    Message dimension;
    if (known.shape[axis] >= 0) {
      dimension.number(1, known.shape[axis]);
    } else if (!known.symbols[axis].empty()) {
      dimension.text(2, known.symbols[axis]);
    }
    shape.message(1, dimension);
  }
  Message tensor, type;
  tensor.number(1, onnx_type(known.type));
  tensor.message(2, shape);
  type.message(1, tensor);
  proto.message(2, type);
  return proto;
}

Message tensor_header(const Described& known) {
  Message proto;
  for (const int64_t length : known.shape) proto.number(1, length);
  proto.number(2, onnx_type(known.type));
  return proto;
}

const void* data_of(const Api& api, const Value* value, size_t* size) {
  api.check(api.tensor_bytes(value, size));
  void* data = nullptr;
  api.check(api.tensor_data(const_cast<Value*>(value), &data));
  return data;
}

Message external_entry(const char* key, const std::string& value) {
  Message entry;
  entry.text(1, key);
  entry.text(2, value);
  return entry;
}

Message initializer(const Api& api, const std::string& name, const Value* value) {
  Message proto = tensor_header(described(api, value));
  proto.text(8, name);
  size_t size = 0;
  const void* data = data_of(api, value, &size);
  proto.message(13, external_entry("location", constants_in_memory));
  proto.message(13, external_entry("offset", std::to_string(reinterpret_cast<uintptr_t>(data))));
  proto.message(13, external_entry("length", std::to_string(size)));
  proto.number(14, 1);  // EXTERNAL
  return proto;
}

std::string read_attr(const Api& api, const OpAttr* attribute, int type) {
  size_t size = 0;
  // Fails where the value has any bytes, but says how many.
  Status* status = api.read_attr(attribute, type, nullptr, 0, &size);
  if (status != nullptr) api.release_status(status);
  std::string data(size, '\0');
  if (size != 0) api.check(api.read_attr(attribute, type, data.data(), size, &size));
  data.resize(size);
  return data;
}

template <class Number>
std::vector<Number> numbers(const std::string& data) {
  std::vector<Number> values(data.size() / sizeof(Number));
  if (!values.empty()) std::memcpy(values.data(), data.data(), values.size() * sizeof(Number));
  return values;
}

Message attribute_proto(const Api& api, const OpAttr* attribute, int type) {
  // AttributeProto.type of the types above.
  constexpr int proto_type[] = {0, 2, 7, 1, 6, 3, 8, 5, 4};
  const char* name = nullptr;
  api.check(api.attr_name(attribute, &name));
  Message proto;
  proto.text(1, name);
  proto.number(20, proto_type[type]);
  if (type == attr_tensor) {
    Value* value = nullptr;
    api.check(api.attr_tensor_value(attribute, &value));
    if (value != nullptr) {
      const Described known = described(api, value);
      Message tensor = tensor_header(known);
      if (known.type != type_string) {
        size_t size = 0;
        const void* data = data_of(api, value, &size);
        tensor.bytes(9, data, size);
      }
      proto.message(5, tensor);
      api.release_value(value);
    }
    return proto;
  }
  const std::string data = read_attr(api, attribute, type);
  switch (type) {
    case attr_int:
      for (const int64_t value : numbers<int64_t>(data)) proto.number(3, value);
      break;
    case attr_ints:
      for (const int64_t value : numbers<int64_t>(data)) proto.number(8, value);
      break;
    case attr_float:
      for (const float value : numbers<float>(data)) proto.real(2, value);
      break;
    case attr_floats:
      for (const float value : numbers<float>(data)) proto.real(7, value);
      break;
    case attr_string:
      proto.text(4, data);
      break;
    case attr_strings:  // one behind the other, each with a zero behind it
      for (size_t begin = 0; begin < data.size();) {
        const size_t end = std::min(data.find('\0', begin), data.size());
        proto.bytes(9, data.data() + begin, end - begin);
        begin = end + 1;
      }
      break;
    default:
      break;
  }
  return proto;
}

Message graph_proto(const Api& api, const Graph* graph);

Message node_proto(const Api& api, const Node* node) {
  Message proto;
  const char* text = nullptr;
  for (const ValueInfo* value : inputs_of(api, node)) proto.text(1, name_of(api, value));
  for (const ValueInfo* value : outputs_of(api, node)) proto.text(2, name_of(api, value));
  api.check(api.node_name(node, &text));
  proto.text(3, text);
  api.check(api.node_type(node, &text));
  proto.text(4, text);
  for (const OpAttr* attribute :
       list_of<OpAttr>(api, node, api.node_attr_count, api.node_attrs)) {
    int type = 0;
    // Attributes that are graphs cannot be asked for their type everywhere.
    Status* status = attribute == nullptr ? nullptr : api.attr_type_of(attribute, &type);
    if (status != nullptr) api.release_status(status);
    if (status != nullptr || type < attr_int || type > attr_tensor || type == attr_graph) continue;
    proto.message(5, attribute_proto(api, attribute, type));
  }
  size_t count = 0;
  api.check(api.node_subgraph_count(node, &count));
  std::vector<const Graph*> bodies(count);
  std::vector<const char*> names(count);
  if (count != 0) api.check(api.node_subgraphs(node, bodies.data(), count, names.data()));
  for (size_t i = 0; i < count; i++) {
    Message attribute;
    attribute.text(1, names[i]);
    attribute.number(20, 5);
    attribute.message(6, graph_proto(api, bodies[i]));
    proto.message(5, attribute);
  }
  api.check(api.node_domain(node, &text));
  proto.text(7, text);
  return proto;
}

Message graph_proto(const Api& api, const Graph* graph) {
  Message proto;
  const std::vector<const Node*> nodes = nodes_of(api, graph);
  for (const Node* node : nodes) proto.message(1, node_proto(api, node));
  const char* name = nullptr;
  api.check(api.graph_name(graph, &name));
  proto.text(2, name == nullptr || *name == 0 ? "graph" : name);
  for (const ValueInfo* value : list_of<ValueInfo>(api, graph, api.graph_initializer_count,
                                                   api.graph_initializers)) {
    bool constant = false;
    const Value* data = nullptr;
    api.check(api.is_constant(value, &constant));
    if (constant) api.check(api.initializer_value(value, &data));
    if (data != nullptr && described(api, data).type != type_string) {
      proto.message(5, initializer(api, name_of(api, value), data));
    } else if (data != nullptr) {
      proto.message(11, value_info(api, value));
    }
  }
  for (const ValueInfo* value :
       list_of<ValueInfo>(api, graph, api.graph_input_count, api.graph_inputs)) {
    proto.message(11, value_info(api, value));
  }
  for (const ValueInfo* value :
       list_of<ValueInfo>(api, graph, api.graph_output_count, api.graph_outputs)) {
    proto.message(12, value_info(api, value));
  }
  for (const Node* node : nodes) {
    for (const ValueInfo* value : outputs_of(api, node)) {
      if (value != nullptr) proto.message(13, value_info(api, value));
    }
  }
  return proto;
}

const OpAttr* find_attr(const Api& api, const Node* node, const char* name) {
  const OpAttr* attribute = nullptr;
  Status* status = api.node_attr(node, name, &attribute);  // an error where there is none
  if (status != nullptr) api.release_status(status);
  return attribute;
}

}  // namespace

std::string model_bytes(const Api& api, const Graph* graph) {
  Message proto;
  int64_t version = 0;
  api.check(api.graph_ir_version(graph, &version));
  proto.number(1, version);
  proto.message(7, graph_proto(api, graph));
  size_t count = 0;
  api.check(api.graph_opset_count(graph, &count));
  std::vector<const char*> domains(count);
  std::vector<int64_t> versions(count);
  if (count != 0) api.check(api.graph_opsets(graph, domains.data(), versions.data(), count));
  for (size_t i = 0; i < count; i++) {
    Message opset;
    opset.text(1, domains[i]);
    opset.number(2, versions[i]);
    proto.message(8, opset);
  }
  return proto.take();
}

bool is_nested(const Api& api, const Graph* graph) {
  const Node* parent = nullptr;
  api.check(api.graph_parent(graph, &parent));
  if (parent != nullptr) return true;
  // onnxruntime 1.23 does not tell; a body mostly reads values from around it.
  std::set<std::string> known{""};
  const auto add = [&](const std::vector<const ValueInfo*>& values) {
    for (const ValueInfo* value : values) known.insert(name_of(api, value));
  };
  add(list_of<ValueInfo>(api, graph, api.graph_input_count, api.graph_inputs));
  add(list_of<ValueInfo>(api, graph, api.graph_initializer_count, api.graph_initializers));
  const std::vector<const Node*> nodes = nodes_of(api, graph);
  for (const Node* node : nodes) add(outputs_of(api, node));
  for (const Node* node : nodes) {
    for (const ValueInfo* value : inputs_of(api, node)) {
      if (known.count(name_of(api, value)) == 0) return true;
    }
  }
  return false;
}

std::vector<const Node*> nodes_of(const Api& api, const Graph* graph) {
  return list_of<Node>(api, graph, api.graph_node_count, api.graph_nodes);
}

std::vector<const ValueInfo*> inputs_of(const Api& api, const Node* node) {
  return list_of<ValueInfo>(api, node, api.node_input_count, api.node_inputs);
}

std::vector<const ValueInfo*> outputs_of(const Api& api, const Node* node) {
  return list_of<ValueInfo>(api, node, api.node_output_count, api.node_outputs);
}

std::string name_of(const Api& api, const ValueInfo* value) {
  const char* name = nullptr;
  if (value != nullptr) api.check(api.value_name(value, &name));
  return name == nullptr ? "" : name;
}

int element_type_of(const Api& api, const ValueInfo* value) {
  const TensorInfo* info = value == nullptr ? nullptr : tensor_info_of(api, value);
  return info == nullptr ? 0 : described(api, info).type;
}

std::string text_attr(const Api& api, const Node* node, const char* name, const char* missing) {
  const OpAttr* attribute = find_attr(api, node, name);
  return attribute == nullptr ? missing : read_attr(api, attribute, attr_string);
}

int64_t int_attr(const Api& api, const Node* node, const char* name, int64_t missing) {
  const OpAttr* attribute = find_attr(api, node, name);
  int64_t value = missing;
  size_t size = 0;
  if (attribute != nullptr) {
    api.check(api.read_attr(attribute, attr_int, &value, sizeof value, &size));
  }
  return value;
}

}  // namespace akida_backend::ort
