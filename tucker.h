// tucker: THE CHAPTER. One idea: the attention matrices of a layer, all heads together, are a
// tensor; store its Tucker core and factors, and compute attention with them as they are.
// Source: TensorLLM, arXiv 2501.15674. Takes dimensions as arguments; knows no models, no files.
// doc/MATH.md tells it from nothing, in the same order.
//
// Names.  d embedding width · h query heads · n_kv KV heads · m = h / n_kv · hd head width
//         W_Q (h*hd, d)  W_K, W_V (n_kv*hd, d)  W_O (d, h*hd)   row-major, y = W x
//         factors U_embd (d, r_embd)  U_head (hd, r_head)  U_kind (kinds, r_kind)   of ranks r_...
// From core/: Mat, a stored matrix (quant.h) · Cache, of one layer (attend.h) · Err (util.h). Functions of
// type int return 0, or -1 with a message in e: no memory, or what their comment names.
#ifndef TUCKER_H
#define TUCKER_H

#include "core/attend.h"

// ---- Part 1: the attention matrices as a tensor in Tucker's form ----------------------------------

// Projections that share one set of factors form a group, written as a `set` of bits or as letters, "qkv".
// Its tensor W[e, a, kind, g] is d x hd x kinds x n_kv: slice [:, :, kind, g] is one head's W^T (of O: its
// W). With multi-head attention the kinds of "qkvo" are Q, K, V, O: the paper's tensor. With grouped-query
// attention the m query heads of a KV head g are m kinds of their own, Q_1 … Q_m, K, V, O_1 … O_m, so that
// no K or V is ever repeated: kinds = 2m + 2.
enum { P_Q, P_K, P_V, P_O };       // a projection; its bit is 1 << P
enum { HAS_Q = 1, HAS_K = 2, HAS_V = 4, HAS_O = 8 };
enum { EMBD, HEAD, KIND, KV_HEAD };                    // the tensor's modes (axes): x1 multiplies EMBD, …

typedef struct { int64_t d, h, n_kv, hd; } AttnShape;

int64_t group_kinds(int set, int64_t m);               // number of kinds of the group
// Kind number of projection p's j-th head of a KV head (j < m for Q and O, else 0).
int64_t kind_index(int set, int64_t m, int p, int64_t j);
// t (d, hd, kinds, n_kv) from the matrices of the set (the others are not read), and back (not into NULL).
void tensorise(const AttnShape *s, int set, const float *const w[4], double *t);
void untensorise(const AttnShape *s, int set, const double *t, float *const w[4]);

// W ~ G x1 U_embd x2 U_head x3 U_kind, a tensor of n[0] x n[1] x n[2] x n[3] numbers and its parts. A KV
// head has a core of its own: its mode has no factor. Last axes are contiguous.
typedef struct {
    int64_t n[4];                  // sizes of W: d, hd, kinds, n_kv
    int64_t r[4];                  // sizes of G: r_embd, r_head, r_kind, n_kv
    double *u[4];                  // U_mode (n, r), orthonormal columns; NULL: the identity (r = n)
    double *core;                  // G (r[0], r[1], r[2], r[3])
} Tucker;

// out = t x_mode U: n[mode] becomes rows, out[.., i, ..] = sum_j U[i, j] t[.., j, ..].
// U is (rows, n[mode]), or with transposed = true stored as (n[mode], rows). out must not alias t.
void mode_product(const double *t, const int64_t n[4], int mode, const double *u, int64_t rows,
                  bool transposed, double *out);
// c (n[mode], n[mode]) = T_(mode) T_(mode)^T, the Gram matrix of the unfolding.
int mode_gram(const double *t, const int64_t n[4], int mode, double *c, Err *e);

// t of w (n[0], …, n[3]) by truncated higher-order SVD: each factor the r leading left singular vectors
// of an unfolding. A mode with r = n keeps the identity (u = NULL). Errors: r[mode] not in 1 .. n[mode];
// interrupted. t is freed by tucker_free, and empty after an error.
int tucker_hosvd(Tucker *t, const double *w, const int64_t n[4], const int64_t r[4], Err *e);
// The same, then alternating least squares (HOOI): at least 3 sweeps, at most max_sweeps, until one lowers
// the relative error by less than tol. With one truncated mode HOSVD is already optimal: no sweep is made.
int tucker_hooi(Tucker *t, const double *w, const int64_t n[4], const int64_t r[4], int max_sweeps,
                double tol, Err *e);
