// model: binds a transformer to a file's tensors and runs it. One forward pass, in the order of the
// equations (embed_tokens, layer_forward, logits), for one token and for many, decoders and encoders:
// families differ by fields of Config, none has code of its own. What a projection is made of (dense,
// or factors) is tucker.c's business, numbers and threads are core's.
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// ==================================================================================================
// The forward pass
// ==================================================================================================

// Angles of position t, pair i: t * base^(-2i / rope_dims), after scaling. (T, rope_dims / 2, 2)
static void fill_angles(float *angles, const Model *m, int64_t positions) {
    const Config *c = &m->config;
    int64_t pairs = c->rope_dims / 2;
    for (int64_t i = 0; i < pairs; i++) {
        double rate = pow(c->rope_base, -2.0 * (double)i / (double)c->rope_dims) / c->rope_scale;
        if (m->rope_factors) rate /= m->rope_factors[i];
        for (int64_t t = 0; t < positions; t++) {
            angles[(t * pairs + i) * 2] = (float)cos((double)t * rate);
            angles[(t * pairs + i) * 2 + 1] = (float)sin((double)t * rate);
        }
    }
}

// Rotates every head of x (n, heads, hd) to its token's position: each pair (a, b) becomes
// (a cos - b sin, a sin + b cos). A thread has some of the tokens.
typedef struct { const Session *s; float *x; int64_t heads; } Rotation;
static void rotate_tokens(void *ctx, int64_t begin, int64_t end, int thread) {
    const Rotation *r = ctx;
    const Session *s = r->s;
    const Config *c = &s->model->config;
    int64_t pairs = c->rope_dims / 2, next = c->rope_half ? pairs : 1, step = c->rope_half ? 1 : 2;
    (void)thread;
    for (int64_t i = begin; i < end; i++)
        for (int64_t h = 0; h < r->heads; h++) {
            float *p = r->x + (i * r->heads + h) * c->hd;
            const float *angle = s->angles + s->at[i] * c->rope_dims;
            for (int64_t j = 0; j < pairs; j++, p += step, angle += 2) {
                float a = p[0], b = p[next];
                p[0] = a * angle[0] - b * angle[1];
                p[next] = a * angle[1] + b * angle[0];
            }
        }
}
static void rotate(const Session *s, float *x, int64_t n, int64_t heads) {
    parallel_for(n, 16, rotate_tokens, &(Rotation){s, x, heads});          // 16 tokens at least a thread
}

// y (n, d) += bias (d), or nothing where bias is NULL.
static void add_bias(float *y, const float *bias, int64_t n, int64_t d) {
    for (int64_t i = 0; bias && i < n; i++) add(y + i * d, bias, d);
}

static void observe(const Session *s, int64_t layer, Seen at, int64_t n) {
    if (s->observer) s->observer(s->observer_ctx, s, layer, at, n);
}

// y (n, rows) = W x + b for each of the matrices: one matmul over all that read x (W, or A of a factored
// one), then B (A x). A Linear (core/kernels.h) is a matrix, what it reads, and where the product goes.
typedef struct { const LaserMat *m; float *y; } Feed;
static void feed(Session *s, const float *x, int64_t n, const Feed *out, int count) {
    Linear sweep[2] = {{0}};
    for (int i = 0; i < count; i++)
        sweep[i] = out[i].m->a.rows ? (Linear){&out[i].m->a, x, s->low[i]}
                                    : (Linear){&out[i].m->w, x, out[i].y};
    matmul(&s->work.scratch, n, sweep, count);
    for (int i = 0; i < count; i++) {
        if (out[i].m->a.rows)
            matmul(&s->work.scratch, n, &(Linear){&out[i].m->w, s->low[i], out[i].y}, 1);
        add_bias(out[i].y, out[i].m->bias, n, out[i].m->w.rows);
    }
}

// The sublayers are attention and feed-forward: x = x + sublayer(norm(x)), or with post_norm
// x = norm(x + sublayer(x)). What one reads: xn = norm(x), or x.
static void read_stream(Session *s, Norm norm, int64_t n) {
    const Config *c = &s->model->config;
    if (c->post_norm) memcpy(s->xn, s->x, (size_t)(n * c->d) * sizeof *s->x);
    else norm_rows(s->xn, s->x, norm, n, c->d, c->norm_eps);
}

// Where its output y (n, d) goes: x = x + y, or norm(x + y).
static void add_stream(Session *s, Norm norm, int64_t n) {
    const Config *c = &s->model->config;
    add(s->x, s->y, n * c->d);
    if (c->post_norm) norm_rows(s->x, s->x, norm, n, c->d, c->norm_eps);
}

// The positions of the tokens in flight, s->at: each timeline's follow those it holds. Returns n.
static int64_t fill_positions(const Strand *strands, int64_t count) {
    int64_t n = 0, *at = strands[0].s->at;
    for (int64_t i = 0; i < count; i++)
        for (int64_t t = 0; t < strands[i].n; t++) at[n++] = strands[i].s->pos + t;
    return n;
}

