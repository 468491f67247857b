// tucker: part 1 takes a tensor apart and puts it together; part 2 computes attention on the parts.
// The formulas stand beside the code; shapes are written (rows, columns), last axis contiguous.
#include "tucker.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/linalg.h"

// ==================================================================================================
// Part 1: the attention matrices as a tensor in Tucker's form
// ==================================================================================================

// ---- the attention tensor -----------------------------------------------------------------------
//
// W[e, a, kind, g]: number e of the embedding, number a of a head, which matrix, which KV head.
// Query head i = g m + j is kind Q_j (and O_j) of KV head g.

// Heads of projection p that belong to one KV head, each a kind of its own; and in all.
static int64_t kinds_of(int p, int64_t m) { return p == P_Q || p == P_O ? m : 1; }
static int64_t heads_of(const AttnShape *s, int p) { return p == P_Q || p == P_O ? s->h : s->n_kv; }

// Where (e, a) of a head stands: in W_Q, W_K, W_V (heads*hd, d) at row = head * hd + a, column e; in
// W_O (d, h*hd) at row e, column head * hd + a.
static int64_t entry(const AttnShape *s, int p, int64_t row, int64_t e) {
    return p == P_O ? e * s->h * s->hd + row : row * s->d + e;
}

// Kinds are numbered in the order Q, K, V, O: before those of p stand the kinds of the projections before it.
int64_t kind_index(int set, int64_t m, int p, int64_t j) {
    int64_t kind = j;
    for (int q = P_Q; q < p; q++)
        if (set & 1 << q) kind += kinds_of(q, m);
    return kind;
}

int64_t group_kinds(int set, int64_t m) { return kind_index(set, m, P_O + 1, 0); }

void tensorise(const AttnShape *s, int set, const float *const w[4], double *t) {
    int64_t m = s->h / s->n_kv, kinds = group_kinds(set, m);
    for (int p = P_Q; p <= P_O; p++) {
        if (!(set & 1 << p)) continue;
        for (int64_t head = 0; head < heads_of(s, p); head++) {
            int64_t g = head / kinds_of(p, m), kind = kind_index(set, m, p, head % kinds_of(p, m));
            for (int64_t a = 0; a < s->hd; a++)
                for (int64_t e = 0; e < s->d; e++)
                    t[((e * s->hd + a) * kinds + kind) * s->n_kv + g] =
                        w[p][entry(s, p, head * s->hd + a, e)];
        }
    }
}

void untensorise(const AttnShape *s, int set, const double *t, float *const w[4]) {
    int64_t m = s->h / s->n_kv, kinds = group_kinds(set, m);
    for (int p = P_Q; p <= P_O; p++) {
        if (!(set & 1 << p) || !w[p]) continue;
        for (int64_t head = 0; head < heads_of(s, p); head++) {
            int64_t g = head / kinds_of(p, m), kind = kind_index(set, m, p, head % kinds_of(p, m));
            for (int64_t a = 0; a < s->hd; a++)
                for (int64_t e = 0; e < s->d; e++)
                    w[p][entry(s, p, head * s->hd + a, e)] =
                        (float)t[((e * s->hd + a) * kinds + kind) * s->n_kv + g];
        }
    }
}

// ---- Tucker's form ------------------------------------------------------------------------------
//
//     W[e, a, k, g]  ~  sum over p, q, r of  G[p, q, r, g] U_embd[e, p] U_head[a, q] U_kind[k, r]
//
// written W ~ G x1 U_embd x2 U_head x3 U_kind. Each x is a mode product: a matrix applied to one of
// the four indices. Everything below is made of mode products and of leading eigenvectors. Of
// core/linalg.h: weights_product(ta, tb, m, n, k, a, lda, b, ldb, c) is C (m, n) = A (m, k) B (k, n), A
// stored transposed if ta, B if tb; weights_gram is A A^T; weights_eig_leading its leading eigenvectors.

// n[from] * … * n[to - 1]
static int64_t product(const int64_t n[4], int from, int to) {
    int64_t p = 1;
    for (int mode = from; mode < to; mode++) p *= n[mode];
    return p;
}

// Memory for a tensor, not zeroed; its sizes may come from a file, so the product is checked.
static double *new_tensor(const int64_t n[4], Err *e) {
    size_t size = 1;
    for (int mode = 0; mode < 4; mode++) {
        if (n[mode] < 1 || !mul_size(size, (size_t)n[mode], &size)) {
            fail(e, "tensor: %lld x %lld x %lld x %lld is no size", (long long)n[0],
                 (long long)n[1], (long long)n[2], (long long)n[3]);
            return NULL;
        }
    }
    return alloc_raw(size, sizeof(double), "tensor", e);
}

