// SPDX-License-Identifier: Apache-2.0
// What the C interface's functions share: no exception leaves them, the text of one is kept.
#ifndef AKIDA_BACKEND_THREAD_ERROR_H
#define AKIDA_BACKEND_THREAD_ERROR_H

#include <exception>
#include <new>

#include "program.h"

namespace akida_backend {

// Of the calling thread, for akida_backend_error().
void keep_error(const char* text);

// What `action` returns, or `failed` and the error kept.
template <class Result, class Action>
Result guarded(Result failed, const Action& action) {
  try {
    return action();
  } catch (const std::bad_alloc&) {
    keep_error("memory does not suffice");
  } catch (const std::exception& error) {
    keep_error(error.what());
  } catch (...) {
    keep_error("unknown error");
  }
  return failed;
}

inline void require(bool condition, const char* problem) {
  if (!condition) throw Failure(problem);
}

}  // namespace akida_backend

#endif