void layer_forward(const Strand *strands, int64_t count, int64_t layer) {
    Session *s = strands[0].s;
    const Config *c = &s->model->config;
    const Layer *w = &s->model->layer[layer];
    int64_t n = fill_positions(strands, count);

    // attention: q, k, v = W_Q xn, W_K xn, W_V xn, then q and k rotated to their positions; of every head
    // o_t = sum over the j that t sees of softmax_j(q_t . k_j / sqrt(hd)) v_j; y = W_O o
    read_stream(s, w->attn_norm, n);
    attention_qkv(&w->attn, &s->work, &s->cache[layer], s->xn, n, s->q, s->k, s->v);
    if (c->qk_norm) {
        norm_rows(s->q, s->q, w->q_norm, n * c->h, c->hd, c->norm_eps);
        norm_rows(s->k, s->k, w->k_norm, n * c->n_kv, c->hd, c->norm_eps);
    }
    rotate(s, s->q, n, c->h);                                              // does nothing if rope_dims = 0
    rotate(s, s->k, n, c->n_kv);
    for (int64_t i = 0, row = 0; i < count; row += strands[i++].n) {       // each timeline sees its own
        Session *t = strands[i].s;
        attention_store(&w->attn, &s->work, &t->cache[layer], t->pos, row, strands[i].n, s->k, s->v);
        attention_mix(&w->attn, &s->work, &t->cache[layer], s->q, row, strands[i].n, t->pos,
                      c->encoder ? SEE_ALL : c->window, s->o);
    }
    observe(s, layer, SEEN_ATTENTION, n);
    attention_out(&w->attn, &s->work, s->o, n, s->y);
    add_stream(s, w->attn_norm, n);                                        // x += y

    // feed-forward: y = W_down (silu(W_gate xn) * W_up xn), or W_down act(W_up xn)
    if (!c->parallel) read_stream(s, w->ffn_norm, n);                      // else xn is attention's
    if (c->gated) feed(s, s->xn, n, (Feed[]){{&w->gate, s->gate}, {&w->up, s->up}}, 2);
    else feed(s, s->xn, n, &(Feed){&w->up, s->gate}, 1);
    observe(s, layer, SEEN_FFN, n);
    if (c->gated) swiglu(s->gate, s->up, n * c->f);
    else activate(c->act, s->gate, n * c->f);
    feed(s, s->gate, n, &(Feed){&w->down, s->y}, 1);
    add_stream(s, w->ffn_norm, n);                                         // x += y
}

// x += row i of m, where there is an m; by way of y.
static void add_row(const Mat *m, int64_t i, float *x, float *y) {
    if (!m->rows) return;
    mat_row(m, i, y);
    add(x, y, m->cols);
}

void embed_tokens(const Strand *strands, int64_t count, const int *ids) {
    Session *s = strands[0].s;
    const Model *m = s->model;
    const Config *c = &m->config;
    int64_t n = fill_positions(strands, count);
    for (int64_t i = 0; i < n; i++) {                        // x = embedding[id] + positions[at] + types[0]
        float *x = s->x + i * c->d;
        mat_row(&m->embedding, ids[i], x);
        add_row(&m->positions, s->at[i], x, s->y);
        add_row(&m->types, 0, x, s->y);
    }
    if (c->encoder) norm_rows(s->x, s->x, m->embd_norm, n, c->d, c->norm_eps);
}

// The tokens of all strands, checked, through all layers.
static int forward_strands(const Strand *strands, int64_t count, const int *ids, Err *e) {
    Session *s = strands[0].s;
    const Config *c = &s->model->config;
    int64_t n = 0;
    for (const Strand *t = strands; t < strands + count; n += t++->n) {
        if (t->s->x != s->x) return fail(e, "sessions of one batch do not share a room");
        if (t->n < 1 || t->n > s->config.batch - n || t->n > s->config.context - t->s->pos)
            return fail(e, "%lld more tokens do not fit: %lld of %lld positions are taken, batches of %lld",
                        (long long)t->n, (long long)t->s->pos, (long long)s->config.context,
                        (long long)s->config.batch);
    }
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab)
            return fail(e, "token %d is not in 0 .. %lld", ids[i], (long long)c->vocab - 1);

    embed_tokens(strands, count, ids);
    for (int64_t l = 0; l < c->n_layers; l++) layer_forward(strands, count, l);
    observe(s, c->n_layers, SEEN_END, n);
    for (int64_t i = 0; i < count; i++) strands[i].s->pos += strands[i].n;
    s->n = n;
    return 0;
}

int forward(Session *s, const int *ids, int64_t n, Err *e) {
    return forward_together(&(Strand){s, n}, 1, ids, e);
}

int forward_together(const Strand *strands, int64_t count, const int *ids, Err *e) {
    const Config *c = &strands[0].s->model->config;
    if (c->encoder)
        return fail(e, "%s is an encoder: it sees a text as a whole and does not continue it", c->arch);
    return forward_strands(strands, count, ids, e);
}

int encode(Session *s, const int *ids, int64_t n, Err *e) {
    if (!s->model->config.encoder)
        return fail(e, "%s is a decoder: its tokens see only those before them, so that it continues a "
                    "text and does not encode it", s->model->config.arch);
    s->pos = 0;
    return forward_strands(&(Strand){s, n}, 1, ids, e);
}

float *logits(Session *s, int64_t first, int64_t count) {
    const Model *m = s->model;
    const Config *c = &m->config;
    const float *x = s->x + first * c->d;
    if (m->mlm.w.rows) {                                                   // x = act(W x + b)
        feed(s, x, count, &(Feed){&m->mlm, s->y}, 1);
        activate(c->act, s->y, count * c->d);
        x = s->y;
    }
    norm_rows(s->xn, x, m->output_norm, count, c->d, c->norm_eps);
    matmul(&s->work.scratch, count, &(Linear){&m->output, s->xn, s->out}, 1);
    add_bias(s->out, m->output_bias, count, c->vocab);
    return s->out;
}

bool model_predicts(const Model *m) { return m->output.rows > 0; }

int prefill(Session *s, const int *ids, int64_t n, Err *e) {
    for (int64_t i = 0; i < n && !interrupted; i += s->config.batch) {
        int64_t part = n - i < s->config.batch ? n - i : s->config.batch;
        if (forward(s, ids + i, part, e)) return -1;
    }
    return 0;
}

