// linalg_tridiagonal: A = Q T Q^T with T tridiagonal, by Householder reflectors, once for each precision:
// included with Real (double, float), NAME(x) for the functions' names and GEMM_LOWER. Half the work is
// products of a symmetric matrix and a vector, bound by memory: single precision halves it.

typedef Real NAME(Vec) __attribute__((vector_size(32), aligned(sizeof(Real)), may_alias));
#define Vec NAME(Vec)
#define LANES ((int64_t)(sizeof(Vec) / sizeof(Real)))
#define LOAD(p) (*(const Vec *)(p))

// The sum of the lanes, by pairs.
static inline Real NAME(total)(const Real *s) {
    Real sum[2] = {s[0] + s[1], s[2] + s[3]};
    for (int i = 4; i < LANES; i += 4) sum[0] += s[i] + s[i + 1], sum[1] += s[i + 2] + s[i + 3];
    return sum[0] + sum[1];
}
#define TOTAL(v) NAME(total)((const Real *)&(v))

CLONES static Real NAME(dot)(const Real *a, const Real *b, int64_t n) {
    Vec s = {0}, t = {0};
    int64_t i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        s += LOAD(a + i) * LOAD(b + i);
        t += LOAD(a + i + LANES) * LOAD(b + i + LANES);
    }
    s += t;
    Real sum = TOTAL(s);
    for (; i < n; i++) sum += a[i] * b[i];
    return sum;
}

// The products of a step: A x, A symmetric, and V x and W x for the rows of the block so far. A is cut
// into strips of about equal area, as many as the size asks for whatever the threads; each sums for itself.
typedef struct {
    const Real *a, *x, *vs, *ws;
    Real *y, *vx, *wx;
    int64_t lda, n, rows, strips, from[STRIPS + 1];
} NAME(Step);

static void NAME(step_strips)(void *ctx, int64_t begin, int64_t end, int thread) {
    const NAME(Step) *s = ctx;
    const Kernels *k = kernels();
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        Real *y = s->y + t * s->lda;
        memset(y, 0, (size_t)s->from[t + 1] * sizeof *y);
        k->KERNEL(symv_rows)(s->a, s->lda, s->from[t], s->from[t + 1], s->x, y);
        const int64_t r = s->rows * t / s->strips, more = s->rows * (t + 1) / s->strips - r;
        k->KERNEL(row_dots)(s->vs + r * s->lda, s->lda, more, s->x, s->n, s->vx + r);
        k->KERNEL(row_dots)(s->ws + r * s->lda, s->lda, more, s->x, s->n, s->wx + r);
    }
}

// A x into out (n), V x and W x into vx and wx (rows). Room: y (STRIPS, lda).
static void NAME(step)(NAME(Step) *s, Real *out) {
    const Real one = 1;
    s->strips = 1;
    while (s->strips < STRIPS && s->n * s->n / 2 > SMALL_STRIP * s->strips) s->strips *= 2;
    for (int64_t t = 0; t < s->strips; t++)
        s->from[t] = (int64_t)((double)s->n * sqrt((double)t / (double)s->strips)) / 4 * 4;
    s->from[s->strips] = s->n;
    parallel_for(s->strips, 1, NAME(step_strips), s);
    const Real *whole = s->y + (s->strips - 1) * s->lda;       // the last strip reaches all of y
    memcpy(out, whole, (size_t)s->n * sizeof *out);
    for (int64_t t = 0; t < s->strips - 1; t++)
        kernels()->KERNEL(sum_rows)(s->y + t * s->lda, s->lda, 1, &one, 1, out, s->from[t + 1]);
}

// Makes the H that sends (pivot, rest) to (beta, 0); rest becomes v's, pivot 1. Returns beta.
// Matrices come scaled to a largest entry of 1, so a rest that small (1e-135; 1e-15 of floats) is dropped
// like a zero: its square would lose digits to underflow, and H its orthogonality.
static double NAME(house)(Real *pivot, Real *rest, int64_t n, double *tau) {
    double alpha = *pivot, tail = NAME(dot)(rest, rest, n);
    *pivot = 1;
    *tau = 0;
    if (tail < (sizeof(Real) == sizeof(double) ? 1e-270 : 1e-30)) return alpha;
    double beta = -copysign(sqrt(alpha * alpha + tail), alpha), scale = 1 / (alpha - beta);
    for (int64_t i = 0; i < n; i++) rest[i] = (Real)(rest[i] * scale);
    *tau = (beta - alpha) / beta;
    return beta;
}

// Works from the last row up: reflector i clears A[i][0 .. i-2], acts on components 0 .. i-1 and
// stays as v in A[i][0 .. i-1]. T: diagonal d, off[i] between i and i + 1. The rank-2 updates
// A - v w^T - w v^T of a block of rows are gathered and done as one product. Room: w (3 PANEL, n),
// y (STRIPS, n).
static void NAME(tridiagonalise)(Real *a, int64_t n, double *d, double *off, double *tau, Real *w, Real *y) {
    void (*const sum_rows)(const Real *, int64_t, int64_t, const Real *, int64_t, Real *, int64_t) =
        kernels()->KERNEL(sum_rows);
    Real vx[PANEL], wx[PANEL];
    for (int64_t hi = n, lo; hi > 0; hi = lo) {
        lo = hi > PANEL ? hi - PANEL : 0;
        for (int64_t i = hi - 1; i >= lo; i--) {
            Real *v = a + i * n, *wi = w + (i - lo) * n;               // w is kept negated
            const Real *vs = v + n, *ws = wi + n;                      // of the block's rows so far
            const int64_t rows = hi - 1 - i;
            sum_rows(ws, n, rows, vs + i, n, v, i + 1);                // what the block owes row i
            sum_rows(vs, n, rows, ws + i, n, v, i + 1);
            d[i] = v[i];
            if (i == 0) break;
            off[i - 1] = NAME(house)(v + i - 1, v, i - 1, &tau[i]);
            NAME(Step) s = {.a = a, .x = v, .vs = vs, .ws = ws, .y = y, .vx = vx, .wx = wx, .lda = n, .n = i,
                            .rows = rows};
            NAME(step)(&s, wi);
            sum_rows(ws, n, rows, vx, 1, wi, i), sum_rows(vs, n, rows, wx, 1, wi, i);
            // w = p - (tau/2) (p . v) v, p = tau A v
            const Real t = (Real)tau[i], half = t * t * NAME(dot)(wi, v, i) / 2;
            for (int64_t j = 0; j < i; j++) wi[j] = half * v[j] - t * wi[j];
        }
        if (lo == 0) break;
        const int64_t k = hi - lo, size = k * n;                       // (w; v; w): A += (v; w)^T (w; v)
        memcpy(w + size, a + lo * n, (size_t)size * sizeof *w);
        memcpy(w + 2 * size, w, (size_t)size * sizeof *w);
        GEMM_LOWER(true, false, lo, 2 * k, w + size, n, w, n, 1, a, n);
    }
}

#undef Vec
#undef LANES
#undef LOAD
#undef TOTAL
#undef Real
#undef NAME
#undef GEMM_LOWER
#undef KERNEL
