// tucker_tool: times one decomposition, for oracle_tucker.py.
//   tucker_tool FILE n0 n1 n2 n3 r0 r1 r2 r3 SWEEPS TOL REPEATS
// FILE holds n0 * n1 * n2 * n3 doubles, last axis contiguous. Prints the relative error and the
// median seconds of REPEATS decompositions.
#include "../core/linalg.h"
#include "../tucker.h"

#include <stdlib.h>

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

int main(int argc, char **argv) {
    if (argc != 13) return fprintf(stderr, "usage: FILE n[4] r[4] SWEEPS TOL REPEATS\n"), 2;
    int64_t n[4], r[4];
    size_t size = sizeof(double);
    for (int i = 0; i < 4; i++) {
        n[i] = atoll(argv[2 + i]);
        r[i] = atoll(argv[6 + i]);
        if (n[i] < 1 || !mul_size(size, (size_t)n[i], &size)) return fprintf(stderr, "bad size\n"),
            2;
    }
    int sweeps = atoi(argv[10]), repeats = atoi(argv[12]);
    double tol = atof(argv[11]), error = 0, times[99];
    Err err;
    FileMap map;
    if (repeats < 1 || repeats > 99) return fprintf(stderr, "1 .. 99 repeats\n"), 2;
    if (map_open(&map, argv[1], &err) < 0) return fprintf(stderr, "%s\n", err.msg), 1;
    if (map.size != size) return fprintf(stderr, "%zu bytes, not %zu\n", map.size, size), 1;
    for (int i = 0; i < repeats; i++) {
        Tucker t;
        double start = seconds();
        if (tucker_hooi(&t, (const double *)(const void *)map.data, n, r, sweeps, tol, &err) < 0)
            return fprintf(stderr, "%s\n", err.msg), 1;
        times[i] = seconds() - start;
        error = tucker_error(&t, (const double *)(const void *)map.data);
        tucker_free(&t);
    }
    qsort(times, (size_t)repeats, sizeof *times, by_value);
    printf("%.12g %.6f\n", error, times[repeats / 2]);
    map_close(&map);
    return 0;
}