// Seen from one mode, a tensor is `left` matrices T_l (n[mode], right), one after the other: left is the
// product of all sizes before the mode, right of all after it. Then out_l = U T_l. Where these are tiny
// (a few kinds by a few heads) each T_l is one row, and all rows meet the Kronecker product of U and I:
//     out (left, rows * right) = T (left, n[mode] * right) (U (x) I_right)^T
void mode_product(const double *t, const int64_t n[4], int mode, const double *u, int64_t rows,
                  bool transposed, double *out) {
    enum { TINY = 16384 };
    const int64_t left = product(n, 0, mode), cols = n[mode], right = product(n, mode + 1, 4);
    const int64_t stride = transposed ? rows : cols, wide = cols * right;
    if (right == 1) {                       // T_l are single columns: together out = T U^T
        weights_product(false, !transposed, left, rows, cols, t, cols, u, stride, out);
        return;
    }
    if (left == 1 || rows * right * wide > TINY) {
        for (int64_t l = 0; l < left; l++, t += wide, out += rows * right)
            weights_product(transposed, false, rows, right, cols, u, stride, t, right, out);
        return;
    }
    double each[TINY] = {0};                // U (x) I
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            for (int64_t c = 0; c < right; c++)
                each[(i * right + c) * wide + j * right + c] = transposed ? u[j * rows + i] : u[i * cols + j];
    weights_product(false, true, left, rows * right, wide, t, wide, each, wide, out);
}

// The unfolding T_(mode) (n[mode], left * right) puts the T_l side by side.
int mode_gram(const double *t, const int64_t n[4], int mode, double *c, Err *e) {
    int64_t left = product(n, 0, mode), rows = n[mode], right = product(n, mode + 1, 4);
    int64_t cols = left * right;
    double *flat = NULL;
    if (left > 1) {                         // else it is the tensor as it stands
        flat = new_tensor(n, e);
        if (!flat) return -1;
        for (int64_t l = 0; l < left; l++)
            for (int64_t i = 0; i < rows; i++)
                memcpy(flat + i * cols + l * right, t + (l * rows + i) * right,
                       (size_t)right * sizeof *t);
        t = flat;
    }
    weights_gram(rows, cols, t, c);
    free(flat);
    return 0;
}

// u (n, r) = the r leading left singular vectors of T_(mode): the leading eigenvectors of
// T_(mode) T_(mode)^T. Orthonormal whatever the rank of T; linalg fixes their signs.
static int leading_vectors(const double *t, const int64_t n[4], int mode, int64_t r, double *u,
                           Err *e) {
    if (interrupted) return fail(e, "interrupted");                 // by the user, see core/util.h
    int status = -1;
    double *gram = alloc_raw((size_t)n[mode], (size_t)n[mode] * sizeof *gram, "Gram matrix", e);
    double *values = alloc((size_t)r, sizeof *values, "eigenvalues", e);
    if (gram && values && mode_gram(t, n, mode, gram, e) == 0)
        status = weights_eig_leading(gram, n[mode], r, values, u, e);
    free(gram);
    free(values);
    return status;
}

// W x_mode U_mode^T for the factors of the modes first .. 3 but that of mode `skip`. `size` has the sizes of
// W, afterwards the result's. The result is w itself or stands in one of the two buffers, which alternate.
static const double *contract(const double *w, const Tucker *t, int first, int skip, double *const buffer[2],
                              int64_t size[4]) {
    int turn = 0;
    for (int mode = first; mode < 4; mode++) {
        if (mode == skip || !t->u[mode]) continue;
        mode_product(w, size, mode, t->u[mode], t->r[mode], true, buffer[turn]);
        size[mode] = t->r[mode];
        w = buffer[turn];
        turn = !turn;
    }
    return w;
}

// HOSVD, then at most max_sweeps sweeps of HOOI. In a sweep each factor in turn becomes the best
// one for the others as they are: with B = W contracted by the others, the leading left singular
// vectors of B_(mode). With the last, G = B x_mode U_mode^T. W x1 U_embd^T, most of the work of a B, is kept
// for the modes after the first.
static int decompose(Tucker *t, const double *w, const int64_t n[4], const int64_t r[4],
                     int max_sweeps, double tol, Err *e) {
    *t = (Tucker){0};
    for (int mode = 0; mode < 4; mode++)
        if (r[mode] < 1 || r[mode] > n[mode])
            return fail(e, "Tucker: rank %lld of mode %d is not in 1 .. %lld", (long long)r[mode],
                        mode, (long long)n[mode]);
    memcpy(t->n, n, sizeof t->n);
    memcpy(t->r, r, sizeof t->r);

    int status = -1, truncated = 0, last = -1;
    double *buffer[2] = {NULL, NULL}, *narrow = NULL;
    t->core = new_tensor(r, e);
    if (!t->core) goto done;

    // HOSVD: U_mode from W_(mode), G = W x1 U_embd^T x2 U_head^T x3 U_kind^T
    for (int mode = 0; mode < 4; mode++) {
        if (r[mode] == n[mode]) continue;
        truncated++, last = mode;
        t->u[mode] = alloc_raw((size_t)n[mode], (size_t)r[mode] * sizeof(double), "Tucker factor", e);
        if (!t->u[mode] || leading_vectors(w, n, mode, r[mode], t->u[mode], e) < 0) goto done;
    }
    for (int i = 0; i < 2 && i < truncated - 1; i++)       // for all products but the last
        if (!(buffer[i] = new_tensor(n, e))) goto done;
    int64_t size[4];
    memcpy(size, n, sizeof size);
    const double *b = contract(w, t, EMBD, last, buffer, size);
    if (last >= 0) mode_product(b, size, last, t->u[last], r[last], true, t->core);
    else memcpy(t->core, b, (size_t)product(r, 0, 4) * sizeof *b);

    // HOOI. The first sweeps may gain little and later ones more: at least three are made.
    const bool sweeps = max_sweeps > 0 && truncated > 1;
    const int64_t narrowed[4] = {r[EMBD], n[1], n[2], n[3]};
    if (sweeps && t->u[EMBD] && !(narrow = new_tensor(narrowed, e))) goto done;
    double error = sweeps ? tucker_error(t, w) : 0, before = INFINITY;
    for (int sweep = 0; sweep < max_sweeps && sweeps; sweep++) {
        if (sweep > 2 && fabs(before - error) < tol) break;
        for (int mode = 0; mode < 4; mode++) {
            if (!t->u[mode]) continue;
            const bool kept = narrow && mode != EMBD;
            memcpy(size, kept ? narrowed : n, sizeof size);
            b = contract(kept ? narrow : w, t, kept ? HEAD : EMBD, mode, buffer, size);
            if (leading_vectors(b, size, mode, r[mode], t->u[mode], e) < 0) goto done;
            if (mode == EMBD) mode_product(w, n, mode, t->u[mode], r[mode], true, narrow);
            if (mode == last) mode_product(b, size, mode, t->u[mode], r[mode], true, t->core);
        }
        before = error;
        error = tucker_error(t, w);
    }
    status = 0;
done:
    free(buffer[0]);
    free(buffer[1]);
    free(narrow);
    if (status < 0) tucker_free(t);
    return status;
}

