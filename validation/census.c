/* Preloaded in front of glibc: notes the size of every block of 1 MiB and more that the process asks for. All of PyTorch's
   CPU allocations, and MKL's, end in one of these functions. validation/census.py builds, preloads and reads it. */
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>

#define SMALLEST ((size_t)1 << 20)
#define LOG 65536

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);

size_t census_sizes[LOG];
atomic_size_t census_calls; /* may exceed LOG: then the later sizes are lost, and census.py says so */

void census_reset(void) { census_calls = 0; }
size_t census_count(void) { return census_calls; }

static void *note(void *block, size_t size) {
    if (block && size >= SMALLEST) {
        size_t i = atomic_fetch_add(&census_calls, 1);
        if (i < LOG) census_sizes[i] = size;
    }
    return block;
}

void *malloc(size_t size) { return note(__libc_malloc(size), size); }
void *calloc(size_t count, size_t size) { return note(__libc_calloc(count, size), count * size); }
void *realloc(void *block, size_t size) { return note(__libc_realloc(block, size), size); }
void *memalign(size_t align, size_t size) { return note(__libc_memalign(align, size), size); }
void *aligned_alloc(size_t align, size_t size) { return note(__libc_memalign(align, size), size); }

int posix_memalign(void **block, size_t align, size_t size) {
    void *found = note(__libc_memalign(align, size), size);
    if (!found) return ENOMEM;
    *block = found;
    return 0;
}