void session_rewind(Session *s, int64_t pos) {
    if (pos < s->pos) s->pos = pos;
}

// ==================================================================================================
// Session
// ==================================================================================================

static int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

static float *floats(int64_t a, int64_t b, const char *what, Err *e) {
    size_t n;
    if (!mul_size((size_t)a, (size_t)b, &n)) { fail(e, "%s: size overflows", what); return NULL; }
    return alloc(n, sizeof(float), what, e);
}

// Caches of every layer, as s is configured.
static int make_caches(Session *s, Err *e) {
    const Model *m = s->model;
    s->cache = alloc((size_t)m->config.n_layers, sizeof *s->cache, "caches", e);
    for (int64_t l = 0; s->cache && l < m->config.n_layers; l++) {
        s->cache[l] = attention_cache(&m->layer[l].attn, s->config.kv_type, s->config.context,
                                      s->config.form);
        if (cache_alloc(&s->cache[l], &s->cache_bytes, e)) return -1;
    }
    return s->cache ? 0 : -1;
}

int session_init(Session *s, const Model *m, SessionConfig want, Err *e) {
    const Config *c = &m->config;
    memset(s, 0, sizeof *s);
    if (want.context < 1 || want.context > c->context)
        return fail(e, "a context of %lld positions: the model was trained for 1 .. %lld",
                    (long long)want.context, (long long)c->context);
    if (want.batch < 1) want.batch = 128;
    if (want.batch > want.context || c->encoder) want.batch = want.context;
    // An encoder's cache is only where K and V stand while one text is computed: a narrower type would
    // round them and save no reading, and a latent V would be expanded for every task anew.
    if (c->encoder) want.kv_type = T_F32;
    if (c->encoder && want.form == CACHE_AUTO) want.form = CACHE_DENSE;
    s->model = m, s->config = want;
    if (make_caches(s, e)) goto failed;
    int64_t low = 0, max_cols = larger(c->f, c->d);
    for (int64_t l = 0; l < c->n_layers; l++) {
        low = larger(low, larger(m->layer[l].gate.a.rows, m->layer[l].up.a.rows));
        low = larger(low, m->layer[l].down.a.rows);
    }
    int64_t n = want.batch;
    s->max_logits = n < 16 ? n : 16;
    if (!(s->angles = floats(want.context, c->rope_dims, "rotary angles", e)) ||
        !(s->at = alloc((size_t)n, sizeof *s->at, "positions", e)) ||
        !(s->x = floats(n, c->d, "activations", e)) || !(s->xn = floats(n, c->d, "activations", e)) ||
        !(s->y = floats(n, c->d, "activations", e)) ||
        !(s->q = floats(n, c->h * c->hd, "queries", e)) || !(s->o = floats(n, c->h * c->hd, "heads", e)) ||
        !(s->k = floats(n, c->n_kv * c->hd, "keys", e)) ||
        !(s->v = floats(n, c->n_kv * c->hd, "values", e)) ||
        !(s->gate = floats(n, c->f, "activations", e)) || !(s->up = floats(n, c->f, "activations", e)) ||
        !(s->low[0] = floats(n, low, "activations", e)) || !(s->low[1] = floats(n, low, "activations", e)) ||
        !(s->out = floats(s->max_logits, m->output.rows, "logits", e)) ||
        attention_work(&s->work, &m->layer->attn, sizeof(Layer), c->n_layers, n, max_cols, e))
        goto failed;
    s->work.scratch.uniform = want.uniform;
    fill_angles(s->angles, m, want.context);
    return 0;
failed:
    session_free(s);
    return -1;
}

int session_beside(Session *s, const Session *host, Err *e) {
    *s = *host;
    s->guest = true, s->pos = s->n = 0, s->cache_bytes = 0;
    if (make_caches(s, e) == 0) return 0;
    session_free(s);
    return -1;
}

void session_free(Session *s) {
    for (int64_t l = 0; s->cache && l < s->model->config.n_layers; l++) cache_free(&s->cache[l]);
    free(s->cache);
    if (s->guest) memset(s, 0, sizeof *s);
    void *all[] = {s->at, s->angles, s->x, s->xn, s->y, s->q, s->o, s->k, s->v, s->gate, s->up, s->low[0],
                   s->low[1], s->out};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    attention_work_free(&s->work);
    memset(s, 0, sizeof *s);
}

// ==================================================================================================
// Binding
// ==================================================================================================

// A row a family: how its members compute, whatever their sizes. A rope_base of 0: positions are
// learned, nothing is rotated.
static const Config families[] = {
    {.arch = "llama", .gated = true, .rope_base = 10000},
    {.arch = "qwen2", .gated = true, .rope_base = 10000, .rope_half = true},
    {.arch = "qwen3", .gated = true, .rope_base = 10000, .rope_half = true, .qk_norm = true},
    {.arch = "gptj", .layer_norm = true, .parallel = true, .act = ACT_GELU_TANH, .rope_base = 10000},
    {.arch = "gpt2", .layer_norm = true, .biased = true, .act = ACT_GELU_TANH},
    {.arch = "bert", .encoder = true, .layer_norm = true, .post_norm = true, .biased = true,
     .act = ACT_GELU},
};

// A key of the architecture: "llama.attention.head_count" from "%s.attention.head_count".
static const char *key_of(const Config *c, const char *suffix) {
    static _Thread_local char key[96];
    snprintf(key, sizeof key, "%s.%s", c->arch, suffix);
    return key;
}

static int need_int(const Gguf *g, const Config *c, const char *suffix, int64_t max, int64_t *out,
                    Err *e) {
    const char *key = key_of(c, suffix);
    if (!gguf_kv(g, key)) return fail(e, "%s: key %s is missing", g->name, key);
    return gguf_get_int(g, key, 1, max, out, e);
}

