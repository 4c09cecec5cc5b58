/* Replays a compact trace (trace.py writes it): replayer TRACE OFFSET NUM_BLOCKS NUM_THREADS PAGE_BYTES PACE FD.

   The same calls in the same order, each on the thread that it was recorded on; the threads take turns, so that exactly one runs. One
   write in each page that the program touched, the first ones of the block. The replayer's own tables are mapped and populated before
   the first call, so that the heap holds replayed blocks only and no fault of its own falls into a step. After each segment (from mark
   to mark) a line of JSON on FD: what the kernel counted. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MALLOC = 1, CALLOC, MEMALIGN, FREE, REALLOC, THREAD_END = 7, MARK };

struct event { /* as trace.EVENT */
    uint8_t kind, align_log2;
    uint16_t thread;
    uint32_t block, pages, microseconds; /* since the event before */
    uint64_t size;
};

#define CHUNK 32768

static int trace_fd, out_fd, is_paced;
static size_t page_bytes, num_blocks, num_threads;
static struct event *chunk;
static size_t at, filled;
static void **blocks;
static struct thread { pthread_t id; atomic_int wake, lives; } *threads;
static atomic_size_t turn;
static size_t ended; /* a thread that the main one joins before the next call, so that its caches are empty; 0: none */
static uint64_t calls, hash = 1469598103934665603u, recorded_ns, started_ns;
static struct { uint64_t kind, number; struct rusage usage; uint64_t ns, calls; } segment;

static _Noreturn void fail(const char *why, uint64_t number) {
    char line[256];
    int length = snprintf(line, sizeof line, "{\"event\": \"failed\", \"error\": \"%s (event %llu)\"}\n", why, (unsigned long long)number);
    if (write(out_fd, line, (size_t)length) < 0) _exit(2);
    _exit(1);
}

static void tell(const char *format, ...) {
    static char line[4096];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    if (write(out_fd, line, (size_t)length) != length) _exit(2);
}

static void *mapped(size_t bytes) {
    void *found = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (found == MAP_FAILED) fail("there is no memory for the replayer's tables", 0);
    return found;
}

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t peak_rss_kib(void) {
    static char text[4096];
    int fd = open("/proc/self/status", O_RDONLY);
    ssize_t length = fd < 0 ? 0 : read(fd, text, sizeof text - 1);
    if (fd >= 0) close(fd);
    text[length > 0 ? length : 0] = 0;
    const char *found = strstr(text, "VmHWM:");
    return found ? strtoull(found + 6, NULL, 10) : 0;
}

static uint64_t microseconds(struct timeval a, struct timeval b) {
    return (uint64_t)((b.tv_sec - a.tv_sec) * 1000000 + (b.tv_usec - a.tv_usec));
}

static void begin_segment(uint64_t kind, uint64_t number) {
    segment.kind = kind, segment.number = number, segment.calls = calls;
    getrusage(RUSAGE_SELF, &segment.usage);
    segment.ns = now_ns();
}

static void end_segment(void) {
    struct rusage now;
    uint64_t ns = now_ns();
    getrusage(RUSAGE_SELF, &now);
    tell("{\"event\": \"segment\", \"kind\": %llu, \"number\": %llu, \"calls\": %llu, \"nanoseconds\": %llu, \"minor_faults\": %ld, "
         "\"major_faults\": %ld, \"user_microseconds\": %llu, \"system_microseconds\": %llu, \"peak_rss_kib\": %llu}\n",
         (unsigned long long)segment.kind, (unsigned long long)segment.number, (unsigned long long)(calls - segment.calls),
         (unsigned long long)(ns - segment.ns), now.ru_minflt - segment.usage.ru_minflt, now.ru_majflt - segment.usage.ru_majflt,
         (unsigned long long)microseconds(segment.usage.ru_utime, now.ru_utime),
         (unsigned long long)microseconds(segment.usage.ru_stime, now.ru_stime), (unsigned long long)peak_rss_kib());
}

/* The next event, NULL at the end. Read by whoever has the turn. */
static struct event *peek(void) {
    if (at == filled) {
        size_t bytes = 0;
        ssize_t got;
        while (bytes < CHUNK * sizeof *chunk && (got = read(trace_fd, (char *)chunk + bytes, CHUNK * sizeof *chunk - bytes)) > 0)
            bytes += (size_t)got;
        at = 0, filled = bytes / sizeof *chunk;
        if (!filled) return NULL;
    }
    return &chunk[at];
}

static void touch(char *block, const struct event *event) {
    size_t bytes = (size_t)event->pages * page_bytes, is_whole = !event->pages || bytes > event->size;
    if (is_whole) bytes = event->size;
    for (size_t i = 0; i < bytes; i += page_bytes) ((volatile char *)block)[i] = 1;
    if (is_whole && bytes) ((volatile char *)block)[bytes - 1] = 1; /* the last page of a block that begins within a page */
}

