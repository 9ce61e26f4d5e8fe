// Tries packaging/memory.c, under other names, against loops over bytes.
#define memmove tested_move
#define memcpy tested_copy
#define memcmp tested_compare
#define bcmp tested_equal
#include "../../packaging/memory.c"
#undef memmove
#undef memcpy
#undef memcmp
#undef bcmp
#include <stdio.h>
#include <stdlib.h>

enum { ROOM = 13000 };
static unsigned char before[ROOM], expected[ROOM], got[ROOM];

static void fail(const char *what, size_t n, size_t to, size_t from) {
    printf("%s of %zu bytes from %zu to %zu\n", what, n, from, to);
    exit(1);
}

// Copies `n` bytes within one buffer, and looks at every byte of it.
static void move(size_t n, size_t to, size_t from) {
    for (size_t at = 0; at < ROOM; at++)
        expected[at] = got[at] = before[at];
    for (size_t at = 0; at < n; at++)
        expected[to + at] = before[from + at];
    int apart = to + n <= from || from + n <= to;
    void *said = apart ? tested_copy(got + to, got + from, n) : tested_move(got + to, got + from, n);
    if (said != got + to)
        fail("the answer to a copy", n, to, from);
    for (size_t at = 0; at < ROOM; at++)
        if (got[at] != expected[at])
            fail("a copy", n, to, from);
}

static int sign(int value) { return (value > 0) - (value < 0); }

// Compares `n` bytes of which the one at `differs` is another, by `by`.
static void compare(size_t n, size_t differs, int by, size_t left, size_t right) {
    for (size_t at = 0; at < n; at++)
        got[left + at] = expected[right + at] = before[at];
    int order = 0;
    if (differs < n) {
        expected[right + differs] = (unsigned char)(before[differs] + by);
        order = sign(before[differs] - expected[right + differs]);
        // What follows differs the other way round, and must not count.
        for (size_t at = differs + 1; at < n; at++)
            expected[right + at] = order < 0 ? 0 : 255;
    }
    if (sign(tested_compare(got + left, expected + right, n)) != order)
        fail("a comparison", n, left, right);
    if ((tested_equal(got + left, expected + right, n) != 0) != (order != 0))
        fail("an equality", n, left, right);
}

int main(void) {
    unsigned seed = 1;
    for (size_t at = 0; at < ROOM; at++)
        before[at] = (unsigned char)((seed = seed * 1103515245 + 12345) >> 16);
    for (size_t n = 0; n <= 300; n++)
        for (size_t to = 300; to < 316; to++)
            for (long shift = -299; shift <= 299; shift += n % 7 == 0 ? 1 : 13)
                move(n, to, (size_t)((long)to + shift));
    for (size_t n = 300; n < 4000; n += 61)
        for (long shift = -4200; shift <= 4200; shift += 173)
            move(n, 4300, (size_t)(4300 + shift));
    for (size_t n = 0; n <= 70; n++)
        for (size_t differs = 0; differs <= n; differs++)
            for (int by = 1; by < 256; by += 42)
                for (size_t at = 0; at < 8; at++)
                    compare(n, differs, by, at, (at * 3) % 8);
    return 0;
}
