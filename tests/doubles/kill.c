/* LD_PRELOAD: counts what a process does to the files of one folder, and kills it in the middle of the n-th operation.

   A write that is killed has written half of its bytes; any other operation has not happened. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static char folder[PATH_MAX];
static long done, last; /* operations, and the one that is the last; 0 is none */

void kill_at(const char *path, long operation) {
    strncpy(folder, path, sizeof folder - 1);
    done = 0, last = operation;
}

long operations(void) { return done; }

static int inside_fd(int fd) {
    char link[64], path[PATH_MAX] = "";
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return *folder && readlink(link, path, sizeof path - 1) > 0 && !strncmp(path, folder, strlen(folder));
}

static int inside(int fd, const char *path) {
    if (path[0] != '/') return inside_fd(fd);
    return *folder && !strncmp(path, folder, strlen(folder));
}

/* Whether the process is to die in this operation. */
static int counted(int is_inside) { return is_inside && __atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST) == last; }

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define HOOK(type, name, parameters, arguments, is_inside) \
    type name parameters { \
        if (counted(is_inside)) die(); \
        return NEXT(name) arguments; \
    }
#define HOOK_OPEN(name, first, arguments, fd) \
    int name(first const char *path, int flags, ...) { \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | __O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        if (flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC) && counted(inside(fd, path))) die(); \
        return NEXT(name) arguments; \
    }
#define HOOK_WRITE(name, rest, arguments) \
    ssize_t name(int fd, const void *data, size_t size rest) { \
        int dies = counted(inside_fd(fd)); \
        if (dies) size /= 2; \
        ssize_t written = NEXT(name) arguments; \
        if (dies) die(); \
        return written; \
    }
#define AND ,
HOOK_OPEN(open, , (path, flags, mode), AT_FDCWD)
HOOK_OPEN(open64, , (path, flags, mode), AT_FDCWD)
HOOK_OPEN(openat, int fd AND, (fd, path, flags, mode), fd)
HOOK_OPEN(openat64, int fd AND, (fd, path, flags, mode), fd)
HOOK_WRITE(write, , (fd, data, size))
HOOK_WRITE(pwrite, AND off_t offset, (fd, data, size, offset))
HOOK_WRITE(pwrite64, AND off64_t offset, (fd, data, size, offset))
HOOK(FILE *, fopen, (const char *path, const char *mode), (path, mode), *mode != 'r' && inside(AT_FDCWD, path))
HOOK(FILE *, fopen64, (const char *path, const char *mode), (path, mode), *mode != 'r' && inside(AT_FDCWD, path))
HOOK(int, fsync, (int fd), (fd), inside_fd(fd))
HOOK(int, fdatasync, (int fd), (fd), inside_fd(fd))
HOOK(int, ftruncate, (int fd, off_t size), (fd, size), inside_fd(fd))
HOOK(int, ftruncate64, (int fd, off64_t size), (fd, size), inside_fd(fd))
HOOK(int, rename, (const char *from, const char *to), (from, to), inside(AT_FDCWD, to))
HOOK(int, renameat, (int a, const char *from, int b, const char *to), (a, from, b, to), inside(b, to))
HOOK(int, unlink, (const char *path), (path), inside(AT_FDCWD, path))
HOOK(int, unlinkat, (int fd, const char *path, int flags), (fd, path, flags), inside(fd, path))
HOOK(int, mkdir, (const char *path, mode_t mode), (path, mode), inside(AT_FDCWD, path))
HOOK(int, mkdirat, (int fd, const char *path, mode_t mode), (fd, path, mode), inside(fd, path))
HOOK(int, rmdir, (const char *path), (path), inside(AT_FDCWD, path))
HOOK(int, chmod, (const char *path, mode_t mode), (path, mode), inside(AT_FDCWD, path))