int tucker_hosvd(Tucker *t, const double *w, const int64_t n[4], const int64_t r[4], Err *e) {
    return decompose(t, w, n, r, 0, 0, e);
}

int tucker_hooi(Tucker *t, const double *w, const int64_t n[4], const int64_t r[4], int max_sweeps,
                double tol, Err *e) {
    return decompose(t, w, n, r, max_sweeps, tol, e);
}

// W' = G x1 U_embd x2 U_head x3 U_kind. The products alternate between w and a buffer, so that the
// last of them ends in w.
int tucker_reconstruct(const Tucker *t, double *w, Err *e) {
    int left = 0;
    for (int mode = 0; mode < 4; mode++) left += t->u[mode] != NULL;
    if (left == 0) {
        memcpy(w, t->core, (size_t)product(t->n, 0, 4) * sizeof *w);
        return 0;
    }
    double *buffer = new_tensor(t->n, e);
    if (!buffer) return -1;
    const double *from = t->core;
    int64_t size[4];
    memcpy(size, t->r, sizeof size);
    for (int mode = 3; mode >= 0; mode--) {         // the short modes first: less work
        if (!t->u[mode]) continue;
        double *to = left-- % 2 ? w : buffer;
        mode_product(from, size, mode, t->u[mode], t->n[mode], false, to);
        size[mode] = t->n[mode];
        from = to;
    }
    free(buffer);
    return 0;
}

// U orthonormal: W' is the projection of W, so |W|^2 = |W'|^2 + |W - W'|^2, and |W'| = |G|.
double tucker_error(const Tucker *t, const double *w) {
    double whole = norm2(w, product(t->n, 0, 4)), kept = norm2(t->core, product(t->r, 0, 4));
    return whole > 0 ? sqrt(fmax(0, whole - kept) / whole) : 0;
}

void tucker_free(Tucker *t) {
    for (int mode = 0; mode < 4; mode++) free(t->u[mode]);
    free(t->core);
    *t = (Tucker){0};
}

// ---- as it is stored ----------------------------------------------------------------------------

// out = U (n, r), or U^T (r, n); a factor that is NULL is the identity.
static void pack_factor(const Tucker *t, int mode, bool transposed, float *out) {
    int64_t n = t->n[mode], r = t->r[mode];
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < r; j++)
            out[transposed ? j * n + i : i * r + j] =
                t->u[mode] ? (float)t->u[mode][i * r + j] : i == j;
}

// The core of a group whose kinds are not mixed (r_kind = kinds) is itself the attention tensor of a
// smaller layer: r_embd wide, its heads r_head wide. So the cores M of the heads i are its matrices:
//     W_Q,i ~ U_head M_i^Q U_embd^T, M_i^Q (r_head, r_embd); K, V likewise
//     W_O,i ~ U_embd M_i^O U_head^T, M_i^O (r_embd, r_head)
void tucker_pack(const Tucker *t, const AttnShape *s, int set, float *embd, float *head,
                 float *kind, float *const core[4], float *mixed) {
    int64_t r_embd = t->r[EMBD], r_head = t->r[HEAD], r_kind = t->r[KIND];
    if (embd) pack_factor(t, EMBD, set != HAS_O, embd);
    if (head) pack_factor(t, HEAD, false, head);
    if (kind) pack_factor(t, KIND, false, kind);
    if (core && r_kind == t->n[KIND]) {
        AttnShape small = {.d = r_embd, .h = s->h, .n_kv = s->n_kv, .hd = r_head};
        untensorise(&small, set, t->core, core);
    }
    if (mixed)                              // slice k: mixed[k][g][a][e] = G[e, a, k, g]
        for (int64_t e = 0; e < r_embd; e++)
            for (int64_t a = 0; a < r_head; a++)
                for (int64_t k = 0; k < r_kind; k++)
                    for (int64_t g = 0; g < s->n_kv; g++)
                        mixed[((k * s->n_kv + g) * r_head + a) * r_embd + e] =
                            (float)t->core[((e * r_head + a) * r_kind + k) * s->n_kv + g];
}