int tucker_reconstruct(const Tucker *t, double *w, Err *e);     // w (n[0], …, n[3])
// |W - W'| / |W| by the identity |W - W'|^2 = |W|^2 - |G|^2 (orthonormal factors); 0 for W = 0.
double tucker_error(const Tucker *t, const double *w);
void tucker_free(Tucker *t);

// The parts of a decomposed group as they are stored and run (see Group below). Each may be NULL.
//   embd      U_embd^T (r_embd, d); of the group "o" alone: U_embd (d, r_embd)
//   head      U_head (hd, r_head)
//   kind      U_kind (kinds, r_kind)
//   core[p]   where r_kind = kinds: M_i of every head i of projection p, slices of G. Of Q, K, V
//             (heads*r_head, r_embd), of O (r_embd, h*r_head)
//   mixed     else: G as its r_kind slices (n_kv*r_head, r_embd), one below the other, of which U_kind
//             mixes the M_i of each kind
void tucker_pack(const Tucker *t, const AttnShape *s, int set, float *embd, float *head,
                 float *kind, float *const core[4], float *mixed);

// Numbers stored of a group so, of a pivoted group (see Group; its indices not counted), and of the
// dense matrices that they replace.
int64_t group_params(const AttnShape *s, int set, int64_t r_embd, int64_t r_head, int64_t r_kind);
int64_t pivoted_params(const AttnShape *s, int set, int64_t r_embd);
int64_t dense_params(const AttnShape *s, int set);

// ---- Part 2: attention run on the factors --------------------------------------------------------

// What the projections of one group share. Mats are borrowed, in any stored type. Columns of U_head are
// orthonormal; nothing here needs that of U_embd and U_kind, so factors weighted by data run as well.
//
// Pivoted: L^-1 U_embd^T with the cores times L is the same layer. L, r_embd columns of U_embd^T, the pivots,
// makes these an identity, which is not stored; X is the other columns (doc/MATH.md, 7.4). With x_p (r_embd)
// the pivots of x and x_r (d - r_embd) the rest, both in ascending order,
//     q, k, v:  z = U_embd^T x = x_p + X x_r       "o" alone:  y = U_embd t is y_p = t, y_r = X t
// A pivoted group has neither U_head nor U_kind, and not O beside others.
typedef struct {
    int set;                       // HAS_… bits
    int64_t r_embd, r_head, r_kind, kinds;
    Mat embd;                      // U_embd^T (r_embd, d); of the group "o" alone: U_embd (d, r_embd)
                                   // pivoted: X (r_embd, d - r_embd); of "o": (d - r_embd, r_embd)
    const int32_t *pivot, *rest;   // (r_embd) and (d - r_embd), each ascending, together 0 … d-1;
                                   // NULL: not pivoted. pivot is borrowed, rest is the model's
    Mat head;                      // U_head (hd, r_head), F32; rows = 0: r_head = hd, U_head = I
    Mat kind;                      // U_kind (kinds, r_kind), F32; rows = 0: r_kind = kinds, U_kind = I
    Mat core;                      // where there is a U_kind, the mixed core (r_kind*n_kv*r_head, r_embd)
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
    int64_t pass;                  // how many of a head's hd numbers, the last ones, go from U_head M z to
                                   // the scores as they are: 0 where all are rotated (LLaMA) or normed
                                   // (qwen3), hd where positions are learned
    Mat expand[4];                 // of K and V, what makes them from latents: M (n_kv*r_head, r_embd)
} Attention;
// Sets a->expand where K (with pass > 0) and V are in a group: the stored cores, or, of a mixed core, M in
// new memory, handed over in *owned (else NULL) and freed by free().
int attention_expand(Attention *a, float **owned, Err *e);

