// linalg_divide: T = Y diag(values) Y^T of a symmetric tridiagonal T, by divide and conquer. Included by
// linalg.c. Vectors are rows of q; those of a merge are products of matrices, which all threads share.

// sum z2 / (delta - tau) and its derivative sum z2 / (delta - tau)^2
CLONES static void pole_sum(const double *z2, const double *delta, double tau, int64_t n,
                            double *sum, double *slope) {
    Vec s = {0}, t = {0};
    int64_t j = 0;
    for (; j + LANES <= n; j += LANES) {
        Vec w = 1 / (LOAD(delta + j) - tau), q = LOAD(z2 + j) * w;
        s += q;
        t += q * w;
    }
    *sum = SUM(s), *slope = SUM(t);
    for (; j < n; j++) {
        double w = 1 / (delta[j] - tau), q = z2[j] * w;
        *sum += q;
        *slope += q * w;
    }
}

// product[j] *= row[j] / (d[j] - di), the factor that eigenvalue i adds to each ...
CLONES static void pole_product(double *restrict product, const double *restrict row,
                                const double *restrict d, double di, int64_t n) {
    for (int64_t j = 0; j < n; j++) product[j] *= row[j] / (d[j] - di);
}

typedef struct { double value; int64_t row; } Ranked;

static int ascending(const void *a, const void *b) {
    const Ranked *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? -1 : 1;
    return x->row < y->row ? -1 : x->row > y->row;                     // the same order everywhere
}

enum { LEFT = 1, RIGHT = 2 };

// Room for the merges, sized for the largest.
typedef struct {
    double *z;                     // (n) the rank-one vector, by row of q
    double *poles, *z2;            // (n) d and z^2 of the live rows, d ascending; then the new z
    double *roots;                 // (n) eigenvalues of the live part
    double *line;                  // (threads, n) one row in the making
    double *s;                     // (n, n) first d_j - root_i, then the vectors of the live part
    double *rows;                  // (n, n) rows of q, gathered
    Ranked *order;                 // (n)
    int64_t n, n_live, n_dead, kept;
    int64_t *live, *dead, *column; // (n) rows of q; column of s for a live row
    uint8_t *side;                 // (n) which halves of the row are not zero
} Merge;

// Root i of 1/rho + sum_j z2_j / (d_j - x), between d_i and d_i+1 (the last: d_i and d_i + rho).
// delta[j] = d_j - root comes out to full relative accuracy: the root is found as a distance tau
// from the nearer pole. Each step solves for a function with the two next poles that agrees in
// value and both slopes ("the middle way"); a step that leaves the bracket is halved instead.
static double secular_root(const double *d, const double *z2, int64_t k, int64_t i, double rho,
                           double *delta) {
    bool last = i == k - 1;
    double width = last ? rho : d[i + 1] - d[i], tau = width / 2, lo = 0, hi = width;
    double f, psi, dpsi, phi, dphi;                        // psi, phi: the poles left and right of x
    int64_t origin = i;
    for (int64_t j = 0; j < k; j++) delta[j] = d[j] - d[i];
    for (int step = 0; step < 200; step++) {
        pole_sum(z2, delta, tau, i + 1, &psi, &dpsi);
        pole_sum(z2 + i + 1, delta + i + 1, tau, k - i - 1, &phi, &dphi);
        f = 1 / rho + psi + phi;
        if (fabs(f) <= 4 * DBL_EPSILON * (1 / rho - psi + phi)) break;
        if (step == 0 && !last && f < 0) {                 // negative halfway: d_i+1 is nearer
            origin = i + 1, tau = -width / 2, lo = tau, hi = 0;
            for (int64_t j = 0; j < k; j++) delta[j] = d[j] - d[origin];
        } else if (f < 0) {
            lo = tau;
        } else {
            hi = tau;
        }
        double left = delta[i] - tau, move;
        if (last) {
            move = left * f / (f - left * dpsi);
        } else {
            double right = delta[i + 1] - tau, c = f - left * dpsi - right * dphi;
            double a = (left + right) * f - left * right * (dpsi + dphi), b = left * right * f;
            double root = sqrt(fmax(0, a * a - 4 * b * c));
            move = a <= 0 ? (a - root) / (2 * c) : 2 * b / (a + root);
        }
        double next = tau + move;
        if (!(next > lo && next < hi)) next = lo + (hi - lo) / 2;
        bool still = fabs(next - tau) <= DBL_EPSILON * fabs(next);
        tau = next;
        if (still) break;
    }
    for (int64_t j = 0; j < k; j++) delta[j] = (d[j] - d[origin]) - tau;
    return d[origin] + tau;
}