int64_t group_params(const AttnShape *s, int set, int64_t r_embd, int64_t r_head, int64_t r_kind) {
    int64_t kinds = group_kinds(set, s->h / s->n_kv);
    return s->d * r_embd + (r_head < s->hd ? s->hd * r_head : 0)
         + (r_kind < kinds ? kinds * r_kind : 0) + r_embd * r_head * r_kind * s->n_kv;
}

int64_t pivoted_params(const AttnShape *s, int set, int64_t r_embd) {
    return r_embd * (s->d - r_embd) + r_embd * s->hd * group_kinds(set, s->h / s->n_kv) * s->n_kv;
}

int64_t dense_params(const AttnShape *s, int set) {
    return s->d * s->hd * group_kinds(set, s->h / s->n_kv) * s->n_kv;
}

// ==================================================================================================
// Part 2: attention run on the factors
//
// For one token x and every query head i, which reads KV head g = i / m; j are the positions it sees:
//
//     z   = U_embd^T x            once for all heads of a group                              (r_embd)
//     q_i = U_head M_i^Q z        k_g = U_head M_g^K z        v_g = U_head M_g^V z           (hd)
//     o_i = sum_j a_j v_gj        a = softmax over j of q_i . k_gj / sqrt(hd)                (hd)
//     y   = U_embd sum_i M_i^O U_head^T o_i                                                  (d)
//
// M of Q, K, V is (r_head, r_embd), of O (r_embd, r_head). No W is ever formed. Lines 1 and 2 are
// attention_qkv, line 3 attention_store and attention_mix, line 4 attention_out.
// A mixed core (r_kind < kinds) has slices G_r, M^kind = sum_r U_kind[kind, r] G_r. A token's M^kind z is
// computed without M: t_r = G_r z, then sum_r U_kind[kind, r] t_r (mix_kinds).
// U_head is applied, moved to the other side of the dot product, or left out: head_used, _moves, _cancels.
// From a cache of z, M is applied to the query or to z: absorb_or_rebuild. doc/MATH.md, 4 to 6, has all this.
//
// Of core/kernels.h: matmul(scratch, n, list, count) computes W x of n rows x for every Linear {W, x, where
// W x goes} of a list, in one sweep over their weights; matmul_t(scratch, x, n, W, y) is y = W^T x;
// matmul_t_block computes it inside one thread and adds to y; take_columns and put_columns read and write
// some columns of x. Of core/attend.h: attend computes line 3 over a Cache, as an Attend describes it.
// ==================================================================================================

// ---- the definition -----------------------------------------------------------------------------

// W x for every head i and position t, weights over the positions j <= t, W_O: what all below must equal.
void attention_dense_twin(const AttnShape *s, const float *const w[4], const float *x, int64_t n,
                          float *y) {
    int64_t d = s->d, hd = s->hd, m = s->h / s->n_kv, wide = s->h * hd;
    double *o = calloc((size_t)(n * wide), sizeof *o), *a = calloc((size_t)n, sizeof *a);
    for (int64_t t = 0; o && a && t < n; t++)
        for (int64_t i = 0; i < s->h; i++) {
            double sum = 0;
            for (int64_t j = 0; j <= t; j++) {                      // a_j = exp(q_t . k_j / sqrt(hd))
                double score = 0;
                for (int64_t c = 0; c < hd; c++) {
                    double q = 0, k = 0;
                    for (int64_t e = 0; e < d; e++) {
                        q += (double)w[P_Q][(i * hd + c) * d + e] * x[t * d + e];
                        k += (double)w[P_K][(i / m * hd + c) * d + e] * x[j * d + e];
                    }
                    score += q * k;
                }
                sum += a[j] = exp(score / sqrt((double)hd));
            }
            for (int64_t j = 0; j <= t; j++)                        // o_i = sum_j a_j v_j / sum_j a_j
                for (int64_t c = 0; c < hd; c++) {
                    double v = 0;
                    for (int64_t e = 0; e < d; e++)
                        v += (double)w[P_V][(i / m * hd + c) * d + e] * x[j * d + e];
                    o[t * wide + i * hd + c] += a[j] / sum * v;
                }
        }
    for (int64_t t = 0; o && a && t < n; t++)
        for (int64_t e = 0; e < d; e++) {
            double sum = 0;
            for (int64_t c = 0; c < wide; c++) sum += (double)w[P_O][e * wide + c] * o[t * wide + c];
            y[t * d + e] = (float)sum;
        }
    free(o);
    free(a);
}

// ---- on the factors -----------------------------------------------------------------------------

// The group of projection p; NULL: p is dense.
static const Group *group_of(const Attention *a, int p) {
    return a->group_of[p] < 0 ? NULL : &a->groups[a->group_of[p]];
}

// Whether U_head of K is applied to the queries, q . (U_head M z) = (U_head^T q) . (M z): where nothing of a
// head is rotated; and where K is latent, for only what is not rotated is made from latents.
static bool head_moves(const Attention *a, bool latent_k) {
    const Group *g = group_of(a, P_K);
    return g && g->head.rows && (latent_k || a->pass == a->shape.hd);
}

