// memmove, memcpy, memcmp and bcmp for the static binary on x86-64, linked before musl's. There
// every copy, however short, begins with `rep movsq`, and bytes are compared one by one. A node
// copies little and often, so that an echo of a short event costs a half more with musl's.
// tests/dist/memory.test.js tries each length and each way to overlap.
#include <stddef.h>
#include <stdint.h>

// Memory at any address and of any type.
#define ANYWHERE __attribute__((aligned(1), may_alias))
typedef uint16_t u16 ANYWHERE;
typedef uint32_t u32 ANYWHERE;
typedef uint64_t u64 ANYWHERE;
typedef long long u128 __attribute__((vector_size(16), aligned(1), may_alias));

// A name as text, also where the test gives it another.
#define AS_TEXT(name) #name
#define TEXT(name) AS_TEXT(name)

// One block as its first and its last half, which overlap: both are read before one is written.
#define COPY_ENDS(type)                                   \
    do {                                                  \
        type first = *(const type *)from;                 \
        type last = *(const type *)(from + n - sizeof(type)); \
        *(type *)to = first;                              \
        *(type *)(to + n - sizeof(type)) = last;          \
    } while (0)

typedef struct {
    u128 part[4];
} block; // 64 bytes, in registers

static inline __attribute__((always_inline)) block load(const char *from) {
    const u128 *parts = (const u128 *)from;
    return (block){{parts[0], parts[1], parts[2], parts[3]}};
}

static inline __attribute__((always_inline)) void store(char *to, block it) {
    u128 *parts = (u128 *)to;
    parts[0] = it.part[0];
    parts[1] = it.part[1];
    parts[2] = it.part[2];
    parts[3] = it.part[3];
}

void *memmove(void *target, const void *source, size_t n) {
    char *to = target;
    const char *from = source;
    if (n <= 16) {
        if (n >= 8)
            COPY_ENDS(u64);
        else if (n >= 4)
            COPY_ENDS(u32);
        else if (n >= 2)
            COPY_ENDS(u16);
        else if (n)
            *to = *from;
        return target;
    }
    if (n <= 32) {
        COPY_ENDS(u128);
        return target;
    }
    if (n <= 64) {
        u128 a = ((const u128 *)from)[0], b = ((const u128 *)from)[1];
        u128 c = ((const u128 *)(from + n - 32))[0], d = ((const u128 *)(from + n - 32))[1];
        ((u128 *)to)[0] = a;
        ((u128 *)to)[1] = b;
        ((u128 *)(to + n - 32))[0] = c;
        ((u128 *)(to + n - 32))[1] = d;
        return target;
    }
    // In the direction in which nothing is written over that is still to be read. The block at
    // the far end is read first and written last.
    if ((size_t)(to - from) >= n) {
        block last = load(from + n - 64);
        for (size_t at = 0; at < n - 64; at += 64)
            store(to + at, load(from + at));
        store(to + n - 64, last);
    } else {
        block first = load(from);
        for (size_t end = n; end > 64; end -= 64)
            store(to + end - 64, load(from + end - 64));
        store(to, first);
    }
    return target;
}

void *memcpy(void *target, const void *source, size_t n) __attribute__((alias(TEXT(memmove))));

int memcmp(const void *left, const void *right, size_t n) {
    const unsigned char *l = left, *r = right;
    for (; n >= 8; l += 8, r += 8, n -= 8) {
        uint64_t a = *(const u64 *)l, b = *(const u64 *)r;
        if (a != b)
            return __builtin_bswap64(a) < __builtin_bswap64(b) ? -1 : 1;
    }
    for (; n; l++, r++, n--)
        if (*l != *r)
            return *l - *r;
    return 0;
}

int bcmp(const void *left, const void *right, size_t n) __attribute__((alias(TEXT(memcmp))));