// Buffers for n tokens of any of `count` layers, which stand at a, a + stride bytes, … Owned; freed by
// attention_work_free. max_cols: of the widest x that the caller gives to matmul with scratch.
typedef struct {
    int64_t n;
    float *z[4];                   // (n, r_embd) of each group: U_embd^T x; of O: sum_i M_i^O U_head^T o_i
    float *heads;                  // (n, heads, r_head): M z of q, k, v; o before U_head; U_head^T o. Or
                                   //    (h, n, r_embd): every head's weighted sum of latents
    float *slices;                 // (n, r_kind, n_kv, r_head) of mixed cores; or move_head's queries
    float *rest;                   // (n, d - r_embd) of each pivoted group: x_r; of O: y_r
    Scratch scratch;
    AttendScratch attend;
} AttentionWork;
int attention_work(AttentionWork *w, const Attention *a, size_t stride, int64_t count, int64_t n,
                   int64_t max_cols, Err *e);
void attention_work_free(AttentionWork *w);

// What a layer's cache holds for a position, K and V each in one of two forms. Latent rows
// z = U_embd^T x (r_embd) serve all heads at once; where K and V are in one group z is cached once.
//
//       dense                                         latent: where the projection is in a group
//   V   n_kv rows of hd; of r_head where U_head       z of V's group
//       cancels (V and O share it, V has no bias)
//   K   n_kv rows of hd, rotated; of r_head           z of K's group, and n_kv rows of the hd - pass
//       where pass = hd                               rotated numbers. Needs pass > 0
//
// A latent K is exact, and so is one of r_head: a product with what is not rotated may be taken on either
// side, and a bias of k adds q . b to the scores of all positions alike, which the softmax forgets:
//     q . (U_head M z + b) = (U_head^T q) . (M z) + q . b = (M^T U_head^T q) . z + q . b
// A latent V is exact: attention weights sum to 1, so that its bias is added to their sum.
//   auto    K and V each as costs least, by bytes + madds / 4, which fits what was measured (doc/SPEED.md)
//   latent  all that can be latent is; dense: nothing
typedef enum { CACHE_AUTO, CACHE_DENSE, CACHE_LATENT } CacheForm;
// The cache of that form for `capacity` positions, its sizes set, without memory (see cache_alloc).
Cache attention_cache(const Attention *a, int type, int64_t capacity, CacheForm form);

// The four steps of a layer, called in this order; the caller rotates q and k after the first.
//
// x (n, d), one row a token's normed input -> q (n, h, hd), k, v (n, n_kv, hd) with their biases; or r_head
// wide: k and v where the dense cache has them so, q where U_head cancels between it and k. What c
// caches as latents alone is not computed; latents stay in w until attention_out.
void attention_qkv(const Attention *a, AttentionWork *w, const Cache *c, const float *x, int64_t n,
                   float *q, float *k, float *v);
// Caches n positions from pos on: of k, now rotated, and v, or the latents in w. Tokens in flight may
// belong to several timelines, each with a cache of its own: these n stand from `row` on in k, v and w.
void attention_store(const Attention *a, const AttentionWork *w, Cache *c, int64_t pos, int64_t row,
                     int64_t n, const float *k, const float *v);
// o (n, h, hd) = softmax(q K^T / sqrt(hd)) V over the cache, where these n tokens, from `row` on in q and
// o, are positions pos … pos + n - 1. o is r_head wide where U_head cancels between V and O. window: how
// many positions a token sees, itself included; 0: all up to itself; SEE_ALL: later ones too.
enum { SEE_ALL = -1 };
void attention_mix(const Attention *a, AttentionWork *w, const Cache *c, const float *q, int64_t row,
                   int64_t n, int64_t pos, int64_t window, float *o);
// y (n, d) = W_O o + bias.
void attention_out(const Attention *a, AttentionWork *w, const float *o, int64_t n, float *y);

// The dense twin, by definition: W x, loops, no cache, no factors. x (n, d) -> y (n, d), causal
// attention over the n tokens, nothing rotated, no biases. w: Q, K, V, O in f32. y is left as it is when
// memory is out. For tests.
void attention_dense_twin(const AttnShape *s, const float *const w[4], const float *x, int64_t n,
                          float *y);

// ---- what it costs -------------------------------------------------------------------------------
typedef struct { double bytes, madds; } Cost;
// Of the weights, for one token with a dense cache: bytes read, multiply-adds.
Cost attention_cost(const Attention *a);
// Of one position in such a cache: bytes it takes, multiply-adds of each token that sees it.
Cost attention_cache_cost(const Attention *a, const Cache *c);

#endif