// Whether U_head is left out on both sides, U_head^T U_head = I: p = Q shares it with K, and it moves there,
//     (U_head M_i^Q z) . (U_head M_g^K z') = (M_i^Q z) . (M_g^K z')
// or p = V shares it with O. Not where p has a bias, which is hd wide and meets U_head on one side alone.
static bool head_cancels(const Attention *a, int p) {
    const Group *g = group_of(a, p);
    return g && g->head.rows && g == group_of(a, p + 1) && !a->bias[p] && (p == P_V || head_moves(a, false));
}

// Whether U_head is multiplied with the vectors of p: it has not cancelled, nor, of K, moved to the queries.
static bool head_used(const Attention *a, int p) {
    const Group *g = group_of(a, p);
    return g && g->head.rows && !(p == P_K ? head_moves(a, false) : head_cancels(a, p == P_O ? P_V : p));
}

// The row of U_kind (r_kind numbers) of a head of projection p, the (head % kinds_of)-th of its KV head.
static const float *kind_row(const Group *g, const AttnShape *s, int p, int64_t head) {
    int64_t m = s->h / s->n_kv;
    return (const float *)g->kind.data + kind_index(g->set, m, p, head % kinds_of(p, m)) * g->r_kind;
}

// mz (n, heads, r_head) of projection p from t (n, r_kind, n_kv, r_head), t_r = G_r z: for every head
// M z = sum_r U_kind[kind, r] t_r.
static void mix_kinds(const Group *g, const AttnShape *s, int p, const float *t, int64_t n, float *mz) {
    int64_t heads = heads_of(s, p), per_kv = heads / s->n_kv, r_head = g->r_head;
    for (int64_t i = 0; i < n; i++)
        for (int64_t head = 0; head < heads; head++, mz += r_head) {
            const float *u = kind_row(g, s, p, head);
            memset(mz, 0, (size_t)r_head * sizeof *mz);
            for (int64_t r = 0; r < g->r_kind; r++)
                axpy(mz, u[r], t + ((i * g->r_kind + r) * s->n_kv + head / per_kv) * r_head, r_head);
        }
}

// The transpose, for O: t (n, r_kind, n_kv, r_head) from o (n, h, r_head), t_r = sum of U_kind[kind, r] o_i
// over the query heads i of a KV head.
static void unmix_kinds(const Group *g, const AttnShape *s, const float *o, int64_t n, float *t) {
    int64_t m = s->h / s->n_kv, r_head = g->r_head;
    memset(t, 0, (size_t)(n * g->r_kind * s->n_kv * r_head) * sizeof *t);
    for (int64_t i = 0; i < n; i++)
        for (int64_t head = 0; head < s->h; head++, o += r_head) {
            const float *u = kind_row(g, s, P_O, head);
            for (int64_t r = 0; r < g->r_kind; r++)
                axpy(t + ((i * g->r_kind + r) * s->n_kv + head / m) * r_head, u[r], o, r_head);
        }
}

// y (n, d) = U_embd t of a pivoted "o": y_p = t, y_r = X t, of t (n, r_embd).
static void pivoted_out(const Group *g, AttentionWork *w, const float *t, int64_t n, int64_t d,
                        float *y) {
    matmul(&w->scratch, n, &(Linear){&g->embd, t, w->rest}, 1);
    put_columns(t, n, g->r_embd, g->pivot, d, y);
    put_columns(w->rest, n, d - g->r_embd, g->rest, d, y);
}

int attention_expand(Attention *a, float **owned, Err *e) {
    const AttnShape *s = &a->shape;
    int64_t total = 0;
    *owned = NULL;
    for (int p = P_K; p <= P_V; p++) {
        const Group *g = group_of(a, p);
        if (!g || (p == P_K && !a->pass)) continue;
        a->expand[p] = g->kind.rows ? (Mat){NULL, s->n_kv * g->r_head, g->r_embd, T_F32} : a->w[p];
        if (g->kind.rows) total += s->n_kv * g->r_head * g->r_embd;
    }
    if (!total) return 0;
    float *m = *owned = alloc((size_t)(total + s->d), sizeof *m, "cores of K and V", e);
    if (!m) return -1;
    for (int p = P_K; p <= P_V; p++) {                             // M = sum_r U_kind[p, r] G_r
        Mat *to = &a->expand[p];
        if (!to->rows || to->data) continue;                       // not in a group, or a stored core
        const Group *g = group_of(a, p);
        const float *u = kind_row(g, s, p, 0);
        float *row = *owned + total;                               // one row of G, after both M
        for (int64_t i = 0; i < g->r_kind * to->rows; i++) {
            mat_row(&g->core, i, row);
            axpy(m + i % to->rows * to->cols, u[i / to->rows], row, to->cols);
        }
        to->data = m;
        m += to->rows * to->cols;
    }
    return 0;
}

// The table in tucker.h, as the sizes of a Cache: of a KV head k_width numbers of k and v_width of v are
// cached. K is latent where z_width > 0, V where `latent`: then v_width is that of its one row z.
static Cache cache_of(const Attention *a, int type, int64_t capacity, bool latent_k, bool latent_v) {
    const AttnShape *s = &a->shape;
    const Group *k = group_of(a, P_K), *v = group_of(a, P_V);
    return (Cache){
        .type = type, .capacity = capacity, .n_kv = s->n_kv,
        .k_width = latent_k ? s->hd - a->pass : head_moves(a, false) ? k->r_head : s->hd,
        .v_width = latent_v ? v->r_embd : head_cancels(a, P_V) ? v->r_head : s->hd,
        .z_width = latent_k ? k->r_embd : 0, .latent = latent_v, .shared = latent_k && latent_v && k == v,
    };
}

