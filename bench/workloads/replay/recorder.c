/* Preloaded in front of glibc: writes each call of malloc, calloc, realloc, the memalign family and free, of all threads, into
   $MALLOCOST_TRACE-PID-N.raw, one file for each process image. trace.py reads it.

   Each thread fills a window of the file of its own, which is copied to the file's end when it is full and filled again; one atomic
   counter numbers the calls over all threads, and the reader sorts by it. An allocation takes its number after the call and a free before it, so that an address is never given out twice in that order; a
   realloc is two events for the same reason. Windows are mapped, so that what is written survives SIGKILL and memory is bounded, and
   nothing here calls malloc. The file is opened by path and closed at once, because a program may close or reuse any file descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MALLOC = 1, CALLOC, MEMALIGN, FREE, REALLOC_BEGIN, REALLOC_END, THREAD_END, MARK };

struct event { /* as trace.RAW_EVENT */
    uint8_t kind, align_log2;
    uint16_t unused;
    uint32_t pages; /* resident when the block ends, of a block of LARGE bytes and more; else 0 */
    uint64_t number, address, size, nanoseconds;
};

struct header { /* of a window, as trace.RAW_HEADER; as long as an event */
    char magic[8];
    uint32_t bytes, thread; /* of this window */
    uint32_t page_bytes, pid;
    uint32_t stopped; /* in the first: errno where the recorder had to stop */
    uint32_t forked;
    uint64_t own_nanoseconds; /* that this thread spent here so far: one call in SAMPLED is timed, and all that are slow */
};

#define WINDOW_BYTES ((size_t)65536) /* the largest page of any kernel */
#define LARGE ((size_t)128 << 10) /* the tunable glibc.malloc.mmap_threshold that `mallocost trace` sets */
#define SAMPLED 64
#define TLS _Thread_local __attribute__((tls_model("initial-exec")))

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static _Atomic enum { UNBORN, RECORDING, OFF } state = UNBORN;
static char prefix[3072], path[3200];
static size_t page_bytes;
static atomic_uint_least64_t calls, file_bytes;
static atomic_uint threads;
static atomic_int has_file; /* 1: some thread makes it; 2: it is there */
static uint32_t forked;
static pthread_key_t thread_key;
static int has_key;

static TLS struct header *window;
static TLS struct event *next, *last; /* in the window; equal: it is full, or there is none */
static TLS uint32_t my_thread;
static TLS uint64_t own_nanoseconds;
static TLS unsigned since_timed;
static TLS int busy; /* a signal's handler that allocates meanwhile is not recorded */

static uint64_t clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void stop(int error) {
    int fd = has_file == 2 ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    uint32_t number = (uint32_t)error;
    state = OFF;
    if (fd < 0) return;
    if (pwrite(fd, &number, sizeof number, offsetof(struct header, stopped)) < 0) number = 0;
    close(fd);
}

static int open_file(void) {
    int nobody = 0, fd = -1;
    if (atomic_compare_exchange_strong(&has_file, &nobody, 1)) {
        for (int number = 0; number < 10000; number++) { /* exec keeps the process's number */
            snprintf(path, sizeof path, "%s-%d-%d.raw", prefix, (int)getpid(), number);
            fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
            if (fd >= 0 || errno != EEXIST) break;
        }
        has_file = fd < 0 ? 0 : 2;
        return fd;
    }
    while (has_file == 1) usleep(10);
    return open(path, O_RDWR | O_CLOEXEC);
}

/* Append the full window to the file, and fill it again. A new page of a mapped file costs ten times as much as one that is written. */
static void flush_window(void) {
    off_t at = (off_t)atomic_fetch_add(&file_bytes, WINDOW_BYTES);
    int fd = open_file();
    if (fd < 0) return stop(errno);
    ssize_t done = pwrite(fd, window, WINDOW_BYTES, at);
    int error = done < 0 ? errno : ENOSPC;
    close(fd);
    if (done != (ssize_t)WINDOW_BYTES) return stop(error);
    next = (struct event *)window + 1;
}

/* A thread's first window is a page, because many threads make few calls; the next one it keeps. */
static void open_window(void) {
    size_t bytes = window ? WINDOW_BYTES : page_bytes;
    if (window && window->bytes == WINDOW_BYTES) return flush_window();
    if (window) munmap(window, window->bytes);
    window = NULL, next = last = NULL;
    int fd = open_file();
    if (fd < 0) return stop(errno);
    off_t at = (off_t)atomic_fetch_add(&file_bytes, bytes);
    int error = posix_fallocate(fd, at, (off_t)bytes); /* a full disk is an error here, and would be SIGBUS later */
    void *found = error ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, at);
    if (!error && found == MAP_FAILED) error = errno;
    close(fd);
    if (error) {
        if (!at) { /* nothing is in it */
            unlink(path);
            has_file = 0;
        }
        return stop(error);
    }
    if (!my_thread) {
        my_thread = atomic_fetch_add(&threads, 1) + 1;
        if (has_key) pthread_setspecific(thread_key, (void *)1);
    }
    struct header header = {"MALLOCR2", (uint32_t)bytes, my_thread, (uint32_t)page_bytes, (uint32_t)getpid(), 0, forked, 0};
    window = memcpy(found, &header, sizeof header);
    next = (struct event *)found + 1;
    last = (struct event *)found + bytes / sizeof *next;
}