// Splits the rows of q into dead ones, which are eigenvectors already, and live ones: z is turned
// out of one of two rows whose d agree, and a row without z is dead.
static void deflate(double *d, double *q, int64_t ldq, int64_t n, double rho, Merge *m) {
    double size = 0;
    for (int64_t i = 0; i < n; i++) {
        m->order[i] = (Ranked){d[i], i};
        size = fmax(size, fabs(d[i]));
    }
    qsort(m->order, (size_t)n, sizeof *m->order, ascending);

    const double tol = 4 * DBL_EPSILON * (size + rho) + 1e-100;        // of a matrix scaled to 1
    int64_t last = -1;
    m->n_live = m->n_dead = 0;
    for (int64_t o = 0; o < n; o++) {
        int64_t i = m->order[o].row;
        if (rho * fabs(m->z[i]) <= tol) {
            m->dead[m->n_dead++] = i;
            continue;
        }
        if (last >= 0) {
            double r = hypot(m->z[i], m->z[last]), c = m->z[i] / r, s = m->z[last] / r;
            double a = d[last], b = d[i];
            if ((b - a) * fabs(c * s) > tol) {
                m->live[m->n_live++] = last;
            } else {                                       // all of z into row i
                rotate(q + i * ldq, q + last * ldq, c, s, n);
                m->z[i] = r;
                m->side[i] = m->side[last] = m->side[i] | m->side[last];
                d[i] = a * s * s + b * c * c;
                d[last] = a * c * c + b * s * s;
                m->dead[m->n_dead++] = last;
            }
        }
        last = i;
    }
    if (last >= 0) m->live[m->n_live++] = last;
}

// Eigenpairs of D + rho z z^T on the k live rows: m->roots ascending, and for the `keep` largest
// the vectors in the last rows of m->s (k, k), whose columns stand in the order m->column. They are
// those of the z^ that has exactly these roots (Gu and Eisenstat),
//     z^_j^2 = (root_j - d_j) prod_{i != j} (d_j - root_i) / (d_j - d_i),
// and so orthogonal to working precision however close the roots are.
typedef struct { Merge *m; double rho; } Live;

static void live_roots(void *ctx, int64_t begin, int64_t end, int thread) {
    const Live *l = ctx;
    Merge *m = l->m;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        m->roots[i] = secular_root(m->poles, m->z2, m->n_live, i, l->rho, m->s + i * m->n_live);
}

static void live_weights(void *ctx, int64_t begin, int64_t end, int thread) {
    Merge *m = ((const Live *)ctx)->m;
    const int64_t k = m->n_live;
    (void)thread;
    for (int64_t j = begin; j < end; j++) m->z2[j] = -m->s[j * k + j];
    for (int64_t i = 0; i < k; i++) {
        const double *row = m->s + i * k, d = m->poles[i];
        const int64_t below = i < begin ? begin : i < end ? i : end;   // all j but i
        const int64_t above = i < begin ? begin : below + (i < end);
        pole_product(m->z2 + begin, row + begin, m->poles + begin, d, below - begin);
        pole_product(m->z2 + above, row + above, m->poles + above, d, end - above);
    }
    for (int64_t j = begin; j < end; j++) m->z2[j] = copysign(sqrt(m->z2[j]), m->z[m->live[j]]);
}