static int refuse_scaling(const Gguf *g, Config *c, Err *e) {
    Str scaling = {"linear", 6};             // what a factor alone means; the oldest files have the second
    const char *f[] = {"rope.scaling.factor", "rope.scale_linear"}, *factor = f[!gguf_kv(g, key_of(c, f[0]))];
    if (gguf_get_str(g, key_of(c, "rope.scaling.type"), &scaling, e)) return -1;
    c->rope_scale = 1;
    if (str_is(scaling, "linear")) {
        if (gguf_get_float(g, key_of(c, factor), &c->rope_scale, e)) return -1;
        if (!(c->rope_scale >= 1 && c->rope_scale <= 1e6))
            return fail(e, "%s: a linear rope scaling by %g", g->name, c->rope_scale);
    } else if (!str_is(scaling, "none")) {
        return fail(e, "%s: rope scaling \"%.*s\" is not supported (linear and llama 3's are)",
                    g->name, (int)(scaling.n < 40 ? scaling.n : 40), scaling.s);
    }
    return 0;
}

// tucker.activation, where a model's is not the one its family has as a rule.
static int read_activation(const Gguf *g, Config *c, Err *e) {
    static const char *const names[] = {"silu", "gelu", "gelu_tanh"};
    Str name = {"", 0};
    if (!gguf_kv(g, "tucker.activation")) return 0;
    if (gguf_get_str(g, "tucker.activation", &name, e)) return -1;
    for (int a = ACT_SILU; a <= (c->gated ? ACT_SILU : ACT_GELU_TANH); a++)
        if (str_is(name, names[a])) {
            c->act = (Activation)a;
            return 0;
        }
    return fail(e, "%s: a %s feed-forward of activation \"%.*s\" is not supported", g->name,
                c->gated ? "gated" : "plain", (int)(name.n < 40 ? name.n : 40), name.s);
}

static int read_config(Config *c, const Gguf *g, Err *e) {
    enum { MOST = 1 << 24 };                       // of any one dimension: products stay in 64 bits
    Str arch = {0};
    if (gguf_get_str(g, "general.architecture", &arch, e)) return -1;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (str_is(arch, families[i].arch)) *c = families[i];
    if (!*c->arch)
        return fail(e, "%s: architecture \"%.*s\" is not supported (llama, qwen2, qwen3, gptj, gpt2 and "
                    "bert are)", g->name, (int)(arch.n < 40 ? arch.n : 40), arch.n ? arch.s : "");

    int64_t value_width = 0, version = 0, experts = 0;
    double eps = 0;
    if (need_int(g, c, "embedding_length", MOST, &c->d, e) ||
        need_int(g, c, "block_count", 4096, &c->n_layers, e) ||
        need_int(g, c, "feed_forward_length", MOST, &c->f, e) ||
        need_int(g, c, "context_length", MOST, &c->context, e) ||
        need_int(g, c, "attention.head_count", 65536, &c->h, e))
        return -1;
    c->n_kv = c->h;
    if (gguf_get_int(g, key_of(c, "attention.head_count_kv"), 1, c->h, &c->n_kv, e)) return -1;
    if (c->h % c->n_kv)
        return fail(e, "%s: %lld query heads do not divide over %lld KV heads", g->name,
                    (long long)c->h, (long long)c->n_kv);
    c->hd = c->d / c->h;
    bool given = gguf_kv(g, key_of(c, "attention.key_length")) != NULL;
    if (!given && (c->d % c->h || c->d < c->h))
        return fail(e, "%s: an embedding of %lld does not divide over %lld heads", g->name,
                    (long long)c->d, (long long)c->h);
    if (gguf_get_int(g, key_of(c, "attention.key_length"), 1, 65536, &c->hd, e)) return -1;
    value_width = c->hd;
    if (gguf_get_int(g, key_of(c, "attention.value_length"), 1, 65536, &value_width, e)) return -1;
    if (value_width != c->hd)
        return fail(e, "%s: heads of %lld for keys and %lld for values are not supported", g->name,
                    (long long)c->hd, (long long)value_width);

    const char *eps_key = c->layer_norm ? "attention.layer_norm_epsilon"
                                        : "attention.layer_norm_rms_epsilon";
    if (!gguf_kv(g, key_of(c, eps_key)))
        return fail(e, "%s: key %s is missing", g->name, key_of(c, eps_key));
    bool rotary = c->rope_base > 0, causal = !c->encoder;
    c->rope_dims = rotary ? c->hd : 0;
    if (gguf_get_float(g, key_of(c, eps_key), &eps, e) ||
        (rotary && (gguf_get_float(g, key_of(c, "rope.freq_base"), &c->rope_base, e) ||
                    gguf_get_int(g, key_of(c, "rope.dimension_count"), 2, c->hd, &c->rope_dims, e))) ||
        gguf_get_bool(g, key_of(c, "attention.causal"), &causal, e) || read_activation(g, c, e) ||
        gguf_get_int(g, key_of(c, "attention.sliding_window"), 0, INT32_MAX, &c->window, e) ||
        gguf_get_int(g, key_of(c, "expert_count"), 0, INT32_MAX, &experts, e) ||
        gguf_get_int(g, "tucker.version", 0, INT32_MAX, &version, e) || refuse_scaling(g, c, e))
        return -1;
    if (c->rope_dims % 2)
        return fail(e, "%s: %lld rotated numbers a head are not even", g->name, (long long)c->rope_dims);
    if (!(eps >= 0 && eps < 1) || (rotary && !(c->rope_base > 0 && c->rope_base < 1e12)))
        return fail(e, "%s: norm epsilon %g, rope base %g", g->name, eps, c->rope_base);
    if (causal == c->encoder)
        return fail(e, "%s: architecture %s with %s attention is not supported", g->name, c->arch,
                    causal ? "causal" : "bidirectional");
    if (experts) return fail(e, "%s: mixtures of experts are not supported", g->name);
    if (version != 1 && gguf_kv(g, "tucker.version"))
        return fail(e, "%s: tucker.version is %lld, this program reads 1", g->name, (long long)version);
    c->norm_eps = (float)eps;
    c->tucker = version == 1;

    Str pairs = {0};
    if (gguf_get_str(g, "tucker.rope_pairs", &pairs, e)) return -1;
    if (pairs.s && !str_is(pairs, "half") && !str_is(pairs, "interleaved"))
        return fail(e, "%s: tucker.rope_pairs is neither half nor interleaved", g->name);
    if (pairs.s) c->rope_half = str_is(pairs, "half");
    return 0;
}

