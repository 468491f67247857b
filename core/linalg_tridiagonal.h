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

// y += p a + q b
CLONES static void NAME(add_two)(Real *restrict y, Real p, const Real *restrict a, Real q,
                                 const Real *restrict b, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += p * a[i] + q * b[i];
}

// y += A x for rows i0 .. i1 of the lower triangle of the symmetric A (n, n), row stride lda, and what
// mirrors them. An entry is read once and used twice, in four rows at a time.
CLONES static void NAME(symv_rows)(const Real *a, int64_t lda, int64_t i0, int64_t i1, const Real *x,
                                   Real *y) {
    int64_t i = i0;
    for (; i + 4 <= i1; i += 4) {
        const Real *r0 = a + i * lda, *r1 = r0 + lda, *r2 = r1 + lda, *r3 = r2 + lda;
        const Real x0 = x[i], x1 = x[i + 1], x2 = x[i + 2], x3 = x[i + 3];
        Vec s0 = {0}, s1 = {0}, s2 = {0}, s3 = {0};
        int64_t j = 0;
        for (; j + LANES <= i; j += LANES) {
            Vec v0 = LOAD(r0 + j), v1 = LOAD(r1 + j), v2 = LOAD(r2 + j), v3 = LOAD(r3 + j);
            Vec xj = LOAD(x + j);
            s0 += v0 * xj, s1 += v1 * xj, s2 += v2 * xj, s3 += v3 * xj;
            *(Vec *)(y + j) += (v0 * x0 + v1 * x1) + (v2 * x2 + v3 * x3);
        }
        Real t0 = TOTAL(s0), t1 = TOTAL(s1), t2 = TOTAL(s2), t3 = TOTAL(s3);
        for (; j < i; j++) {
            t0 += r0[j] * x[j], t1 += r1[j] * x[j], t2 += r2[j] * x[j], t3 += r3[j] * x[j];
            y[j] += (r0[j] * x0 + r1[j] * x1) + (r2[j] * x2 + r3[j] * x3);
        }
        y[i] += t0 + r0[i] * x0 + r1[i] * x1 + r2[i] * x2 + r3[i] * x3;
        y[i + 1] += t1 + r1[i] * x0 + r1[i + 1] * x1 + r2[i + 1] * x2 + r3[i + 1] * x3;
        y[i + 2] += t2 + r2[i] * x0 + r2[i + 1] * x1 + r2[i + 2] * x2 + r3[i + 2] * x3;
        y[i + 3] += t3 + r3[i] * x0 + r3[i + 1] * x1 + r3[i + 2] * x2 + r3[i + 3] * x3;
    }
    for (; i < i1; i++) {
        const Real *row = a + i * lda;
        for (int64_t j = 0; j < i; j++) y[j] += row[j] * x[i];
        y[i] += NAME(dot)(row, x, i + 1);
    }
}

// Strips of about equal area, as many as the size asks for whatever the threads; each sums for itself.
typedef struct { const Real *a, *x; Real *y; int64_t lda, n, strips, from[STRIPS + 1]; } NAME(Symv);

static void NAME(symv_strips)(void *ctx, int64_t begin, int64_t end, int thread) {
    const NAME(Symv) *s = ctx;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        Real *y = s->y + t * s->lda;
        memset(y, 0, (size_t)s->from[t + 1] * sizeof *y);
        NAME(symv_rows)(s->a, s->lda, s->from[t], s->from[t + 1], s->x, y);
    }
}

// A x in the line of y that is returned; y (STRIPS, lda).
static Real *NAME(symv)(const Real *a, int64_t lda, int64_t n, const Real *x, Real *y) {
    NAME(Symv) s = {.a = a, .x = x, .y = y, .lda = lda, .n = n, .strips = n * n / 2 / SMALL_STRIP + 1};
    if (s.strips > STRIPS) s.strips = STRIPS;
    for (int64_t t = 1; t < s.strips; t++)
        s.from[t] = (int64_t)((double)n * sqrt((double)t / (double)s.strips));
    s.from[s.strips] = n;
    parallel_for(s.strips, 1, NAME(symv_strips), &s);
    Real *whole = y + (s.strips - 1) * lda;                    // the last strip reaches all of y
    for (int64_t t = 0; t < s.strips - 1; t++)
        for (int64_t i = 0; i < s.from[t + 1]; i++) whole[i] += y[t * lda + i];
    return whole;
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
// A - v w^T - w v^T of a block of rows are gathered and done as one product. Room: w (3 BLOCK, n),
// y (STRIPS, n).
static void NAME(tridiagonalise)(Real *a, int64_t n, double *d, double *off, double *tau, Real *w, Real *y) {
    for (int64_t hi = n, lo; hi > 0; hi = lo) {
        lo = hi > BLOCK ? hi - BLOCK : 0;
        for (int64_t i = hi - 1; i >= lo; i--) {
            Real *v = a + i * n, *wi = w + (i - lo) * n;               // w is kept negated
            for (int64_t k = i + 1; k < hi; k++) {                     // what the block owes row i
                const Real *vk = a + k * n, *wk = w + (k - lo) * n;
                NAME(add_two)(v, vk[i], wk, wk[i], vk, i + 1);
            }
            d[i] = v[i];
            if (i == 0) break;
            off[i - 1] = NAME(house)(v + i - 1, v, i - 1, &tau[i]);
            memcpy(wi, NAME(symv)(a, n, i, v, y), (size_t)i * sizeof *wi);
            for (int64_t k = i + 1; k < hi; k++) {
                const Real *vk = a + k * n, *wk = w + (k - lo) * n;
                NAME(add_two)(wi, NAME(dot)(vk, v, i), wk, NAME(dot)(wk, v, i), vk, i);
            }
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
