// SPDX-License-Identifier: Apache-2.0
// What the compiler in Python answers, kept until the runtime has taken it over.
#ifndef AKIDA_BACKEND_TFLITE_ANSWER_H
#define AKIDA_BACKEND_TFLITE_ANSWER_H

#include <memory>
#include <string>
#include <vector>

#include "program_runner.h"
#include "tflite_compiler.h"
#include "tflite_kernel.h"

namespace akida_backend::tflite {

// Nodes of the graph that one program stands for.
struct Segment {
  std::vector<int> nodes;  // ascending
  int input = -1;
  int output = -1;
  std::vector<int32_t> picks;
  std::shared_ptr<const PythonSegment> python;  // null: the program runs
  std::string program;
  std::shared_ptr<ProgramRunner> runner;  // loaded when the segment is checked
};

// The one that is installed in this process, null without Python.
const akida_backend_tflite_compiler* installed_compiler();

}  // namespace akida_backend::tflite

struct akida_backend_tflite_answer {
  std::vector<akida_backend::tflite::Segment> segments;
  bool all_required = false;
  std::string refusal;
};

#endif