// The name of a layer's tensor: blk.N.<part>.
static const char *layer_name(int64_t l, const char *part) {
    static _Thread_local char name[96];
    snprintf(name, sizeof name, "blk.%lld.%s", (long long)l, part);
    return name;
}

static int layer_vec(const Gguf *g, int64_t l, const char *part, int64_t n, bool needed,
                     const float **v, int64_t *bound, Err *e) {
    const char *name = layer_name(l, part);
    if (!needed && !gguf_has(g, name)) return 0;
    ++*bound;
    return gguf_vec(g, name, n, v, e);
}

// A norm over n numbers, "attn_norm": weights, and a bias where norms are LayerNorm.
static int layer_norm(const Gguf *g, const Config *c, int64_t l, const char *part, int64_t n, Norm *w,
                      int64_t *bound, Err *e) {
    char name[48];
    snprintf(name, sizeof name, "%s.weight", part);
    if (layer_vec(g, l, name, n, true, &w->w, bound, e)) return -1;
    snprintf(name, sizeof name, "%s.bias", part);
    return c->layer_norm ? layer_vec(g, l, name, n, true, &w->b, bound, e) : 0;
}

static int layer_mat(const Gguf *g, int64_t l, const char *part, int64_t rows, int64_t cols, Mat *w,
                     int64_t *bound, Err *e) {
    ++*bound;
    return gguf_mat(g, layer_name(l, part), rows, cols, w, e);
}

// A factor that is small and mixed in f32: U_head, U_kind.
static int layer_f32(const Gguf *g, int64_t l, const char *part, int64_t rows, int64_t cols, Mat *w,
                     int64_t *bound, Err *e) {
    if (layer_mat(g, l, part, rows, cols, w, bound, e)) return -1;
    if (w->type != T_F32 || (uintptr_t)w->data % sizeof(float))
        return fail(e, "%s: tensor %s is not aligned f32", g->name, layer_name(l, part));
    return 0;
}

// tucker.scheme's entry of a layer, "qkv+o", into groups: letters in order, none twice.
static int read_groups(Attention *a, Str scheme, const Gguf *g, int64_t l, Err *e) {
    static const char letters[] = "qkvo";
    int set = 0, seen = 0;
    for (size_t i = 0; i <= scheme.n; i++) {
        const char *p = i < scheme.n ? memchr(letters, scheme.s[i], 4) : NULL;
        int bit = p ? 1 << (p - letters) : 0;
        bool ends = i == scheme.n || scheme.s[i] == '+';
        if ((!p && !ends) || (ends && !set && scheme.n) || seen & bit || (bit && bit < set))
            return fail(e, "%s: layer %lld: tucker.scheme \"%.*s\" is not groups of q, k, v, o", g->name,
                        (long long)l, (int)(scheme.n < 20 ? scheme.n : 20), scheme.s);
        seen |= bit;
        set |= bit;
        if (!ends || !set) continue;
        for (int q = P_Q; q <= P_O; q++)
            if (set & 1 << q) a->group_of[q] = a->n_groups;
        a->groups[a->n_groups++].set = set;
        set = 0;
    }
    return 0;
}

// The pivots of a group, where it has them, and the inputs that are none.
static int bind_pivot(Group *t, const char *letters, const AttnShape *s, const Gguf *g, int64_t l,
                      int64_t *bound, Err *e) {
    char part[64];
    snprintf(part, sizeof part, "attn_tucker_%s_pivot", letters);
    const char *name = layer_name(l, part);
    if (!gguf_has(g, name)) return 0;
    ++*bound;
    if ((t->set & HAS_O && t->set != HAS_O) || t->r_embd == s->d || t->r_head < s->hd ||
        t->r_kind < t->kinds)
        return fail(e, "%s: tensor %s: a group of ranks %lld, %lld, %lld that cannot be pivoted: it needs "
                    "r_embd < %lld, full ranks %lld, %lld beside it, and no O among others", g->name, name,
                    (long long)t->r_embd, (long long)t->r_head, (long long)t->r_kind, (long long)s->d,
                    (long long)s->hd, (long long)t->kinds);
    if (gguf_ints(g, name, t->r_embd, &t->pivot, e)) return -1;
    int32_t *rest = alloc((size_t)(s->d - t->r_embd), sizeof *rest, "inputs beside the pivots", e);
    if (!rest) return -1;
    t->rest = rest;
    for (int64_t k = 0, next = 0; k <= t->r_embd; k++, next++) {
        int64_t pivot = k < t->r_embd ? t->pivot[k] : s->d, last = s->d - t->r_embd + k;
        if (pivot < next || pivot > last)            // r_embd - k of them have to find room below d
            return fail(e, "%s: tensor %s: [%lld] is %lld, expected %lld to %lld: ascending, below %lld",
                        g->name, name, (long long)k, (long long)pivot, (long long)next, (long long)last,
                        (long long)s->d);
        while (next < pivot) *rest++ = (int32_t)next++;
    }
    return 0;
}

