// model: THE PAGE OF SHAPES. A transformer, decoder (LLaMA and its relatives, GPT-2, GPT-J) or encoder
// (BERT, RoBERTa), bound to the tensors of a GGUF or .tbin and run: one forward pass for one token and
// for many. Weights are borrowed from the mapping.
//
// Names.  d embedding width · h query heads · n_kv KV heads · hd head width · f feed-forward width
//         V vocabulary · T positions of the cache · n tokens in one call
// Matrices are row-major (rows, cols), last axis contiguous, y = W x; a Mat is one, in any stored type
// (core/quant.h). Functions of type int return 0, or -1 with a message in e.
#ifndef MODEL_H
#define MODEL_H

#include "tucker.h"
#include "core/gguf.h"

// What a family of models has in common is one row of a table in model.c.
typedef struct {
    char arch[32];             // "llama" (LLaMA 1-3, Mistral, SmolLM, TinyLlama), "qwen2", "qwen3", "gptj",
                               // "gpt2", "bert" (RoBERTa too)
    bool encoder;              // every token of a text sees every other; else those before it alone
    bool layer_norm;           // LayerNorm, with a bias; else RMSNorm
    bool post_norm;            // x = norm(x + attention(x)), then the feed-forward; else
                               // x = x + attention(norm(x)), then the feed-forward
    bool parallel;             // x = x + attention(norm(x)) + feed_forward(norm(x)), one norm for both
    bool qk_norm;              // RMSNorm of every head's q and k
    bool gated;                // feed-forward: silu(W_gate x) * W_up x; else act(W_up x + b)
    bool biased;               // Q, K, V and O must have biases; else they may
    Activation act;
    int64_t d, h, n_kv, hd, f, vocab;   // vocab: V
    int64_t n_layers;
    int64_t context;           // positions the model was trained for
    int64_t window;            // a token sees this many positions; 0: all
    float norm_eps;
    double rope_base;          // angle of pair i at position t: t / rope_scale * rope_base^(-2i/rope_dims)
    double rope_scale;         // > 1: linear scaling
    int64_t rope_dims;         // rotated numbers of each head, the first ones; 0: learned positions
    bool rope_half;            // pair i is (i, i + rope_dims/2); else (2i, 2i + 1)
    bool tucker;               // a .tbin
} Config;

// A matrix W (rows, cols) of the feed-forward, or two factors in its place, W = B A (LASER: a truncated SVD).
typedef struct {
    Mat w;                     // W, or B (rows, r)
    Mat a;                     // A (r, cols); rows = 0: w is W itself
    const float *bias;         // (rows), or NULL
} LaserMat;

typedef struct {
    Norm attn_norm;            // (d) of attention; Norm: weights and bias (core/kernels.h)
    Attention attn;            // W_Q (h*hd, d)  W_K, W_V (n_kv*hd, d)  W_O (d, h*hd), or their factors
    Norm q_norm, k_norm;       // (hd) with qk_norm
    Norm ffn_norm;             // (d) of the feed-forward; none where parallel
    LaserMat gate, up;         // (f, d); gate.w.rows = 0: not gated
    LaserMat down;             // (d, f)
} Layer;

typedef struct {
    Config config;
    Mat embedding;             // (V, d)
    Mat positions;             // (context, d) learned, added to the embedding; rows = 0: none
    Mat types;                 // (any, d) token types, of which row 0 is added; rows = 0: none
    Norm embd_norm;            // (d) of that sum (encoders)
    LaserMat mlm;              // (d, d) of a masked-LM head: x = act(W x + b) before output_norm
    Norm output_norm;          // (d) after the last layer
    Mat output;                // (V, d): the embedding again where tied; rows = 0: there is no head
    const float *output_bias;  // (V), or NULL
    const float *rope_factors; // (rope_dims / 2) divisors of the angles (llama 3 scaling), or NULL
    Layer *layer;              // (n_layers)
    float **owned;             // (n_layers) what attention_expand allocated (tucker.h), or NULL
} Model;

// Binds g, which must outlive the model. Every tensor's shape is checked; an architecture, a setting
// or a layer's tensor that this program does not compute is refused by name.
int model_bind(Model *m, const Gguf *g, Err *e);
void model_free(Model *m);
// Whether it has an output head; an encoder made for embeddings has none, and no logits.
bool model_predicts(const Model *m);