// y (n, width) += bias (width), or nothing where bias is NULL.
static void add_bias(float *y, const float *bias, int64_t n, int64_t width) {
    for (int64_t i = 0; bias && i < n; i++) add(y + i * width, bias, width);
}

void attention_qkv(const Attention *a, AttentionWork *w, const Cache *c, const float *x, int64_t n,
                   float *q, float *k, float *v) {
    const AttnShape *s = &a->shape;
    float *y[3] = {q, k, v};
    int wanted = HAS_Q | (c->z_width && !c->k_width ? 0 : HAS_K) | (c->latent ? 0 : HAS_V);

    // z (n, r_embd) = U_embd^T x of each group, if it is pivoted x_p + X x_r, and y = W x of what is dense:
    // one sweep.
    Linear sweep[4];
    int count = 0;
    float *x_r = w->rest;
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        if (g->set == HAS_O) continue;
        sweep[count++] = (Linear){&g->embd, g->pivot ? x_r : x, w->z[i]};
        if (!g->pivot) continue;
        take_columns(x, n, s->d, g->rest, s->d - g->r_embd, false, x_r);
        x_r += n * (s->d - g->r_embd);
    }
    for (int p = P_Q; p <= P_V; p++)
        if (a->group_of[p] < 0) sweep[count++] = (Linear){&a->w[p], x, y[p]};
    matmul(&w->scratch, n, sweep, count);
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        if (g->pivot && g->set != HAS_O) take_columns(x, n, s->d, g->pivot, g->r_embd, true, w->z[i]);
    }

    // mz (n, heads, r_head) = M z of every head: one sweep over all cores. It goes to q, k, v themselves, or,
    // where U_head is still to come, to w->heads, one after the other. Of a mixed core t_r = G_r z is made.
    float *mz[3] = {q, k, v}, *next = w->heads, *t[4], *next_t = w->slices;
    count = 0;
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        if (!g->kind.rows || !(g->set & wanted)) continue;
        sweep[count++] = (Linear){&g->core, w->z[i], t[i] = next_t};
        next_t += n * g->r_kind * s->n_kv * g->r_head;
    }
    for (int p = P_Q; p <= P_V; p++) {
        const Group *g = group_of(a, p);
        if (!g || !(wanted & 1 << p)) continue;
        if (head_used(a, p)) {
            mz[p] = next;
            next += n * heads_of(s, p) * g->r_head;
        }
        if (!g->kind.rows) sweep[count++] = (Linear){&a->w[p], w->z[a->group_of[p]], mz[p]};
    }
    matmul(&w->scratch, n, sweep, count);

    // y (n, heads, hd) = U_head mz, of a mixed core mz = sum_r U_kind t_r. What is rotated is so after it.
    for (int p = P_Q; p <= P_V; p++) {
        const Group *g = group_of(a, p);
        if (!g || !(wanted & 1 << p)) continue;
        if (g->kind.rows) mix_kinds(g, s, p, t[a->group_of[p]], n, mz[p]);
        if (mz[p] != y[p]) matmul(&w->scratch, n * heads_of(s, p), &(Linear){&g->head, mz[p], y[p]}, 1);
    }
    if (head_moves(a, false)) wanted &= ~HAS_K;                // k is r_head wide: no bias, as in tucker.h
    for (int p = P_Q; p <= P_V; p++)
        if (wanted & 1 << p) add_bias(y[p], a->bias[p], n, heads_of(s, p) * s->hd);
}

void attention_store(const Attention *a, const AttentionWork *w, Cache *c, int64_t pos, int64_t row,
                     int64_t n, const float *k, const float *v) {
    const AttnShape *s = &a->shape;
    const float *zk = c->z_width ? w->z[a->group_of[P_K]] + row * c->z_width : NULL;
    const float *zv = c->latent ? w->z[a->group_of[P_V]] + row * c->v_width : NULL;
    int64_t k_row = head_moves(a, false) ? group_of(a, P_K)->r_head : s->hd;
    cache_store(c, pos, n, k + row * s->n_kv * k_row, k_row, zv ? zv : v + row * s->n_kv * c->v_width, zk);
}

// out (n, h, rotated + r_head) of q (n, h, hd): of each head the rotated numbers as they are, rotated =
// hd - pass, and U_pass^T of the others, U_pass being the last `pass` rows of U_head.
static const float *move_head(const Attention *a, const float *q, int64_t n, float *out) {
    const AttnShape *s = &a->shape;
    const Mat *u = &group_of(a, P_K)->head;
    int64_t rotated = s->hd - a->pass, width = rotated + u->cols;
    memset(out, 0, (size_t)(n * s->h * width) * sizeof *out);
    for (int64_t i = 0; i < n * s->h; i++)
        memcpy(out + i * width, q + i * s->hd, (size_t)rotated * sizeof *q);
    Mat u_pass = {(const float *)u->data + rotated * u->cols, a->pass, u->cols, T_F32};
    matmul_t_block(&u_pass, q + rotated, s->hd, n * s->h, out + rotated, width);
    return out;
}

