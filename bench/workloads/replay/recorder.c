/* Preloaded in front of glibc: writes each call of malloc, calloc, realloc, the memalign family and free, of all threads, in one
   total order, into $MALLOCOST_TRACE-PID-N.raw, one file for each process image. trace.py reads it.

   One lock holds from taking a place in the file to filling it. An allocation is written after the call and a free before it, so that
   an address is never given out twice in the file's order; a realloc is two events for the same reason. The file is mapped, one window
   at a time: what is written survives SIGKILL, memory is bounded by the window, and nothing here calls malloc. A window is opened by
   path and closed at once, because a program may close or reuse any file descriptor. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <sched.h>
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
    uint16_t thread;
    uint32_t pages; /* resident when the block ends, of a block of LARGE bytes and more; else 0 */
    uint64_t address, size, nanoseconds;
};

struct header { /* as trace.RAW_HEADER; as long as an event */
    char magic[8];
    uint32_t page_bytes, pid;
    uint32_t stopped; /* errno where the recorder had to stop */
    uint32_t forked;
    uint64_t unused;
};

#define WINDOW_EVENTS 32768
#define WINDOW_BYTES (WINDOW_EVENTS * sizeof(struct event))
#define LARGE ((size_t)128 << 10) /* the tunable glibc.malloc.mmap_threshold that `mallocost trace` sets */

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t), *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

static enum { UNBORN, RECORDING, OFF } state = UNBORN;
static atomic_flag lock = ATOMIC_FLAG_INIT;
static char prefix[3072], path[3200];
static struct event *window;
static size_t next_event; /* in the window */
static uint64_t windows;
static uint32_t forked;
static atomic_uint threads;
static pthread_key_t thread_key;
static int has_key;
static _Thread_local uint16_t my_thread __attribute__((tls_model("initial-exec")));
static _Thread_local int busy __attribute__((tls_model("initial-exec")));

static void take_lock(void) {
    busy = 1; /* a signal's handler that allocates now is not recorded, and does not wait for itself */
    for (int tries = 0; atomic_flag_test_and_set_explicit(&lock, memory_order_acquire); tries++)
        if (tries > 64) sched_yield();
}

static void give_lock(void) {
    atomic_flag_clear_explicit(&lock, memory_order_release);
    busy = 0;
}

static void stop(int error) {
    int fd = windows ? open(path, O_WRONLY | O_CLOEXEC) : -1;
    uint32_t number = (uint32_t)error;
    if (fd >= 0) {
        if (pwrite(fd, &number, sizeof number, offsetof(struct header, stopped)) < 0) number = 0;
        close(fd);
    }
    state = OFF;
}

static int open_window(void) {
    int fd = -1;
    if (window) munmap(window, WINDOW_BYTES);
    window = NULL;
    if (windows) {
        fd = open(path, O_RDWR | O_CLOEXEC);
    } else {
        for (int number = 0; number < 10000; number++) { /* exec keeps the process's number */
            snprintf(path, sizeof path, "%s-%d-%d.raw", prefix, (int)getpid(), number);
            fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
            if (fd >= 0 || errno != EEXIST) break;
        }
    }
    if (fd < 0) return stop(errno), 0;
    off_t at = (off_t)(windows * WINDOW_BYTES);
    int error = posix_fallocate(fd, at, WINDOW_BYTES); /* a full disk is an error here, and would be SIGBUS later */
    void *found = error ? MAP_FAILED : mmap(NULL, WINDOW_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, at);
    if (!error && found == MAP_FAILED) error = errno;
    close(fd);
    if (error) {
        stop(error);
        if (!windows) unlink(path); /* nothing is in it */
        return 0;
    }
    window = found;
    next_event = 0;
    if (windows++ == 0) {
        struct header header = {"MALLOCR1", (uint32_t)sysconf(_SC_PAGESIZE), (uint32_t)getpid(), 0, forked, 0};
        memcpy(window, &header, sizeof header);
        next_event = 1;
    }
    return 1;
}

static void write_event(int kind, uint64_t address, uint64_t size, unsigned align_log2, uint32_t pages) {
    struct timespec now;
    if (state != RECORDING || ((!window || next_event == WINDOW_EVENTS) && !open_window())) return;
    if (!my_thread) {
        unsigned number = atomic_fetch_add(&threads, 1) + 1;
        my_thread = number > 65535 ? 65535 : (uint16_t)number;
        if (has_key) pthread_setspecific(thread_key, (void *)1);
    }
    clock_gettime(CLOCK_MONOTONIC, &now);
    struct event *event = &window[next_event++];
    event->align_log2 = (uint8_t)align_log2, event->thread = my_thread, event->pages = pages;
    event->address = address, event->size = size;
    event->nanoseconds = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    __atomic_store_n(&event->kind, (uint8_t)kind, __ATOMIC_RELEASE); /* last: a kind of 0 ends the file */
}

static void prepare(void) { take_lock(); }
static void in_parent(void) { give_lock(); }
static void in_child(void) {
    if (window) munmap(window, WINDOW_BYTES);
    window = NULL, windows = 0, forked = 1;
    if (state == OFF && prefix[0]) state = RECORDING;
    give_lock();
}

static void record(int kind, void *address, size_t size, size_t align, uint32_t pages);
static void end_thread(void *unused) {
    (void)unused;
    record(THREAD_END, NULL, 0, 1, 0);
}

/* The C library sets the environment before any constructor runs, and the loader allocates before that: those calls are lost. */
static void start(void) {
    extern char **environ;
    if (!environ) return;
    const char *wanted = getenv("MALLOCOST_TRACE");
    state = OFF;
    if (!wanted || wanted[0] != '/' || strlen(wanted) >= sizeof prefix) return;
    strcpy(prefix, wanted);
    busy = 1; /* these two may allocate */
    has_key = pthread_key_create(&thread_key, end_thread) == 0;
    pthread_atfork(prepare, in_parent, in_child);
    busy = 0;
    state = RECORDING;
}

static void record(int kind, void *address, size_t size, size_t align, uint32_t pages) {
    int error = errno;
    if (busy) return;
    if (state == UNBORN) start();
    if (state == RECORDING) {
        take_lock();
        write_event(kind, (uint64_t)(uintptr_t)address, size, (unsigned)__builtin_ctzl(align | (size_t)1 << 63), pages);
        give_lock();
    }
    errno = error;
}

/* Pages of a large block that the kernel has given it. Exact where the block is a mapping of its own; else pages that an earlier block
   of the place touched count too. */
static uint32_t resident(void *block) {
    size_t size, page = 4096, count = 0;
    unsigned char seen[4096];
    if (busy || state != RECORDING || (size = malloc_usable_size(block)) < LARGE) return 0;
    int error = errno;
    page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t at = (uintptr_t)block & ~(page - 1), end = ((uintptr_t)block + size + page - 1) & ~(page - 1);
    while (at < end) {
        size_t length = end - at < sizeof seen * page ? end - at : sizeof seen * page;
        if (mincore((void *)at, length, seen)) break;
        for (size_t i = 0; i < length / page; i++) count += seen[i] & 1;
        at += length;
    }
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
