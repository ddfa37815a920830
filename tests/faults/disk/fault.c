/* Fails the Nth write or sync on files below one folder: preloaded into a process that is to meet a bad disk.
 *
 * fault_arm(folder, n, error, keeps_failing) starts counting: the nth write, truncate or sync from then on fails with
 * `error`, and with keeps_failing all that follow. fault_disarm() returns how many were counted.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX];
static atomic_long counted, fails_at;
static int error_number, keeps_failing;

void fault_arm(const char *path, long n, int error, int keeps) {
    snprintf(folder, sizeof folder, "%s", path);
    error_number = error;
    keeps_failing = keeps;
    atomic_store(&counted, 0);
    atomic_store(&fails_at, n);
}

long fault_disarm(void) {
    folder[0] = 0;
    return atomic_load(&counted);
}

static int is_ours(int file) {
    char link[64], path[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strncmp(path, folder, strlen(folder)) == 0;
}

static int fails(int file) {
    int kept = errno;
    if (!is_ours(file)) { errno = kept; return 0; }
    errno = kept;
    long n = atomic_fetch_add(&counted, 1) + 1, at = atomic_load(&fails_at);
    if (n != at && !(keeps_failing && n > at)) return 0;
    errno = error_number;
    return 1;
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

ssize_t write(int file, const void *bytes, size_t count) {
    REAL(write);
    return fails(file) ? -1 : real(file, bytes, count);
}

ssize_t pwrite(int file, const void *bytes, size_t count, off_t at) {
    REAL(pwrite);
    return fails(file) ? -1 : real(file, bytes, count, at);
}

ssize_t pwrite64(int file, const void *bytes, size_t count, off64_t at) {
    REAL(pwrite64);
    return fails(file) ? -1 : real(file, bytes, count, at);
}

int ftruncate(int file, off_t length) {
    REAL(ftruncate);
    return fails(file) ? -1 : real(file, length);
}

int ftruncate64(int file, off64_t length) {
    REAL(ftruncate64);
    return fails(file) ? -1 : real(file, length);
}

int fsync(int file) {
    REAL(fsync);
    return fails(file) ? -1 : real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    return fails(file) ? -1 : real(file);
}
