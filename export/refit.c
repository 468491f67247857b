// refit: least squares for W_down, layer by layer. Owns the residual streams of both models over
// the calibration text and the sums over its tokens. The layers themselves are run by model.c;
// where the result is stored is the planner's business.
#include "refit.h"

#include "../core/kernels.h"
#include "../core/linalg.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

enum {
    ROWS = 576,               // tokens widened to double at a time
    BLOCK = 96,               // rows of H computed together, up to the diagonal
    PANEL = 32,               // columns of the triangular solves done one by one
};

// Below this part of the mean diagonal rounding decides what H is, not the text.
static const double least_ridge = 1e-9;

typedef struct {
    const Config *c;
    const CalibText *t;
    RefitOptions o;
    const Model *given[2];    // dense: what is aimed at, and the W_down that is moved; compressed
    Model made;               // compressed, with layers of its own that take the new W_down
    Session dense, small;     // of one window; they stay at position 0
    float *x[2];              // (count, window, d) residual streams of dense and small
    double *wide_h, *wide_e;  // (ROWS, f), (ROWS, d)
    double *h;                // (f, f)  H = sum h h^T, lower triangle
    double *l;                // (f, f)  its Cholesky factor
    double *r;                // (d, f)  R = sum e h^T, then R (H + ridge)^-1
    void *stored;             // W_down of the layer at hand, rounded to its type
} Refit;

// ---- sums ---------------------------------------------------------------------------------------

// h is the input of W_down in the compressed model. The target is what W_down added in the dense
// model, y, and `feedback` of the error of the residual stream behind attention, a - a'. What
// W_down misses of it, e = y + feedback (a - a') - y', is, with x = a + y behind the layer,
//   e = (1 - feedback) (y - y') + feedback (x - x')
// which is exactly 0 where the models do not differ. Both y were multiplied by the same W_down.
typedef struct { const Refit *r; int64_t first; } Rows;
static void widen_rows(void *ctx, int64_t begin, int64_t end, int thread) {
    const Rows *rows = ctx;
    const Refit *r = rows->r;
    const int64_t d = r->c->d, f = r->c->f;
    const double part = r->o.feedback;
    (void)thread;
    for (int64_t t = begin; t < end; t++) {
        const int64_t at = rows->first + t;
        const float *y = r->dense.y + at * d, *y_small = r->small.y + at * d;
        const float *x = r->dense.x + at * d, *x_small = r->small.x + at * d;
        for (int64_t i = 0; i < f; i++) r->wide_h[t * f + i] = r->small.gate[at * f + i];
        for (int64_t i = 0; i < d; i++)
            r->wide_e[t * d + i] = (1 - part) * ((double)y[i] - y_small[i]) +
                                   part * ((double)x[i] - x_small[i]);
    }
}

// Adds the window that both sessions have just run, but for its first token: its norm is far above
// that of the others, and it would own the fit.
static void add_window(Refit *r) {
    const int64_t d = r->c->d, f = r->c->f, window = r->t->window;
    for (int64_t at = 1; at < window; at += ROWS) {
        const int64_t n = smaller(ROWS, window - at);
        Rows rows = {r, at};
        parallel_for(n, 8, widen_rows, &rows);
        for (int64_t i = 0; i < f; i += BLOCK) {
            const int64_t m = smaller(BLOCK, f - i);
            dgemm(true, false, m, i + m, n, r->wide_h + i, f, r->wide_h, f, 1, r->h + i * f, f);
        }
        dgemm(true, false, d, f, n, r->wide_e, d, r->wide_h, f, 1, r->r, f);
    }
}

// ---- the solution -------------------------------------------------------------------------------

// X (m, n) <- X (L L^T)^-1, L (n, n) lower: X L^-T from the first column on, then that times L^-1
// from the last column on. Columns that are done are kept negated, so that dgemm, which adds,
// subtracts them from those that follow; the second sweep takes the sign back.
static void solve(double *x, int64_t m, const double *l, int64_t n) {
    for (int64_t lo = 0, hi; lo < n; lo = hi) {
        hi = smaller(lo + PANEL, n);
        dgemm(false, true, m, hi - lo, lo, x, n, l + lo * n, n, 1, x + lo, n);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = lo; j < hi; j++) {
                double sum = -x[i * n + j];
                for (int64_t k = lo; k < j; k++) sum -= x[i * n + k] * l[j * n + k];
                x[i * n + j] = sum / l[j * n + j];
            }
    }
    for (int64_t hi = n, lo; hi > 0; hi = lo) {
        lo = (hi - 1) / PANEL * PANEL;
        dgemm(false, false, m, hi - lo, n - hi, x + hi, n, l + hi * n + lo, n, 1, x + lo, n);
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = hi - 1; j >= lo; j--) {
                double sum = -x[i * n + j];
                for (int64_t k = j + 1; k < hi; k++) sum -= x[i * n + k] * l[k * n + j];
                x[i * n + j] = sum / l[j * n + j];
            }
    }
}