static void live_rows(void *ctx, int64_t begin, int64_t end, int thread) {
    Merge *m = ((const Live *)ctx)->m;
    const int64_t k = m->n_live, first = k - m->kept;
    double *line = m->line + thread * m->n;
    for (int64_t i = first + begin; i < first + end; i++) {
        double *row = m->s + i * k;
        for (int64_t j = 0; j < k; j++) line[m->column[j]] = m->z2[j] / row[j];
        double scale = 1 / sqrt(norm2(line, k));
        for (int64_t j = 0; j < k; j++) row[j] = line[j] * scale;
    }
}

static void live_vectors(const double *d, double rho, Merge *m) {
    const int64_t k = m->n_live, grain = 1 + FEW / (k + 1);
    for (int64_t j = 0; j < k; j++) {
        m->poles[j] = d[m->live[j]];
        m->z2[j] = m->z[m->live[j]] * m->z[m->live[j]];
    }
    Live l = {m, rho};
    parallel_for(k, grain, live_roots, &l);
    parallel_for(k, grain, live_weights, &l);
    parallel_for(m->kept, grain, live_rows, &l);
}

// The two halves of a merge, q's rows as they stand and gathered.
typedef struct {
    Merge *m;
    double *q, *left, *right, *dead;
    int64_t ldq, n1, n2, n_only_left, n_left;
} Halves;

static void clear_halves(void *ctx, int64_t begin, int64_t end, int thread) {
    const Halves *h = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        double *row = h->q + i * h->ldq;
        if (i < h->n1) memset(row + h->n1, 0, (size_t)h->n2 * sizeof *row);
        else memset(row, 0, (size_t)h->n1 * sizeof *row);
    }
}

static void gather_live(void *ctx, int64_t begin, int64_t end, int thread) {
    const Halves *h = ctx;
    (void)thread;
    for (int64_t j = begin; j < end; j++) {
        const double *row = h->q + h->m->live[j] * h->ldq;
        const int64_t c = h->m->column[j], cr = c - h->n_only_left;
        if (c < h->n_left) memcpy(h->left + c * h->n1, row, (size_t)h->n1 * sizeof *row);
        if (cr >= 0) memcpy(h->right + cr * h->n2, row + h->n1, (size_t)h->n2 * sizeof *row);
    }
}