// How n queries use latents z of p, K or V; M makes `rows` numbers of a head from them. Multiply-adds for
// each cached position, as if all queries were one task of core/attend.h:
//     rebuild   k = M z (or v) for all KV heads, then dot products with it:  n_kv rows r_embd + n h rows
//     absorb    z as it is, for M is applied to q before, or to the sum after:              n h r_embd
// Few queries absorb, many rebuild; all absorb where a result may not depend on how many there are (uniform).
static Expand absorb_or_rebuild(const Attention *a, const AttentionWork *w, int p, int64_t rows, int64_t n) {
    const AttnShape *s = &a->shape;
    int64_t r_embd = a->expand[p].cols;
    bool rebuild = !w->scratch.uniform && s->n_kv * rows * r_embd < n * s->h * (r_embd - rows);
    return (Expand){&a->expand[p], rebuild};
}

void attention_mix(const Attention *a, AttentionWork *w, const Cache *c, const float *q, int64_t row,
                   int64_t n, int64_t pos, int64_t window, float *o) {
    const AttnShape *s = &a->shape;
    const Group *gk = group_of(a, P_K), *gv = group_of(a, P_V);
    bool widen = c->latent && head_used(a, P_V);   // latents give o r_head wide, and U_head has not cancelled
    q += row * s->h * (head_cancels(a, P_Q) ? gk->r_head : s->hd);
    o += row * s->h * (head_cancels(a, P_V) ? gv->r_head : s->hd);

    // o_i = sum_j softmax_j(q_i . k_gj / sqrt(hd)) v_gj
    Attend job = {
        .cache = c, .n_heads = s->h, .n = n, .pos = pos, .window = window, .all = window == SEE_ALL,
        .scale = 1.0f / sqrtf((float)s->hd), .q = q, .q_width = s->hd,
    };
    if (head_moves(a, c->z_width > 0)) {           // q: its rotated numbers, then U_head^T of the others
        job.q_width = s->hd - a->pass + gk->r_head;
        if (!head_cancels(a, P_Q)) job.q = move_head(a, q, n, w->slices);
    }
    if (c->z_width) job.keys = absorb_or_rebuild(a, w, P_K, job.q_width - c->k_width, n);   // not the rotated
    if (c->latent) job.values = absorb_or_rebuild(a, w, P_V, gv->r_head, n);
    bool after = c->latent && !job.values.rebuild;     // M_g^V sum_j a_j z_j instead of sum_j a_j (M_g^V z_j)
    float *narrow = !widen ? o : after ? w->slices : w->heads;                           // (n, h, r_head)
    job.out = after ? w->heads : narrow;                                                 // (h, n, r_embd)
    job.out_width = c->latent && !after ? gv->r_head : c->v_width;
    attend(&job, &w->attend);
    if (after) matmul_heads(&w->scratch, n, s->h, s->n_kv, &a->expand[P_V], w->heads, narrow);
    if (widen) matmul(&w->scratch, n * s->h, &(Linear){&gv->head, narrow, o}, 1);        // U_head o_i
    if (c->latent && a->bias[P_V])                 // weights sum to 1: the bias of v is one of o
        for (int64_t i = 0; i < n * s->h; i++)
            add(o + i * s->hd, a->bias[P_V] + i % s->h / (s->h / s->n_kv) * s->hd, s->hd);
}

void attention_out(const Attention *a, AttentionWork *w, const float *o, int64_t n, float *y) {
    const AttnShape *s = &a->shape;
    const Group *g = group_of(a, P_O);
    if (!g) {
        matmul(&w->scratch, n, &(Linear){&a->w[P_O], o, y}, 1);
    } else {
        if (head_used(a, P_O)) {                                         // U_head^T o_i
            matmul_t(&w->scratch, o, n * s->h, &g->head, w->heads);
            o = w->heads;
        }
        float *sum = w->z[a->group_of[P_O]];                             // (n, r_embd); z is cached by now
        if (g->kind.rows) {
            unmix_kinds(g, s, o, n, w->slices);
            matmul_t(&w->scratch, w->slices, n, &g->core, sum);          // sum_r G_r^T t_r
        } else {
            matmul(&w->scratch, n, &(Linear){&a->w[P_O], o, sum}, 1);    // sum_i M_i^O o_i
        }
        if (g->pivot) pivoted_out(g, w, sum, n, s->d, y);
        else if (g->set == HAS_O) matmul(&w->scratch, n, &(Linear){&g->embd, sum, y}, 1);
        else matmul_t(&w->scratch, sum, n, &g->embd, y);                 // y = U_embd sum, stored transposed
    }
    add_bias(y, a->bias[P_O], n, s->d);
}

// ---- buffers ------------------------------------------------------------------------------------

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

