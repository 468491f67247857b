// tucker: THE CHAPTER. One idea: the attention matrices of a layer, all heads together, are a
// tensor; store its Tucker core and factors, and compute attention with them as they are.
// Source: TensorLLM, arXiv 2501.15674. Takes dimensions as arguments; knows no models, no files.
// doc/MATH.md tells it from nothing, in the same order.
//
// Names.  d embedding width · h query heads · n_kv KV heads · m = h / n_kv · hd head width
//         W_Q (h*hd, d)  W_K, W_V (n_kv*hd, d)  W_O (d, h*hd)   row-major, y = W x
#ifndef TUCKER_H
#define TUCKER_H

#include "core/attend.h"

// ---- Part 1: a Tucker tensor ---------------------------------------------------------------------

// The four modes of an attention tensor, in this order. GROUP: a KV head and the query heads that read
// it; not to be taken for a Group of projections, which share factors.
enum { EMBD, HEAD, KIND, GROUP };

// W ~ G x1 U_embd x2 U_head x3 U_kind: a tensor n[0] x n[1] x n[2] x n[3] and what it is made of.
typedef struct {
    int64_t n[4];                  // d, hd, kinds, groups
    int64_t r[4];                  // r_embd, r_head, r_kind, groups
    double *u[4];                  // U_mode (n, r), orthonormal columns; NULL: the identity (r = n)
    double *g;                     // core (r[0], r[1], r[2], r[3]), last axis contiguous
} Tucker;

// out = t x_mode U: n[mode] becomes rows, out[.., i, ..] = sum_j U[i, j] t[.., j, ..].
// U is (rows, n[mode]), or with transposed = true stored as (n[mode], rows). out must not alias t.
void mode_product(const double *t, const int64_t n[4], int mode, const double *u, int64_t rows,
                  bool transposed, double *out);
// c (n[mode], n[mode]) = T_(mode) T_(mode)^T, the Gram matrix of the unfolding.
int mode_gram(const double *t, const int64_t n[4], int mode, double *c, Err *e);

// Truncated higher-order SVD: each factor the r leading left singular vectors of an unfolding.
// A mode with r = n keeps the identity (u = NULL). r[mode] in 1 .. n[mode], else -1.
int tucker_hosvd(Tucker *t, const double *w, const int64_t n[4], const int64_t r[4], Err *e);
// Alternating least squares from HOSVD until the relative error falls by less than tol in a sweep.
// With one truncated mode HOSVD is already optimal and no sweep is made.
int tucker_hooi(Tucker *t, const double *w, const int64_t n[4], const int64_t r[4], int max_sweeps,
                double tol, Err *e);
int tucker_reconstruct(const Tucker *t, double *w, Err *e);     // w (n[0], …, n[3])
// |W - W'| / |W| by the identity |W - W'|^2 = |W|^2 - |G|^2 (orthonormal factors); 0 for W = 0.
double tucker_error(const Tucker *t, const double *w);
void tucker_free(Tucker *t);

// ---- the attention tensor ------------------------------------------------------------------------
// Projections that share one set of factors form a group, written as a set of bits. Its tensor is
// d x hd x kinds x n_kv: slice [:, :, kind, g] is one head's W^T (of O: its W). With multi-head
// attention the kinds of "qkvo" are Q, K, V, O: the paper's tensor. With grouped-query attention
// the m query heads of a KV head are m kinds of their own, Q_1 … Q_m, K, V, O_1 … O_m, so that no
// K or V is ever repeated: kinds = 2m + 2.
enum { P_Q, P_K, P_V, P_O };       // a projection; its bit is 1 << P
enum { HAS_Q = 1, HAS_K = 2, HAS_V = 4, HAS_O = 8 };

typedef struct { int64_t d, h, n_kv, hd; } AttnShape;

