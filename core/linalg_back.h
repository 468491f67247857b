// linalg_back: from eigenvectors of the tridiagonal T = Q^T A Q to those of A. Included by linalg.c. Threads
// have rows of their own, which all reflectors meet while they are in the cache.
//
// (Q Y)^T = Y^T H_1 H_2 ... H_n-1, a block of reflectors (padded with zeros) at a time.
typedef struct {
    const double *a, *q;           // reflector i: row i of a, or of as, up to column i; q: rows of Y^T
    const float *as;
    const Ranked *order;           // of the rows of q
    double *y, *v, *tau, *t;       // (r, n), (n, n), (n), (n / BLOCK + 1, BLOCK, BLOCK)
    double *work, *vectors;
    int64_t n, r;
} Back;

static int64_t block_end(const Back *b, int64_t lo) { return lo + BLOCK < b->n ? lo + BLOCK : b->n; }

// Reflectors of floats are made orthogonal in double precision: tau = 2 / |v|^2.
static void prepare_blocks(void *ctx, int64_t begin, int64_t end, int thread) {
    const Back *b = ctx;
    (void)thread;
    for (int64_t block = begin; block < end; block++) {
        const int64_t lo = 1 + block * BLOCK, hi = block_end(b, lo);
        for (int64_t i = lo; i < hi; i++) {
            double *v = b->v + i * b->n;
            if (b->as) for (int64_t j = 0; j < i; j++) v[j] = b->as[i * b->n + j];
            else memcpy(v, b->a + i * b->n, (size_t)i * sizeof *v);
            memset(v + i, 0, (size_t)(hi - i) * sizeof *v);
            if (b->as && b->tau[i] != 0) b->tau[i] = 2 / norm2(v, i);
        }
        block_factor(b->v + lo * b->n, b->n, b->tau + lo, hi - lo, hi, b->t + block * BLOCK * BLOCK);
    }
}

static void transform_rows(void *ctx, int64_t begin, int64_t end, int thread) {
    const Back *b = ctx;
    const int64_t n = b->n;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        memcpy(b->y + i * n, b->q + b->order[i].row * n, (size_t)n * sizeof *b->y);
    for (int64_t lo = 1; lo < n; lo += BLOCK) {
        const int64_t hi = block_end(b, lo);
        apply_block(b->y + begin * n, n, end - begin, b->v + lo * n, n, b->t + lo / BLOCK * BLOCK * BLOCK,
                    hi - lo, hi, false, b->work + 2 * BLOCK * begin);
    }
    for (int64_t i = begin; i < end; i++) {                            // largest component positive
        double *row = b->y + i * n, high = 0, low = 0;
        int64_t first = 0;
        for (int64_t j = 0; j < n; j++)
            high = row[j] > high ? row[j] : high, low = row[j] < low ? row[j] : low;
        while (first < n - 1 && fabs(row[first]) < fmax(high, -low)) first++;
        if (row[first] < 0) for (int64_t j = 0; j < n; j++) row[j] = -row[j];
    }
}

static void write_columns(void *ctx, int64_t begin, int64_t end, int thread) {
    const Back *b = ctx;
    (void)thread;
    transpose(b->y + begin, b->r, end - begin, b->n, b->vectors + begin * b->r, b->r);
}