typedef struct {
    int64_t context;           // positions of the cache; 1 .. config.context
    int64_t batch;             // tokens computed together; 0: a default. Of an encoder: context
    int kv_type;               // T_F32, T_F16, T_Q8_0. Of an encoder: T_F32
    CacheForm form;            // what factored layers cache (tucker.h); CACHE_AUTO of an encoder: dense
    bool uniform;              // a token's numbers are the same bits alone and among others; else, of a few
                               // tokens, equal up to rounding, and quicker
} SessionConfig;

// When an observer is called, and what stands in the session's buffers then. For programs that study a
// model; a run has none.
//   SEEN_ATTENTION  of layer l: x its input, xn what attention reads, q and k with positions, v, o before W_O
//   SEEN_FFN        of layer l: x after attention, xn normed, gate = W_gate xn and up = W_up xn, or, not
//                   gated, gate = W_up xn
//   SEEN_END        x after the last layer (l = n_layers)
typedef enum { SEEN_ATTENTION, SEEN_FFN, SEEN_END } Seen;
typedef struct Session Session;
typedef void Observer(void *ctx, const Session *s, int64_t layer, Seen at, int64_t n);

// One timeline (a text that grows): its cache, and its room, the buffers of the tokens in flight. Both
// are owned; a model may have many sessions, and several may share one's room (session_beside).
struct Session {
    const Model *model;
    SessionConfig config;
    int64_t pos;               // positions filled
    int64_t n;                 // tokens of the last batch; their final hidden states stand in x
    Cache *cache;              // (n_layers)
    size_t cache_bytes;        // of all of them
    bool guest;                // the room, from here to work, belongs to another session
    int64_t *at;               // (batch) the position of each token
    float *angles;             // (T, rope_dims / 2, 2) cos, sin
    float *x, *xn, *y;         // (batch, d) residual stream, what a sublayer reads, its output
    float *q, *o;              // (batch, h*hd) queries, heads' outputs; narrower where U_head cancels
    float *k, *v;              // (batch, n_kv*hd) keys, values; likewise; not made where latents do
    float *gate, *up;          // (batch, f)
    float *low[2];             // (batch, widest r) A x of factored gate and up, or of down
    float *out;                // (max_logits, V) logits
    int64_t max_logits;        // how many logits() computes at once
    AttentionWork work;        // tucker.h's own buffers
    Observer *observer;        // NULL: none
    void *observer_ctx;
};

int session_init(Session *s, const Model *m, SessionConfig c, Err *e);
// One more timeline of host's model, as host is configured, computed in host's room; host outlives it.
int session_beside(Session *s, const Session *host, Err *e);
void session_free(Session *s);

// Decoders: computes n more tokens, whose final hidden states (n, d) then stand in x, and adds them to
// the cache. n <= batch, pos + n <= context, ids in 0 .. V-1, else -1.
int forward(Session *s, const int *ids, int64_t n, Err *e);
// forward for any number of tokens, batch by batch; stops early, with 0, when `interrupted` (core/util.h).
int prefill(Session *s, const int *ids, int64_t n, Err *e);
// forward for several timelines in one batch: the n tokens of strands[0], then those of strands[1], …
// are the rows of the room that all of them share (n in all <= batch). What comes of a timeline is what
// comes of it alone, to the bit where the session is uniform; the weights are read once for all.
typedef struct { Session *s; int64_t n; } Strand;
int forward_together(const Strand *strands, int64_t count, const int *ids, Err *e);
// Encoders: forward of a whole text (n <= context), every token seeing every other.
int encode(Session *s, const int *ids, int64_t n, Err *e);
// Logits (count, V), in s->out, of tokens first … first + count - 1 of the last forward or encode: of the
// token that follows; of encoders: of the one at that place. count <= max_logits; only where model_predicts.
float *logits(Session *s, int64_t first, int64_t count);

// forward and encode are embed_tokens, layer_forward for every layer, pos += n. These two check nothing.
// x (n, d): the embedding of the tokens, with learned positions, types and its norm where there are any.
void embed_tokens(const Strand *strands, int64_t count, const int *ids);
// One layer: adds its attention and its feed-forward to x and fills the caches from pos on, which stays.
// Afterwards gate holds what W_down read, y what it added to x.
void layer_forward(const Strand *strands, int64_t count, int64_t layer);
// Forgets positions from pos on: the timeline goes back.
void session_rewind(Session *s, int64_t pos);

typedef struct { double attention, ffn, embedding, output, other; } Parts;
Parts model_bytes(const Model *m);         // of the weights one token reads (of the embedding: all)
Parts model_params(const Model *m);        // stored weights; a tied output counts once, as embedding
double model_step_bytes(const Model *m);   // read by one decode step, without the cache

#endif