int64_t group_kinds(int set, int64_t m);               // number of kinds of the group
// Kind number of projection p's j-th head in its KV group (j < m for Q and O, else 0).
int64_t kind_index(int set, int64_t m, int p, int64_t j);
// t (d, hd, kinds, n_kv) from the matrices of the set (the others are not read), and back.
void tensorise(const AttnShape *s, int set, const float *const w[4], double *t);
void untensorise(const AttnShape *s, int set, const double *t, float *const w[4]);

// The parts of a decomposed group in the layout that is stored and run (see Group below). Each
// output may be NULL. embd: U_embd^T (r_embd, d), or for set == HAS_O U_embd (d, r_embd).
// head (hd, r_head), kind (kinds, r_kind). core[p]: M of Q, K, V (heads*r_head, r_embd), of O
// (r_embd, h*r_head), when r_kind = kinds (U_kind is multiplied in); else `mixed`: G as
// (r_kind * n_kv * r_head, r_embd). A full r_head is multiplied into the cores in the same way.
void tucker_pack(const Tucker *t, const AttnShape *s, int set, float *embd, float *head,
                 float *kind, float *const core[4], float *mixed);

// Parameters of a group stored so, of a pivoted group (its indices not counted, see Group), and of
// the dense matrices that they replace.
int64_t group_params(const AttnShape *s, int set, int64_t r_embd, int64_t r_head, int64_t r_kind);
int64_t pivoted_params(const AttnShape *s, int set, int64_t r_embd);
int64_t dense_params(const AttnShape *s, int set);

// ---- Part 2: attention run on the factors --------------------------------------------------------

// What the projections of one group share. Mats are borrowed, in any stored type.
//
// An U_embd that need not be orthonormal may be stored pivoted: r_embd of the d inputs, the pivots,
// pass as they are, and only what the rest add to them is multiplied. With x_p (r_embd) the pivots of
// x and x_r (d - r_embd) the rest, both in ascending order,
//     q, k, v:  z = U_embd^T x = x_p + X x_r       "o" alone:  y = U_embd t is y_p = t, y_r = X t
// A pivoted group has neither U_head nor U_kind, and not O beside others.
typedef struct {
    int set;                       // HAS_… bits
    int64_t r_embd, r_head, r_kind, kinds;
    Mat embd;                      // U_embd^T (r_embd, d); of the group "o" alone: U_embd (d, r_embd)
                                   // pivoted: X (r_embd, d - r_embd); of "o": (d - r_embd, r_embd)
    const int32_t *pivot, *rest;   // (r_embd) and (d - r_embd), each ascending, together 0 … d-1;
                                   // NULL: not pivoted. The one borrowed, the other owned by the model
    Mat head;                      // U_head (hd, r_head); rows = 0: r_head = hd, in the cores
    Mat kind;                      // U_kind (kinds, r_kind), F32; rows = 0: r_kind = kinds, likewise
    Mat core;                      // G (r_kind * n_kv * r_head, r_embd), where there is a U_kind
} Group;

// One layer's attention matrices: each dense or on the factors of its group. The dense layer is the
// special case without groups; every mixture runs through the same lines.
typedef struct {
    AttnShape shape;
    Group groups[4];
    int n_groups;
    int group_of[4];               // of Q, K, V, O; -1: dense
    Mat w[4];                      // dense: W. In a group without U_kind: the cores M, of Q, K, V
                                   // (heads*r_head, r_embd), of O (r_embd, h*r_head)
    const float *bias[4];          // (rows of W), or NULL
    int64_t pass;                  // numbers of each head, the last ones, that no position rotates:
                                   // 0 of hd where all are (LLaMA), hd where positions are learned
    Mat expand[4];                 // of K and V: M (n_kv * r_head, r_embd): k, v of KV head g are z M_g^T
} Attention;
// Sets a->expand where K (with pass > 0) and V are in a group: the stored cores, or, where there is a
// U_kind, their mixtures in new memory, handed over in *owned (else NULL) and freed by free().
int attention_expand(Attention *a, float **owned, Err *e);

