/* Every commit of a log waits for as many milliseconds as the file says that STALL_MS_FILE names, while that is there:
 * preloaded into a process whose disk is to stall. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_log(int file) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    return strstr(path, "/log.db-wal") != NULL;
}

static void stall(int descriptor) {
    const char *name = getenv("STALL_MS_FILE");
    FILE *file = name && is_log(descriptor) ? fopen(name, "r") : NULL;
    int milliseconds = 0;
    if (!file) return;
    if (fscanf(file, "%d", &milliseconds) == 1) usleep(1000u * (unsigned)milliseconds);
    fclose(file);
}

#define REAL(name) __typeof__(&name) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

int fsync(int file) {
    REAL(fsync);
    stall(file);
    return real(file);
}

int fdatasync(int file) {
    REAL(fdatasync);
    stall(file);
    return real(file);
}