int attention_work(AttentionWork *w, const Attention *a, size_t stride, int64_t count, int64_t n,
                   int64_t max_cols, Err *e) {
    memset(w, 0, sizeof *w);
    w->n = n;
    // The largest of any layer: ranks (r_head where queries may move), latents of K, of V, numbers of a
    // token in heads or slices, inputs that are no pivots; columns that a matmul meets, of all its inputs.
    enum { ROOM = 64 };                                              // at most, to fill up an input's blocks
    int64_t r_embd = 1, r_head = 0, latent = 0, sums = 0, core = 1, rest = 0, cols = max_cols;
    AttnShape s = a->shape;
    for (int64_t l = 0; l < count; l++, a = (const Attention *)((const char *)a + stride)) {
        int64_t slices = 0, its_rest = 0, z = 0;
        for (int i = 0; i < a->n_groups; i++) {
            const Group *g = &a->groups[i];
            r_embd = larger(r_embd, g->r_embd);
            if (a->pass && g->set & HAS_K) latent = larger(latent, g->r_embd);
            if (g->set & HAS_V) sums = larger(sums, g->r_embd);
            core = larger(core, g->r_head * (2 * s.n_kv + s.h));
            if (g->kind.rows) slices += g->r_head * g->r_kind * s.n_kv;
            if (g->head.rows && a->pass) r_head = larger(r_head, g->r_head);
            if (g->pivot) its_rest += s.d - g->r_embd;
            z += g->r_embd;
        }
        core = larger(core, slices);
        rest = larger(rest, its_rest);
        if (a->n_groups) cols = larger(cols, larger(s.d + its_rest, z) + a->n_groups * ROOM);
    }
    if (r_head) core = larger(core, s.h * (s.hd + r_head));          // queries, see move_head
    cols = larger(larger(cols, core), s.h * s.hd);
    if (sums) cols = larger(cols, (s.h < SWEEP_HEADS ? s.h : SWEEP_HEADS) * (sums + ROOM));
    for (int i = 0; i < 4; i++)
        if (!(w->z[i] = alloc((size_t)(n * r_embd), sizeof(float), "latents", e))) goto failed;
    if (!(w->heads = alloc((size_t)(n * larger(core, s.h * sums)), sizeof(float), "cores' outputs", e)) ||
        !(w->slices = alloc((size_t)(n * core), sizeof(float), "mixed cores' outputs", e)) ||
        !(w->rest = alloc((size_t)(n * rest), sizeof(float), "inputs beside the pivots", e)) ||
        scratch_init(&w->scratch, n, cols, e) ||
        attend_scratch(&w->attend, n, s.h, s.n_kv, s.hd + r_head, latent, larger(r_embd, s.hd), s.hd, e))
        goto failed;
    return 0;
failed:
    attention_work_free(w);
    return -1;
}

void attention_work_free(AttentionWork *w) {
    for (int i = 0; i < 4; i++) free(w->z[i]);
    free(w->heads);
    free(w->slices);
    free(w->rest);
    scratch_free(&w->scratch);
    attend_scratch_free(&w->attend);
    memset(w, 0, sizeof *w);
}

// ---- what it costs ------------------------------------------------------------------------------

// A matrix that is read once and used `uses` times.
static void count_use(Cost *c, const Mat *w, double uses) {
    if (!w->rows) return;
    c->bytes += (double)mat_bytes(w);
    c->madds += uses * (double)w->rows * (double)w->cols;
}

Cost attention_cost(const Attention *a) {
    Cost c = {0};
    for (int p = P_Q; p <= P_O; p++) count_use(&c, &a->w[p], 1);
    for (int i = 0; i < a->n_groups; i++) {
        const Group *g = &a->groups[i];
        double sides = (g->set & HAS_O ? 1 : 0) + (g->set & ~HAS_O ? 1 : 0);     // out: O; in: Q, K, V
        double heads = 0, wide = 0;                               // heads; of them, those that U_head meets
        for (int p = P_Q; p <= P_O; p++) {
            if (!(g->set & 1 << p)) continue;
            heads += (double)heads_of(&a->shape, p);
            if (head_used(a, p)) wide += (double)heads_of(&a->shape, p);
            else if (p == P_K && head_moves(a, false) && !head_cancels(a, P_Q)) wide += (double)a->shape.h;
        }
        count_use(&c, &g->embd, sides);
        count_use(&c, &g->core, sides);
        count_use(&c, &g->head, wide);
        count_use(&c, &g->kind, 0);
        if (g->kind.rows) c.madds += heads * (double)(g->r_kind * g->r_head);    // sum_r U_kind t_r
        if (g->pivot) c.bytes += 4.0 * (double)g->r_embd;                         // their indices
    }
    return c;
}

Cost attention_cache_cost(const Attention *a, const Cache *c) {
    const TypeInfo *info = type_info(c->type);
    int64_t numbers = c->n_kv * c->k_width + (c->latent ? 1 : c->n_kv) * c->v_width
                    + (c->shared ? 0 : c->z_width);
    return (Cost){(double)numbers * info->bytes / info->block,
                  (double)(a->shape.h * (c->k_width + c->z_width + c->v_width))};
}

// auto begins with the dense form and takes another that costs less, where its rows fill the type's blocks.
Cache attention_cache(const Attention *a, int type, int64_t capacity, CacheForm form) {
    bool may_k = a->group_of[P_K] >= 0 && a->pass > 0, may_v = a->group_of[P_V] >= 0;
    if (form == CACHE_LATENT) return cache_of(a, type, capacity, may_k, may_v);
    Cache best = cache_of(a, type, capacity, false, false);
    for (int k = 0; form == CACHE_AUTO && k <= may_k; k++)
        for (int v = 0; v <= may_v; v++) {
            Cache c = cache_of(a, type, capacity, k, v);
            Cost least = attention_cache_cost(a, &best), its = attention_cache_cost(a, &c);
            size_t bytes[3];
            if (cache_size(&c, bytes) && its.bytes + its.madds / 4 < least.bytes + least.madds / 4) best = c;
        }
    return best;
}
