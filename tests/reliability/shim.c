/* Counts the calls that change or open something below a folder, and makes one of them fail or kill the process.

   Loaded by LD_PRELOAD. A process calls fa3_arm() after the fork; until then no call is affected. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { COUNT, FAIL, FAIL_FROM_HERE, KILL_BEFORE, KILL_AFTER };

static char root[PATH_MAX];
static size_t root_length;
static int armed, mode, failure, log_to = -1;
static long wanted, seen;

void fa3_arm(const char *folder, int how, long number, int error, int log_descriptor)
{
    root_length = strlen(folder);
    memcpy(root, folder, root_length + 1);
    mode = how, wanted = number, failure = error, log_to = log_descriptor, seen = 0;
    armed = 1;
}

void fa3_disarm(void) { armed = 0; }

static int absolute(int folder, const char *name, char *path)
{
    char link[64];
    ssize_t length = 0;
    if (name == NULL || name[0] != '/') {
        if (folder == AT_FDCWD)
            strcpy(link, "/proc/self/cwd");
        else if (folder < 0)
            return 0;
        else
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        length = readlink(link, path, PATH_MAX - 1);
        if (length < 0)
            return 0;
        path[length] = 0;
    } else
        path[0] = 0;
    if (name != NULL)
        snprintf(path + length, PATH_MAX - length, "%s%s", length ? "/" : "", name);
    return 1;
}

/* Returns 1 if a call must fail (errno is set), 2 if the process must be killed after the call, else 0. If the disk
   stays full (FAIL_FROM_HERE), all later calls that need room fail too. */
static int hit(const char *call, int needs_room, int folder, const char *name)
{
    char path[PATH_MAX], line[PATH_MAX + 64];
    if (!armed || !absolute(folder, name, path))
        return 0;
    if (strncmp(path, root, root_length) || (path[root_length] && path[root_length] != '/'))
        return 0;
    seen++;
    if (mode == COUNT) {
        int length = snprintf(line, sizeof line, "%s %d %s\n", call, needs_room, path + root_length);
        if (write(log_to, line, length) < 0)
            return 0;
    }
    if (seen == wanted && mode == KILL_BEFORE)
        kill(getpid(), SIGKILL);
    if (seen == wanted && mode == KILL_AFTER)
        return 2;
    if ((seen == wanted && mode == FAIL) || (seen >= wanted && mode == FAIL_FROM_HERE && needs_room)) {
        errno = failure;
        return 1;
    }
    return 0;
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define CALL(name, room, folder, path, ...)                                                                             \
    static __typeof__(&name) next;                                                                                     \
    if (!next)                                                                                                         \
        next = NEXT(name);                                                                                             \
    int found = hit(#name, (room) != 0, folder, path);                                                                        \
    if (found == 1)                                                                                                    \
        return -1;                                                                                                     \
    __typeof__(next(__VA_ARGS__)) result = next(__VA_ARGS__);                                                          \
    if (found == 2)                                                                                                    \
        kill(getpid(), SIGKILL);                                                                                       \
    return result;

#define MODE                                                                                                           \
    mode_t mode_of_file = 0;                                                                                           \
    if (flags & (O_CREAT | O_TMPFILE)) {                                                                               \
        va_list more;                                                                                                  \
        va_start(more, flags);                                                                                         \
        mode_of_file = va_arg(more, mode_t);                                                                           \
        va_end(more);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE CALL(open, flags & O_CREAT, AT_FDCWD, path, path, flags, mode_of_file) }
int open64(const char *path, int flags, ...) { MODE CALL(open64, flags & O_CREAT, AT_FDCWD, path, path, flags, mode_of_file) }
int openat(int at, const char *path, int flags, ...) { MODE CALL(openat, flags & O_CREAT, at, path, at, path, flags, mode_of_file) }
int openat64(int at, const char *path, int flags, ...) { MODE CALL(openat64, flags & O_CREAT, at, path, at, path, flags, mode_of_file) }
ssize_t write(int to, const void *data, size_t size) { CALL(write, 1, to == log_to ? -1 : to, NULL, to, data, size) }
ssize_t pwrite64(int to, const void *data, size_t size, off64_t at) { CALL(pwrite64, 1, to, NULL, to, data, size, at) }
ssize_t read(int from, void *data, size_t size) { CALL(read, 0, from, NULL, from, data, size) }
ssize_t sendfile64(int to, int from, off64_t *at, size_t size) { CALL(sendfile64, 1, to, NULL, to, from, at, size) }
int rename(const char *from, const char *to) { CALL(rename, 0, AT_FDCWD, to, from, to) }
int renameat(int at, const char *from, int there, const char *to) { CALL(renameat, 0, there, to, at, from, there, to) }
int link(const char *from, const char *to) { CALL(link, 1, AT_FDCWD, to, from, to) }
int symlink(const char *from, const char *to) { CALL(symlink, 1, AT_FDCWD, to, from, to) }
int symlinkat(const char *from, int at, const char *to) { CALL(symlinkat, 1, at, to, from, at, to) }
int unlink(const char *path) { CALL(unlink, 0, AT_FDCWD, path, path) }
int unlinkat(int at, const char *path, int flags) { CALL(unlinkat, 0, at, path, at, path, flags) }
int rmdir(const char *path) { CALL(rmdir, 0, AT_FDCWD, path, path) }
int mkdir(const char *path, mode_t bits) { CALL(mkdir, 1, AT_FDCWD, path, path, bits) }
int mkdirat(int at, const char *path, mode_t bits) { CALL(mkdirat, 1, at, path, at, path, bits) }
int chmod(const char *path, mode_t bits) { CALL(chmod, 0, AT_FDCWD, path, path, bits) }
int fchmod(int file, mode_t bits) { CALL(fchmod, 0, file, NULL, file, bits) }
int fsync(int file) { CALL(fsync, 0, file, NULL, file) }
int fdatasync(int file) { CALL(fdatasync, 0, file, NULL, file) }
int ftruncate64(int file, off64_t size) { CALL(ftruncate64, 1, file, NULL, file, size) }
int ftruncate(int file, off_t size) { CALL(ftruncate, 1, file, NULL, file, size) }