static int bind_group(Attention *a, int i, const int64_t rank[3], const Gguf *g, int64_t l,
                      int64_t *bound, Err *e) {
    const AttnShape *s = &a->shape;
    Group *t = &a->groups[i];
    char name[8] = "", part[64];
    for (int p = P_Q, end = 0; p <= P_O; p++)
        if (t->set & 1 << p) name[end++] = "qkvo"[p];
    t->kinds = group_kinds(t->set, s->h / s->n_kv);
    t->r_embd = rank[0], t->r_head = rank[1], t->r_kind = rank[2];
    if (t->r_embd < 1 || t->r_embd > s->d || t->r_head < 1 || t->r_head > s->hd ||
        t->r_kind < 1 || t->r_kind > t->kinds)
        return fail(e, "%s: layer %lld: group %s has ranks %lld, %lld, %lld; sizes are %lld, %lld, %lld",
                    g->name, (long long)l, name, (long long)t->r_embd, (long long)t->r_head,
                    (long long)t->r_kind, (long long)s->d, (long long)s->hd, (long long)t->kinds);

    if (bind_pivot(t, name, s, g, l, bound, e)) return -1;
    int64_t wide_side = t->pivot ? s->d - t->r_embd : s->d;
    bool out = t->set == HAS_O;
    snprintf(part, sizeof part, "attn_tucker_%s_embd.weight", name);
    if (layer_mat(g, l, part, out ? wide_side : t->r_embd, out ? t->r_embd : wide_side, &t->embd,
                  bound, e))
        return -1;
    snprintf(part, sizeof part, "attn_tucker_%s_head.weight", name);
    if (t->r_head < s->hd && layer_f32(g, l, part, s->hd, t->r_head, &t->head, bound, e)) return -1;
    snprintf(part, sizeof part, "attn_tucker_%s_kind.weight", name);
    if (t->r_kind < t->kinds) {
        if (layer_f32(g, l, part, t->kinds, t->r_kind, &t->kind, bound, e)) return -1;
        snprintf(part, sizeof part, "attn_tucker_%s_core.weight", name);
        return layer_mat(g, l, part, t->r_kind * s->n_kv * t->r_head, t->r_embd, &t->core, bound, e);
    }
    for (int p = P_Q; p <= P_O; p++) {
        if (!(t->set & 1 << p)) continue;
        int64_t wide = (p == P_Q || p == P_O ? s->h : s->n_kv) * t->r_head;
        snprintf(part, sizeof part, "attn_tucker_%c_core.weight", "qkvo"[p]);
        if (layer_mat(g, l, part, p == P_O ? t->r_embd : wide, p == P_O ? wide : t->r_embd, &a->w[p],
                      bound, e))
            return -1;
    }
    return 0;
}

// Q, K and V of a dense file whose rows stand in one tensor, in this order.
static int bind_fused(Attention *a, const Config *c, const Gguf *g, int64_t l, int64_t *bound, Err *e) {
    const int64_t rows[] = {c->h * c->hd, c->n_kv * c->hd, c->n_kv * c->hd};
    const int64_t all = rows[P_Q] + rows[P_K] + rows[P_V];
    const float *bias = NULL;
    Mat w;
    if (layer_mat(g, l, "attn_qkv.weight", all, c->d, &w, bound, e) ||
        layer_vec(g, l, "attn_qkv.bias", all, c->biased, &bias, bound, e)) return -1;
    for (int64_t p = P_Q, at = 0; p <= P_V; at += rows[p++]) {
        a->w[p] = mat_rows(&w, at, rows[p]);
        if (bias) a->bias[p] = bias + at;
    }
    return 0;
}

static int bind_attention(Attention *a, const Config *c, const Gguf *g, int64_t l, int64_t *bound,
                          Err *e) {
    static const char *const weight[] = {"attn_q.weight", "attn_k.weight", "attn_v.weight",
                                         "attn_output.weight"};
    static const char *const bias[] = {"attn_q.bias", "attn_k.bias", "attn_v.bias", "attn_output.bias"};
    a->shape = (AttnShape){c->d, c->h, c->n_kv, c->hd};
    a->pass = c->qk_norm ? 0 : c->hd - c->rope_dims;
    for (int p = P_Q; p <= P_O; p++) a->group_of[p] = -1;

    const GgufKv *scheme = gguf_kv(g, "tucker.scheme"), *ranks = gguf_kv(g, "tucker.ranks");
    if (c->tucker) {
        if (!scheme || scheme->type != GGUF_ARR || scheme->item != GGUF_STR || !ranks ||
            ranks->type != GGUF_ARR || ranks->item != GGUF_I32 ||
            scheme->count != (uint64_t)c->n_layers || ranks->count != 12 * (uint64_t)c->n_layers)
            return fail(e, "%s: tucker.scheme and tucker.ranks are not 1 string and 12 numbers for each "
                        "of %lld layers", g->name, (long long)c->n_layers);
        if (read_groups(a, scheme->strings[l], g, l, e)) return -1;
    }
    bool fused = !c->tucker && gguf_has(g, layer_name(l, "attn_qkv.weight"));
    if (fused && bind_fused(a, c, g, l, bound, e)) return -1;
    for (int p = fused ? P_O : P_Q; p <= P_O; p++) {
        int64_t wide = (p == P_Q || p == P_O ? c->h : c->n_kv) * c->hd;
        if (a->group_of[p] < 0 && layer_mat(g, l, weight[p], p == P_O ? c->d : wide,
                                            p == P_O ? wide : c->d, &a->w[p], bound, e))
            return -1;
        if (layer_vec(g, l, bias[p], p == P_O ? c->d : wide, c->biased, &a->bias[p], bound, e)) return -1;
    }
    for (int i = 0; i < a->n_groups; i++) {
        int first = 0;
        while (a->group_of[first] != i) first++;
        int64_t rank[3];
        for (int r = 0; r < 3; r++) rank[r] = gguf_item_int(ranks, (uint64_t)(12 * l + 3 * first + r));
        for (int p = first; p <= P_O; p++)
            for (int r = 0; r < 3; r++)
                if (a->group_of[p] == i && gguf_item_int(ranks, (uint64_t)(12 * l + 3 * p + r)) != rank[r])
                    return fail(e, "%s: layer %lld: projections of one group differ in tucker.ranks",
                                g->name, (long long)l);
        if (bind_group(a, i, rank, g, l, bound, e)) return -1;
    }
    return 0;
}