/* The coarse clock is read in a few nanoseconds and is a few milliseconds late: enough for small blocks. */
static void write_event(int kind, uint64_t address, uint64_t size, unsigned align_log2, uint32_t pages) {
    int is_slow = next == last, is_timed = is_slow || ++since_timed == SAMPLED;
    uint64_t begun = is_timed ? clock_ns(CLOCK_MONOTONIC) : 0;
    if (next == last) open_window();
    if (next == last) return;
    struct event *event = next++;
    __atomic_store_n(&event->kind, 0, __ATOMIC_RELEASE); /* what it was is in the file; a half of it is not read */
    atomic_signal_fence(memory_order_seq_cst);
    event->align_log2 = (uint8_t)align_log2, event->pages = pages, event->address = address, event->size = size;
    event->nanoseconds = clock_ns(size >= LARGE || pages ? CLOCK_MONOTONIC : CLOCK_MONOTONIC_COARSE);
    event->number = atomic_fetch_add_explicit(&calls, 1, memory_order_acq_rel);
    __atomic_store_n(&event->kind, (uint8_t)kind, __ATOMIC_RELEASE); /* last */
    if (!is_timed) return;
    own_nanoseconds += (clock_ns(CLOCK_MONOTONIC) - begun) * (is_slow ? 1 : SAMPLED);
    window->own_nanoseconds = own_nanoseconds;
    since_timed = 0;
}

/* The child has this thread alone; what the others mapped of the parent's file stays mapped there, and nobody writes to it. */
static void in_child(void) {
    if (window) munmap(window, window->bytes);
    window = NULL, next = last = NULL;
    has_file = 0;
    file_bytes = 0;
    forked = 1;
    if (state == OFF && prefix[0]) state = RECORDING;
}

static void record(int kind, void *address, size_t size, size_t align, uint32_t pages);
static void end_thread(void *unused) {
    (void)unused;
    record(THREAD_END, NULL, 0, 1, 0);
    busy = 1;
    if (window) munmap(window, window->bytes);
    window = NULL, next = last = NULL; /* calls of later destructors get another page */
    busy = 0;
}

/* The C library sets the environment before any constructor runs, and the loader allocates before that: those calls are lost. */
static void start(void) {
    extern char **environ;
    if (!environ) return;
    const char *wanted = getenv("MALLOCOST_TRACE");
    state = OFF;
    page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    if (!wanted || wanted[0] != '/' || strlen(wanted) >= sizeof prefix || page_bytes > WINDOW_BYTES) return;
    strcpy(prefix, wanted);
    busy = 1; /* these two may allocate */
    has_key = pthread_key_create(&thread_key, end_thread) == 0;
    pthread_atfork(NULL, NULL, in_child);
    busy = 0;
    state = RECORDING;
}

static void record(int kind, void *address, size_t size, size_t align, uint32_t pages) {
    if (busy) return;
    busy = 1;
    int error = errno;
    if (state == UNBORN) start();
    busy = 1;
    if (state == RECORDING) write_event(kind, (uint64_t)(uintptr_t)address, size, (unsigned)__builtin_ctzl(align | (size_t)1 << 63), pages);
    errno = error;
    busy = 0;
}

/* Pages of a large block that the kernel has given it. Exact where the block is a mapping of its own; else pages that an earlier block
   of the place touched count too. */
static uint32_t resident(void *block) {
    size_t size, count = 0;
    unsigned char seen[4096];
    if (busy || state != RECORDING || (size = malloc_usable_size(block)) < LARGE) return 0;
    int error = errno;
    uint64_t begun = clock_ns(CLOCK_MONOTONIC);
    uintptr_t at = (uintptr_t)block & ~(page_bytes - 1), end = ((uintptr_t)block + size + page_bytes - 1) & ~(page_bytes - 1);
    while (at < end) {
        size_t length = end - at < sizeof seen * page_bytes ? end - at : sizeof seen * page_bytes;
        if (mincore((void *)at, length, seen)) break;
        for (size_t i = 0; i < length / page_bytes; i++) count += seen[i] & 1;
        at += length;
    }
    own_nanoseconds += clock_ns(CLOCK_MONOTONIC) - begun;
    errno = error;
    return count > 0 ? (uint32_t)count : 1;
}

/* For a program that knows its own steps: begins a step or phase of this kind. */
void mallocost_mark(unsigned kind, unsigned long number) { record(MARK, (void *)(uintptr_t)kind, number, 1, 0); }

__attribute__((constructor)) static void begin(void) {
    if (state == UNBORN) start();
}

void *malloc(size_t size) {
    void *block = __libc_malloc(size);
    if (block) record(MALLOC, block, size, 1, 0);
    return block;
}

void *calloc(size_t count, size_t size) {
    void *block = __libc_calloc(count, size);
    if (block) record(CALLOC, block, count * size, 1, 0);
    return block;
}

void free(void *block) {
    if (!block) return;
    record(FREE, block, 0, 1, resident(block));
    __libc_free(block);
}

void *realloc(void *old, size_t size) {
    if (!old) return malloc(size);
    record(REALLOC_BEGIN, old, size, 1, resident(old));
    void *block = __libc_realloc(old, size);
    record(REALLOC_END, block, size, 1, 0);
    return block;
}

static void *aligned(size_t align, size_t size) {
    void *block = __libc_memalign(align, size);
    if (block) record(MEMALIGN, block, size, align, 0);
    return block;
}

void *memalign(size_t align, size_t size) { return aligned(align, size); }
void *aligned_alloc(size_t align, size_t size) { return aligned(align, size); }
void *valloc(size_t size) { return aligned((size_t)sysconf(_SC_PAGESIZE), size); }
void *pvalloc(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    return aligned(page, (size + page - 1) & ~(page - 1));
}

int posix_memalign(void **block, size_t align, size_t size) {
    if (align % sizeof(void *) || align & (align - 1) || !align) return EINVAL;
    int error = errno;
    void *found = aligned(align, size);
    errno = error;
    if (!found) return ENOMEM;
    *block = found;
    return 0;
}
