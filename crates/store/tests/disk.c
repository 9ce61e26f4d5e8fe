// A disk that fails, for the process that this is loaded into (LD_PRELOAD): of each database in
// the folder FAILING_DISK, what has reached the disk is in a file FILE.disk beside it.
//
// A sync brings the pages that were written since the last one to the disk. While there is a
// file FOLDER/fail whose text is the end of a file's name, the next sync of that file fails once,
// and does what Linux does: the pages count as written, are read as they are, and never reach the
// disk unless they are written again.
//
// A file FOLDER/fail-read has a number: after so many reads of the databases one fails.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096
#define PAGES 65536
#define FILES 8

static struct {
    char name[512];
    unsigned char dirty[PAGES];
} files[FILES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t (*real_pwrite)(int, const void *, size_t, off_t);
static ssize_t (*real_pread)(int, void *, size_t, off_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int);
static int (*real_ftruncate)(int, off_t);

__attribute__((constructor)) static void find(void) {
    real_pwrite = dlsym(RTLD_NEXT, "pwrite64");
    real_pread = dlsym(RTLD_NEXT, "pread64");
    real_write = dlsym(RTLD_NEXT, "write");
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_ftruncate = dlsym(RTLD_NEXT, "ftruncate64");
}

static int ends(const char *text, const char *end) {
    size_t a = strlen(text), b = strlen(end);
    return a >= b && strcmp(text + a - b, end) == 0;
}

// The file's number, or -1 if it is none of the database's.
static int known(int fd) {
    const char *folder = getenv("FAILING_DISK");
    char link[64], name[512];
    if (!folder) return -1;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, name, sizeof name - 1);
    if (length < 0) return -1;
    name[length] = 0;
    if (strncmp(name, folder, strlen(folder)) != 0) return -1;
    if (!ends(name, ".db") && !ends(name, "-wal")) return -1;
    for (int at = 0; at < FILES; at++) {
        if (!files[at].name[0]) strcpy(files[at].name, name);
        if (strcmp(files[at].name, name) == 0) return at;
    }
    abort();
}

static int disk_of(int at) {
    char name[520];
    snprintf(name, sizeof name, "%s.disk", files[at].name);
    return open(name, O_RDWR | O_CREAT, 0600);
}

static void touched(int fd, off_t from, ssize_t count) {
    if (count <= 0) return;
    pthread_mutex_lock(&lock);
    int at = known(fd);
    if (at >= 0)
        for (off_t page = from / PAGE; page <= (from + count - 1) / PAGE; page++) {
            if (page >= PAGES) abort();
            files[at].dirty[page] = 1;
        }
    pthread_mutex_unlock(&lock);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off_t from) {
    ssize_t written = real_pwrite(fd, bytes, count, from);
    touched(fd, from, written);
    return written;
}

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t from) {
    return pwrite64(fd, bytes, count, from);
}

ssize_t write(int fd, const void *bytes, size_t count) {
    off_t from = lseek(fd, 0, SEEK_CUR);
    ssize_t written = real_write(fd, bytes, count);
    if (from >= 0) touched(fd, from, written);
    return written;
}

int ftruncate64(int fd, off_t length) {
    int done = real_ftruncate(fd, length);
    pthread_mutex_lock(&lock);
    int at = known(fd);
    if (done == 0 && at >= 0) {
        int disk = disk_of(at);
        if (real_ftruncate(disk, length) != 0) abort();
        close(disk);
    }
    pthread_mutex_unlock(&lock);
    return done;
}

int ftruncate(int fd, off_t length) { return ftruncate64(fd, length); }

// Whether this read is to fail.
static int misreads(void) {
    static long left = -1;
    char name[600];
    snprintf(name, sizeof name, "%s/fail-read", getenv("FAILING_DISK"));
    FILE *file = fopen(name, "r");
    if (file) {
        if (fscanf(file, "%ld", &left) != 1) left = -1;
        fclose(file);
        unlink(name);
    }
    return left >= 0 && left-- == 0;
}

ssize_t pread64(int fd, void *bytes, size_t count, off_t from) {
    pthread_mutex_lock(&lock);
    int failed = known(fd) >= 0 && misreads();
    pthread_mutex_unlock(&lock);
    if (!failed) return real_pread(fd, bytes, count, from);
    errno = EIO;
    return -1;
}

ssize_t pread(int fd, void *bytes, size_t count, off_t from) {
    return pread64(fd, bytes, count, from);
}

// Whether this sync is to fail.
static int fails(int at) {
    char name[600], end[64] = "";
    snprintf(name, sizeof name, "%s/fail", getenv("FAILING_DISK"));
    FILE *file = fopen(name, "r");
    if (!file) return 0;
    if (!fgets(end, sizeof end, file)) end[0] = 0;
    fclose(file);
    if (!end[0] || !ends(files[at].name, end)) return 0;
    unlink(name);
    return 1;
}

int fsync(int fd) {
    pthread_mutex_lock(&lock);
    int at = known(fd), failed = 0;
    if (at >= 0) {
        failed = fails(at);
        int disk = disk_of(at);
        for (off_t page = 0; page < PAGES && !failed; page++) {
            char bytes[PAGE];
            if (!files[at].dirty[page]) continue;
            ssize_t count = real_pread(fd, bytes, PAGE, page * PAGE);
            if (count > 0 && real_pwrite(disk, bytes, count, page * PAGE) != count) abort();
        }
        memset(files[at].dirty, 0, PAGES);
        close(disk);
    }
    pthread_mutex_unlock(&lock);
    if (!failed) return at >= 0 ? 0 : real_fsync(fd);
    errno = EIO;
    return -1;
}

int fdatasync(int fd) { return fsync(fd); }