// q holds the eigenvectors of two tridiagonal matrices as rows: left (n1, n1) and right below it.
// Joined by the off-diagonal entry `off` their matrix is D + rho z z^T in this basis. Only the
// `keep` largest live pairs are formed. Returns the number of rows of q (and of d) that are filled,
// in no order.
static int64_t merge(double *d, double *q, int64_t ldq, int64_t n1, int64_t n, double off,
                     int64_t keep, Merge *m) {
    const int64_t n2 = n - n1, grain = 1 + FEW / n;
    const double rho = 2 * fabs(off);
    Halves h = {.m = m, .q = q, .ldq = ldq, .n1 = n1, .n2 = n2};
    for (int64_t i = 0; i < n; i++) {
        const double *row = q + i * ldq;
        const bool left = i < n1;
        m->z[i] = (left ? row[n1 - 1] : off < 0 ? -row[n1] : row[n1]) * M_SQRT1_2;
        m->side[i] = left ? LEFT : RIGHT;
    }
    parallel_for(n, grain, clear_halves, &h);
    deflate(d, q, ldq, n, rho, m);

    // Live rows by side: left only, both, right only. So each half of the new vectors is one
    // product with the rows that have that half.
    const int64_t k = m->n_live, n_dead = m->n_dead, kept = m->kept = keep < k ? keep : k;
    int64_t column = 0;
    for (int pass = 0; pass < 3; pass++) {
        const int side = (const int[]){LEFT, LEFT | RIGHT, RIGHT}[pass];
        for (int64_t j = 0; j < k; j++)
            if (m->side[m->live[j]] == side) m->column[j] = column++;
        if (side == LEFT) h.n_only_left = column;
        if (side != RIGHT) h.n_left = column;
    }
    h.left = m->rows, h.right = h.left + h.n_left * n1, h.dead = h.right + (k - h.n_only_left) * n2;
    parallel_for(k, grain, gather_live, &h);
    for (int64_t j = 0; j < n_dead; j++)
        memcpy(h.dead + j * n, q + m->dead[j] * ldq, (size_t)n * sizeof *q);

    live_vectors(d, rho, m);
    const double *s = m->s + (k - kept) * k;
    dgemm(false, false, kept, n1, h.n_left, s, k, h.left, n1, 0, q, ldq);
    dgemm(false, false, kept, n2, k - h.n_only_left, s + h.n_only_left, k, h.right, n2, 0, q + n1, ldq);
    for (int64_t j = 0; j < n_dead; j++)
        memcpy(q + (kept + j) * ldq, h.dead + j * n, (size_t)n * sizeof *q);

    for (int64_t j = 0; j < n_dead; j++) m->line[j] = d[m->dead[j]];
    memcpy(d, m->roots + k - kept, (size_t)kept * sizeof *d);
    memcpy(d + kept, m->line, (size_t)n_dead * sizeof *d);
    return kept + n_dead;
}

// Eigenpairs of the tridiagonal (d, off): values into d, vectors as rows of q (n, n). Small matrices
// are shared out among threads and each solved by one of them; what joins them, by all.
//     T = (T_1 0; 0 T_2) + |off| u u^T, u = (0 .. 0 1 sign 0 .. 0)
enum { SMALL = 160 };
typedef struct { double *d, *q; const double *off; Merge m; int64_t n, keep, found, parts, *from; } Tree;

static void cut(Tree *t, int64_t from, int64_t n) {
    const double size = fabs(t->off[from + n / 2 - 1]);
    t->d[from + n / 2 - 1] -= size;
    t->d[from + n / 2] -= size;
}

// Pairs from .. from + n, the `keep` largest at least, in no order; returns how many. Merges of up to
// `least` are there already.
static int64_t conquer(Tree *t, int64_t from, int64_t n, int64_t least, int64_t keep) {
    if (n == 1) t->q[from * t->n + from] = 1;
    if (n <= least) return n;
    const int64_t n1 = n / 2;
    if (n <= SMALL) cut(t, from, n);
    conquer(t, from, n1, least, n1);
    conquer(t, from + n1, n - n1, least, n - n1);
    Merge m = t->m;                                        // its own part of the room
    m.z += from, m.poles += from, m.z2 += from, m.roots += from, m.order += from, m.side += from;
    m.line += from, m.live += from, m.dead += from, m.column += from;
    m.s += from * t->n, m.rows += from * t->n;
    return merge(t->d + from, t->q + from * t->n + from, t->n, n1, n, t->off[from + n1 - 1], keep, &m);
}

// Cuts T into small matrices, of which from[] has the first rows.
static void divide(Tree *t, int64_t from, int64_t n) {
    if (n > SMALL) {
        cut(t, from, n);
        divide(t, from, n / 2);
        divide(t, from + n / 2, n - n / 2);
    } else {
        t->from[t->parts++] = from;
        t->from[t->parts] = from + n;
    }
}

static void conquer_parts(void *ctx, int64_t begin, int64_t end, int thread) {
    Tree *t = ctx;
    (void)thread;
    for (int64_t i = begin; i < end; i++) {
        const int64_t from = t->from[i], n = t->from[i + 1] - from;
        if (n == t->n) t->found = conquer(t, from, n, 1, t->keep);
        else conquer(t, from, n, 1, n);
    }
}
