/* Loaded before the C library. The wall clock is ahead by the seconds in the file STEPPED_CLOCK,
 * until the module has read it as many times as the file says: then it is stepped back. Two
 * numbers of eight bytes: seconds, reads. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *state;

__attribute__((constructor)) static void open_state(void) {
    const char *path = getenv("STEPPED_CLOCK");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (map != MAP_FAILED) state = map;
    close(file);
}

static int read_wall(struct timespec *time) {
    int failed = syscall(SYS_clock_gettime, CLOCK_REALTIME, time);
    if (!failed && state) time->tv_sec += state[0];
    return failed;
}

static int is_module(void *caller) {
    Dl_info info;
    return dladdr(caller, &info) && info.dli_fname && strstr(info.dli_fname, "libgpulock");
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (clock != CLOCK_REALTIME) return syscall(SYS_clock_gettime, clock, time);
    if (state && state[1] > 0 && is_module(__builtin_return_address(0)) && --state[1] == 0)
        state[0] = 0;
    return read_wall(time);
}

int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    if (read_wall(&precise)) return -1;
    time->tv_sec = precise.tv_sec;
    time->tv_usec = precise.tv_nsec / 1000;
    return 0;
}