// A matrix of the feed-forward, "ffn_gate": W, or, in a .tbin, two factors in its place. Biases stand
// where nothing gates.
static int layer_laser(const Gguf *g, const Config *c, int64_t l, const char *part, int64_t rows,
                       int64_t cols, LaserMat *m, int64_t *bound, Err *e) {
    char whole[32], in[32], out[32], bias[32];
    snprintf(whole, sizeof whole, "%s.weight", part);
    snprintf(in, sizeof in, "%s_laser_in.weight", part);
    snprintf(out, sizeof out, "%s_laser_out.weight", part);
    snprintf(bias, sizeof bias, "%s.bias", part);
    if (!c->gated && layer_vec(g, l, bias, rows, true, &m->bias, bound, e)) return -1;
    if (!gguf_has(g, layer_name(l, in)) && !gguf_has(g, layer_name(l, out)))
        return layer_mat(g, l, whole, rows, cols, &m->w, bound, e);
    if (!c->tucker || gguf_has(g, layer_name(l, whole)))
        return fail(e, "%s: layer %lld has factors of %s %s", g->name, (long long)l, part,
                    c->tucker ? "beside the matrix itself" : "but no tucker.version");
    if (layer_mat(g, l, in, -1, cols, &m->a, bound, e)) return -1;
    if (m->a.rows > rows || m->a.rows > cols)
        return fail(e, "%s: tensor %s: rank %lld of a matrix (%lld, %lld)", g->name, layer_name(l, in),
                    (long long)m->a.rows, (long long)rows, (long long)cols);
    return layer_mat(g, l, out, rows, m->a.rows, &m->w, bound, e);
}

// A norm over the d numbers of a token that belongs to no layer.
static int bind_norm(const Gguf *g, const Config *c, const char *weight, const char *bias, Norm *w,
                     int64_t *bound, Err *e) {
    *bound += 1 + c->layer_norm;
    return gguf_vec(g, weight, c->d, &w->w, e) || (c->layer_norm && gguf_vec(g, bias, c->d, &w->b, e));
}

// What stands before the layers and behind them.
static int bind_ends(Model *m, const Gguf *g, int64_t *bound, Err *e) {
    Config *c = &m->config;
    const GgufTensor *embedding = gguf_tensor(g, "token_embd.weight");
    if (!embedding || embedding->ne[1] > INT32_MAX)
        return fail(e, "%s: tensor token_embd.weight is missing", g->name);
    c->vocab = embedding->ne[1];
    bool learned = !c->rope_dims, scaled = c->rope_dims && gguf_has(g, "rope_freqs.weight");
    bool types = c->encoder && gguf_has(g, "token_types.weight");
    *bound += 1 + learned + scaled + types;
    if (gguf_mat(g, "token_embd.weight", c->vocab, c->d, &m->embedding, e) ||
        (learned && gguf_mat(g, "position_embd.weight", c->context, c->d, &m->positions, e)) ||
        (types && gguf_mat(g, "token_types.weight", -1, c->d, &m->types, e)) ||
        (scaled && gguf_vec(g, "rope_freqs.weight", c->rope_dims / 2, &m->rope_factors, e)) ||
        (c->encoder && bind_norm(g, c, "token_embd_norm.weight", "token_embd_norm.bias", &m->embd_norm,
                                 bound, e)))
        return -1;
    for (int64_t i = 0; scaled && i < c->rope_dims / 2; i++)
        if (!(m->rope_factors[i] > 0)) return fail(e, "%s: rope_freqs.weight[%lld] is %g", g->name,
                                                   (long long)i, (double)m->rope_factors[i]);

    // The head: of decoders a norm and a matrix; of encoders, where there is one, a layer more.
    bool mlm = gguf_has(g, "mlm_dense.weight"), tied = !gguf_has(g, "output.weight");
    if (c->encoder && !mlm) return 0;
    const char *bias = c->encoder ? "mlm_output.bias" : "output.bias";
    bool biased = c->encoder || gguf_has(g, bias);
    *bound += !tied + biased + 2 * c->encoder;
    if ((c->encoder && (gguf_mat(g, "mlm_dense.weight", c->d, c->d, &m->mlm.w, e) ||
                        gguf_vec(g, "mlm_dense.bias", c->d, &m->mlm.bias, e))) ||
        bind_norm(g, c, c->encoder ? "mlm_norm.weight" : "output_norm.weight",
                  c->encoder ? "mlm_norm.bias" : "output_norm.bias", &m->output_norm, bound, e) ||
        gguf_mat(g, tied ? "token_embd.weight" : "output.weight", c->vocab, c->d, &m->output, e) ||
        (biased && gguf_vec(g, bias, c->vocab, &m->output_bias, e))) return -1;
    return 0;
}