// L L^T = H + ridge * mean diagonal of H; with a larger ridge where that is not positive definite.
static int factorise(const Refit *r, Err *e) {
    const int64_t f = r->c->f;
    double trace = 0, ridge = fmax(r->o.ridge, least_ridge);
    for (int64_t i = 0; i < f; i++) trace += r->h[i * f + i];
    if (!isfinite(trace)) return fail(e, "activations of the feed-forward are not finite");
    const double mean = trace > 0 ? trace / (double)f : 1;
    for (int tries = 0; tries < 6; tries++, ridge *= 10) {
        memcpy(r->l, r->h, (size_t)(f * f) * sizeof *r->l);
        for (int64_t i = 0; i < f; i++) r->l[i * f + i] += ridge * mean;
        const int result = cholesky(r->l, f, e);
        if (result != -1) return result ? -1 : 0;
    }
    return -1;
}

// The type that a layer's new W_down is stored in: where its own cannot be written, Q8_0.
static int stored_type(const Refit *r, int64_t layer) {
    const int own = r->given[1]->layer[layer].down.w.type;
    return r->o.type >= 0 ? r->o.type : type_info(own)->native ? own : T_Q8_0;
}

// W = W_down + R (H + ridge)^-1, and the same rounded into the compressed model's copy.
static int fit(Refit *r, int64_t layer, float **down, Err *e) {
    const int64_t d = r->c->d, f = r->c->f;
    const int type = stored_type(r, layer);
    size_t size;
    if (factorise(r, e)) return -1;
    solve(r->r, d, r->l, f);
    *down = alloc((size_t)(d * f), sizeof **down, "W_down", e);
    if (!*down || !row_size(type, f, &size)) return -1;
    for (int64_t i = 0; i < d; i++) {
        float *w = *down + i * f;
        mat_row(&r->given[0]->layer[layer].down.w, i, w);
        for (int64_t j = 0; j < f; j++) {
            w[j] = (float)(w[j] + r->r[i * f + j]);
            if (!isfinite(w[j])) return fail(e, "a weight of the new W_down is not finite");
        }
        quantize_row(type, w, (uint8_t *)r->stored + (size_t)i * size, f);
    }
    r->made.layer[layer].down.w = (Mat){r->stored, d, f, type};
    return 0;
}

// ---- layer by layer -----------------------------------------------------------------------------

// A layer over one window, from x (window, d): at position 0 again, for the cache of a layer is
// needed only while it runs.
static void run(Session *s, const float *x, int64_t layer, int64_t window) {
    memcpy(s->x, x, (size_t)(window * s->model->config.d) * sizeof *x);
    layer_forward(&(Strand){s, window}, 1, layer);
}

static int refit_layer(Refit *r, int64_t layer, float **down, Err *e) {
    const int64_t d = r->c->d, f = r->c->f, window = r->t->window, size = window * d;
    const LaserMat *old = &r->given[0]->layer[layer].down;
    const bool fits = !old->a.rows && !r->made.layer[layer].down.a.rows;
    if (fits) r->made.layer[layer].down = *old;           // so that e is what attention lost, alone
    memset(r->h, 0, (size_t)(f * f) * sizeof *r->h);
    memset(r->r, 0, (size_t)(d * f) * sizeof *r->r);
    for (int64_t i = 0; i < r->t->count; i++) {
        float *x = r->x[0] + i * size;
        if (interrupted) return fail(e, "interrupted");
        run(&r->dense, x, layer, window);
        memcpy(x, r->dense.x, (size_t)size * sizeof *x);
        if (!fits) continue;
        run(&r->small, r->x[1] + i * size, layer, window);
        add_window(r);
    }
    if (fits && fit(r, layer, down, e)) return -1;
    for (int64_t i = 0; i < r->t->count; i++) {
        float *x = r->x[1] + i * size;
        if (interrupted) return fail(e, "interrupted");
        run(&r->small, x, layer, window);
        memcpy(x, r->small.x, (size_t)size * sizeof *x);
    }
    return 0;
}

