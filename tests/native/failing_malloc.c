/* SPDX-License-Identifier: Apache-2.0 */
/* Preloaded, it lets one allocation of one library fail. */
#include <link.h>
#include <stddef.h>
#include <stdint.h>

extern void* __libc_malloc(size_t size);

static uintptr_t begin, end;
static long left = -1;

/* Sets the range where `address` lies in it. */
static int look(struct dl_phdr_info* info, size_t size, void* address) {
  (void)size;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
    const uintptr_t to = from + info->dlpi_phdr[i].p_memsz;
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    if ((uintptr_t)address < from || (uintptr_t)address >= to) continue;
    begin = from;
    end = to;
    return 1;
  }
  return 0;
}

/* Which library's code `address` lies in, and how many of its allocations succeed before one
 * fails; a negative number: all do. What was left before. */
long fail_after(void* address, long count) {
  const long before = left;
  left = -1;
  dl_iterate_phdr(look, address);
  left = count;
  return before;
}

void* malloc(size_t size) {
  const uintptr_t caller = (uintptr_t)__builtin_return_address(0);
  if (left >= 0 && caller >= begin && caller < end && left-- == 0) return NULL;
  return __libc_malloc(size);
}