// Room for n tokens of any of `count` layers. Owned; freed by attention_work_free.
typedef struct {
    int64_t n;
    float *z[4], *t, *u;           // (n, r_embd) a group; two of (n, widest core)
    float *rest;                   // (n, widest d - r_embd): x_r or y_r of a pivoted group
    Scratch scratch;
    AttendScratch attend;
} AttentionWork;
int attention_work(AttentionWork *w, const Attention *a, size_t stride, int64_t count, int64_t n,
                   int64_t max_cols, Err *e);     // layers a, a + stride bytes, …
void attention_work_free(AttentionWork *w);

// What a layer's cache holds for a position. Latent rows z = U_embd^T x (r_embd numbers) serve all heads
// at once; where K and V are in one group they are the same z, cached once.
//         dense                                        latent: where K, where V is in a group
//   V     n_kv rows of hd, or of r_head where V        z of V's group
//         and O share U_head, which then cancels
//   K     n_kv rows of hd with positions applied, or   z of K's group, and n_kv rows of the hd - pass
//         of r_head where pass = hd                    rotated numbers. Needs pass > 0
// A latent K is exact, for a product with what is not rotated may be taken on either side, and a bias
// of k adds q . b to the scores of all positions alike, which the softmax forgets:
//     q . (U_head M z + b) = (M^T U_head^T q) . z + q . b
// (So is an r_head-wide K. A norm of every head's k, as qwen3's, would stand between: it needs pass = 0.)
// Weights of a mean sum to 1: a bias of v is added behind it.
//   auto    what is quickest by cost: bytes + madds / 4 is least (a core that streams 10 bytes from
//           memory does about 30 of attention's multiply-adds in the time, doc/SPEED.md)
//   latent  all that can be latent is; dense: nothing
typedef enum { CACHE_AUTO, CACHE_DENSE, CACHE_LATENT } CacheForm;
// The cache of that form with its sizes set, without memory (see cache_alloc).
Cache attention_cache(const Attention *a, int type, int64_t capacity, CacheForm form);

// x (n, d), one row a token's normed input -> q (n, h, hd), k (n, n_kv, hd) before positions, and
// v (n, n_kv, v_width of the dense cache). k and v are not computed where c needs latents only, which
// stay in w until attention_out; without positions q and k are r_head wide where the cache is.
void attention_qkv(const Attention *a, AttentionWork *w, const Cache *c, const float *x, int64_t n,
                   float *q, float *k, float *v);
// Tokens in flight may belong to several timelines, each with a cache of its own: n of them stand in
// rows `row` … of q, k, v, o and w. Caches n positions from pos on: of k, now with positions, and v, or
// of the latents in w.
void attention_store(const Attention *a, const AttentionWork *w, Cache *c, int64_t pos, int64_t row,
                     int64_t n, const float *k, const float *v);
// o (n, h, v_out) = softmax(q K^T / sqrt(hd)) V over the cache, whose last n positions are these
// tokens; v_out = v_width of the dense cache. From a latent, K or V is rebuilt when that is cheaper.
// window: positions that a token sees, itself included; 0: all before it; SEE_ALL: those behind too.
enum { SEE_ALL = -1 };
void attention_mix(const Attention *a, AttentionWork *w, const Cache *c, const float *q, int64_t row,
                   int64_t n, int64_t pos, int64_t window, float *o);
// y (n, d) = W_O o.
void attention_out(const Attention *a, AttentionWork *w, const float *o, int64_t n, float *y);

// The dense twin, by definition: W x, loops, no cache, no factors. x (n, d) -> y (n, d), full
// causal attention over the n tokens, no positions. w: Q, K, V, O as f32 matrices. For tests.
void attention_dense_twin(const AttnShape *s, const float *const w[4], const float *x, int64_t n,
                          float *y);

// ---- what it costs -------------------------------------------------------------------------------
typedef struct { double bytes, madds; } Cost;
Cost attention_cost(const Attention *a);       // weights read and used for one token, its cache dense
// Of one more position in such a cache: bytes held, and multiply-adds a new token.
Cost attention_cache_cost(const Attention *a, const Cache *c);

#endif