static int check(const Refit *r, Err *e) {
    const Config *a = &r->given[0]->config, *b = &r->given[1]->config;
    const CalibText *t = r->t;
    size_t size;
    if (a->encoder || b->encoder)
        return fail(e, "the norms of an encoder stand behind what would be fitted");
    if (a->d != b->d || a->f != b->f || a->n_layers != b->n_layers || a->vocab != b->vocab)
        return fail(e, "the compressed model has d %lld, f %lld, %lld layers, %lld tokens; "
                    "the dense one %lld, %lld, %lld, %lld", (long long)b->d, (long long)b->f,
                    (long long)b->n_layers, (long long)b->vocab, (long long)a->d, (long long)a->f,
                    (long long)a->n_layers, (long long)a->vocab);
    if (t->count < 1 || t->window < 2)
        return fail(e, "a calibration text of %lld windows of %lld ids", (long long)t->count,
                    (long long)t->window);
    for (int64_t i = 0; i < t->count * t->window; i++)
        if (t->ids[i] < 0 || t->ids[i] >= a->vocab)
            return fail(e, "token %d is not in 0 .. %lld", t->ids[i], (long long)a->vocab - 1);
    if (!(r->o.ridge >= 0) || !isfinite(r->o.ridge) || !isfinite(r->o.feedback))
        return fail(e, "a ridge of %g, a feedback of %g: expected numbers, the ridge not negative",
                    r->o.ridge, r->o.feedback);
    if (r->o.type >= 0 && (!type_info(r->o.type) || !type_info(r->o.type)->native))
        return fail(e, "W_down cannot be stored in type %d", r->o.type);
    for (int64_t l = 0; l < a->n_layers; l++)
        if (!row_size(stored_type(r, l), a->f, &size))
            return fail(e, "W_down of layer %lld: rows of %lld weights cannot be stored as %s",
                        (long long)l, (long long)a->f, type_info(stored_type(r, l))->name);
    return 0;
}

static double *doubles(int64_t rows, int64_t cols, const char *what, Err *e) {
    size_t n;
    if (mul_size((size_t)rows, (size_t)cols, &n)) return alloc(n, sizeof(double), what, e);
    fail(e, "%s: size overflows", what);
    return NULL;
}

static int refit_init(Refit *r, Err *e) {
    const Config *c = r->c;
    const int64_t window = r->t->window, n = r->t->count * window, rows = smaller(ROWS, window);
    const SessionConfig sc = {.context = window, .batch = window, .kv_type = T_F32,
                              .form = CACHE_DENSE};
    size_t size;
    if (check(r, e)) return -1;
    r->made = *r->given[1];
    if (!(r->made.layer = alloc((size_t)c->n_layers, sizeof(Layer), "layers", e))) return -1;
    memcpy(r->made.layer, r->given[1]->layer, (size_t)c->n_layers * sizeof(Layer));
    if (session_init(&r->dense, r->given[0], sc, e) || session_init(&r->small, &r->made, sc, e) ||
        !(r->wide_h = doubles(rows, c->f, "activations", e)) ||
        !(r->wide_e = doubles(rows, c->d, "activations", e)) ||
        !(r->h = doubles(c->f, c->f, "second moments", e)) ||
        !(r->l = doubles(c->f, c->f, "second moments", e)) ||
        !(r->r = doubles(c->d, c->f, "second moments", e)) ||
        !(r->stored = doubles(c->d, c->f, "W_down", e)))            // wide enough for any type
        return -1;
    if (!mul_size((size_t)n, (size_t)c->d, &size))
        return fail(e, "residual streams of %lld tokens: size overflows", (long long)n);
    for (int i = 0; i < 2; i++) {
        if (!(r->x[i] = alloc(size, sizeof(float), "residual streams", e))) return -1;
        Session *s = i ? &r->small : &r->dense;
        for (int64_t t = 0; t < n; t += window) {
            embed_tokens(&(Strand){s, window}, 1, r->t->ids + t);
            memcpy(r->x[i] + t * c->d, s->x, (size_t)(window * c->d) * sizeof(float));
        }
    }
    return 0;
}

static void refit_free(Refit *r) {
    session_free(&r->dense);
    session_free(&r->small);
    void *all[] = {r->made.layer, r->x[0], r->x[1], r->wide_h, r->wide_e, r->h, r->l, r->r,
                   r->stored};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

int refit_down(const Model *dense, const Model *compressed, const CalibText *t, RefitOptions o,
               float **down, Progress *progress, void *ctx, Err *e) {
    Refit r = {.c = &dense->config, .t = t, .o = o, .given = {dense, compressed}};
    const int64_t layers = r.c->n_layers;
    memset(down, 0, (size_t)layers * sizeof *down);
    int status = refit_init(&r, e);
    for (int64_t l = 0; l < layers && !status; l++) {
        if (progress) progress(ctx, "refitting", (double)l, (double)layers);
        status = refit_layer(&r, l, &down[l], e);
    }
    refit_free(&r);
    if (!status && progress) progress(ctx, "refitting", (double)layers, (double)layers);
    for (int64_t l = 0; l < layers && status; l++) {
        free(down[l]);
        down[l] = NULL;
    }
    return status;
}