static void wait_until(uint64_t microseconds_ahead) {
    uint64_t due;
    recorded_ns += microseconds_ahead * 1000;
    if (!is_paced || (due = started_ns + recorded_ns) < now_ns() + 50000) return;
    struct timespec when = {(time_t)(due / 1000000000u), (long)(due % 1000000000u)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR) {}
}

static void execute(const struct event *event) {
    wait_until(event->microseconds);
    if (event->kind == MARK) {
        end_segment();
        begin_segment(event->block, event->size);
        return;
    }
    if (event->block >= num_blocks) fail("the trace names a block that it does not have", calls);
    calls++;
    void **place = &blocks[event->block];
    for (size_t i = 0; i < 8; i++) hash = (hash ^ ((const unsigned char *)event)[i]) * 1099511628211u; /* FNV-1a, thread and block too */
    hash = (hash ^ event->size) * 1099511628211u;
    switch (event->kind) {
    case MALLOC: *place = malloc(event->size); break;
    case CALLOC: *place = calloc(1, event->size); break;
    case MEMALIGN:
        if (posix_memalign(place, (size_t)1 << (event->align_log2 < 3 ? 3 : event->align_log2), event->size)) *place = NULL;
        break;
    case REALLOC: *place = realloc(*place, event->size); break;
    case FREE: free(*place), *place = NULL; return;
    default: fail("the trace has a call that this version does not know", calls);
    }
    if (!*place && event->size) fail("the allocator gave no memory", calls);
    touch(*place, event);
}

static void wake(size_t thread) {
    atomic_store(&threads[thread].wake, 1);
    syscall(SYS_futex, &threads[thread].wake, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *run(void *argument);

static void pass_to(size_t thread) {
    if (thread >= num_threads || (thread && thread == ended)) fail("the trace names a thread that it does not have", calls);
    atomic_store(&turn, thread);
    if (thread && !threads[thread].lives) {
        static pthread_attr_t attributes; /* the stack is mapped by the C library, not taken from the heap */
        threads[thread].lives = 1;
        pthread_attr_init(&attributes);
        pthread_attr_setstacksize(&attributes, 256 << 10);
        if (pthread_create(&threads[thread].id, &attributes, run, (void *)thread)) fail("a thread could not be started", calls);
    }
    wake(thread);
}

static void *run(void *argument) {
    size_t me = (size_t)argument;
    struct event *event;
    for (;;) {
        while (!atomic_exchange(&threads[me].wake, 0) || atomic_load(&turn) != me)
            syscall(SYS_futex, &threads[me].wake, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
        if (!me && ended) pthread_join(threads[ended].id, NULL), ended = 0;
        while ((event = peek()) && event->thread == me && event->kind != THREAD_END) execute(event), at++;
        if (event && event->thread != me) {
            pass_to(event->thread);
            continue;
        }
        if (!event && !me) return NULL;
        if (event) at++; /* the end of this thread */
        if (!me) {
            wake(me);
            continue;
        }
        if (event) ended = me;
        pass_to(0);
        return NULL;
    }
}

static void prove(const char *word) {
    static const char *names[] = {"malloc", "calloc", "realloc", "posix_memalign", "free"};
    tell("{\"event\": \"%s\"", word);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        Dl_info info = {0};
        void *symbol = dlsym(RTLD_DEFAULT, names[i]);
        if (!symbol || !dladdr(symbol, &info) || !info.dli_fname) fail("the loader does not show where malloc comes from", 0);
        tell(", \"%s\": \"%s\"", names[i], info.dli_fname);
    }
    tell("}\n");
}

int main(int argc, char **argv) {
    if (argc != 8) return 2;
    trace_fd = open(argv[1], O_RDONLY | O_CLOEXEC);
    num_blocks = strtoull(argv[3], NULL, 10), num_threads = strtoull(argv[4], NULL, 10), page_bytes = strtoull(argv[5], NULL, 10);
    is_paced = !strcmp(argv[6], "original");
    out_fd = atoi(argv[7]);
    if (trace_fd < 0 || lseek(trace_fd, (off_t)strtoull(argv[2], NULL, 10), SEEK_SET) < 0) fail("the trace cannot be read", 0);
    prove("proved");
    chunk = mapped(CHUNK * sizeof *chunk);
    blocks = mapped(num_blocks * sizeof *blocks);
    threads = mapped(num_threads * sizeof *threads);
    started_ns = now_ns();
    begin_segment(0, 0);
    threads[0].lives = 1;
    wake(0);
    run((void *)0);
    end_segment();
    prove("proved_end");
    tell("{\"event\": \"end\", \"calls\": %llu, \"hash\": %llu}\n", (unsigned long long)calls, (unsigned long long)(hash >> 12));
    _exit(0);
}