int model_bind(Model *m, const Gguf *g, Err *e) {
    memset(m, 0, sizeof *m);
    Config *c = &m->config;
    int64_t bound = 0;
    if (read_config(c, g, e) || bind_ends(m, g, &bound, e)) return -1;

    // A tensor a layer at least: so the file's own size bounds what is allocated here.
    if ((uint64_t)c->n_layers > g->n_tensors)
        return fail(e, "%s: %lld layers in a file of %llu tensors", g->name, (long long)c->n_layers,
                    (unsigned long long)g->n_tensors);
    if (!(m->layer = alloc((size_t)c->n_layers, sizeof *m->layer, "layers", e)) ||
        !(m->owned = alloc((size_t)c->n_layers, sizeof *m->owned, "layers", e)))
        goto failed;
    for (int64_t l = 0; l < c->n_layers; l++) {
        Layer *w = &m->layer[l];
        if (layer_norm(g, c, l, c->post_norm ? "attn_output_norm" : "attn_norm", c->d, &w->attn_norm,
                       &bound, e) ||
            bind_attention(&w->attn, c, g, l, &bound, e) ||
            attention_expand(&w->attn, &m->owned[l], e) ||
            (c->qk_norm && (layer_norm(g, c, l, "attn_q_norm", c->hd, &w->q_norm, &bound, e) ||
                            layer_norm(g, c, l, "attn_k_norm", c->hd, &w->k_norm, &bound, e))) ||
            (!c->parallel && layer_norm(g, c, l, c->post_norm ? "layer_output_norm" : "ffn_norm", c->d,
                                        &w->ffn_norm, &bound, e)) ||
            (c->gated && layer_laser(g, c, l, "ffn_gate", c->f, c->d, &w->gate, &bound, e)) ||
            layer_laser(g, c, l, "ffn_up", c->f, c->d, &w->up, &bound, e) ||
            layer_laser(g, c, l, "ffn_down", c->d, c->f, &w->down, &bound, e))
            goto failed;
    }
    if ((uint64_t)bound != g->n_tensors) {
        fail(e, "%s: %lld of its %llu tensors have no place in architecture %s: refused, for weights "
             "left out change what a model says", g->name, (long long)(g->n_tensors - (uint64_t)bound),
             (unsigned long long)g->n_tensors, c->arch);
        goto failed;
    }
    return 0;
failed:
    model_free(m);
    return -1;
}

void model_free(Model *m) {
    for (int64_t l = 0; m->owned && l < m->config.n_layers; l++) free(m->owned[l]);
    for (int64_t l = 0; m->layer && l < m->config.n_layers; l++)
        for (int i = 0; i < 4; i++) free((void *)m->layer[l].attn.groups[i].rest);
    free(m->owned);
    free(m->layer);
    memset(m, 0, sizeof *m);
}

// ==================================================================================================
// What it weighs
// ==================================================================================================

static double params_of(const Mat *w) {
    return w->type == T_I32 ? 0 : (double)w->rows * (double)w->cols;
}
static double bytes_of(const Mat *w) { return w->rows ? (double)mat_bytes(w) : 0; }

// A vector of n numbers, where there is one.
static double vec_of(const float *v, int64_t n, double (*of)(const Mat *)) {
    return v ? of(&(Mat){NULL, 1, n, T_F32}) : 0;
}
static double norm_of(Norm w, int64_t n, double (*of)(const Mat *)) {
    return vec_of(w.w, n, of) + vec_of(w.b, n, of);
}

static Parts parts(const Model *m, double (*of)(const Mat *)) {
    const Config *c = &m->config;
    Parts p = {.embedding = of(&m->embedding) + of(&m->positions) + of(&m->types)};
    p.output = of(&m->mlm.w) + (m->output.data == m->embedding.data ? 0 : of(&m->output));
    p.other = norm_of(m->embd_norm, c->d, of) + norm_of(m->output_norm, c->d, of) +
              vec_of(m->mlm.bias, c->d, of) + vec_of(m->output_bias, c->vocab, of) +
              vec_of(m->rope_factors, c->rope_dims / 2, of);
    for (int64_t l = 0; l < c->n_layers; l++) {
        const Layer *w = &m->layer[l];
        for (int i = P_Q; i <= P_O; i++) p.attention += of(&w->attn.w[i]);
        for (int i = 0; i < w->attn.n_groups; i++) {
            const Group *g = &w->attn.groups[i];
            p.attention += of(&g->embd) + of(&g->head) + of(&g->kind) + of(&g->core);
            if (g->pivot) p.attention += of(&(Mat){g->pivot, 1, g->r_embd, T_I32});
        }
        p.ffn += of(&w->gate.w) + of(&w->up.w) + of(&w->down.w);
        p.ffn += of(&w->gate.a) + of(&w->up.a) + of(&w->down.a);
        p.other += norm_of(w->attn_norm, c->d, of) + norm_of(w->ffn_norm, c->d, of) +
                   norm_of(w->q_norm, c->hd, of) + norm_of(w->k_norm, c->hd, of) +
                   vec_of(w->up.bias, c->f, of) + vec_of(w->down.bias, c->d, of);
        int64_t rows[] = {c->h * c->hd, c->n_kv * c->hd, c->n_kv * c->hd, c->d};
        for (int i = P_Q; i <= P_O; i++) p.other += vec_of(w->attn.bias[i], rows[i], of);
    }
    return p;
}

Parts model_bytes(const Model *m) { return parts(m, bytes_of); }
Parts model_params(const Model *m) { return parts(m, params_of); }

double model_step_bytes(const Model *m) {
    Parts p = model_bytes(m);
    return p.attention + p.ffn + p.other + bytes_of(&m->output) + bytes_of(&m->mlm.w);
}
