// tools: the other things ./run does, one file each. Each prints its result on stdout and returns 0,
// or -1 with the reason in e.
#ifndef TOOLS_H
#define TOOLS_H

#include "../model.h"
#include "../tokenizer.h"
#include "../core/sampler.h"

// The compiler, for --version: clang's text names it, gcc's is a number.
#ifdef __clang__
#define COMPILER __VERSION__
#else
#define COMPILER "gcc " __VERSION__
#endif

typedef struct {
    const char *path;          // of the model file
    const Gguf *file;
    const Model *model;        // NULL for a file that is a vocabulary only
    const Vocab *vocab;
    Tokenizer *tokenizer;
} Loaded;

// eval.c. Perplexity of a text: windows of `window` ids that do not overlap, each beginning with BOS
// where the tokenizer adds one (BOS counts as one of the ids); the first id of a window is not
// scored. At most `windows` of them (0: all); a text shorter than one window is one window.
// Last line: perplexity: X +/- Y (N tokens), Y = X times the standard error of the mean log loss.
int tool_perplexity(const Loaded *l, const char *text_file, int64_t window, int64_t windows,
                    SessionConfig c, Err *e);

double token_loss(const float *logits, int64_t n, int id);   // -log p(id) under softmax, in nats

// tasks.c. Benchmark items (doc/EVALUATION.md): accuracy and loss with their standard errors, and of
// two models (n = 2) the paired difference, by McNemar's test. The result does not depend on threads.
typedef struct {
    const char *file, *out;    // JSON lines of items; where to write what became of each, or NULL
    int64_t limit;             // the first items only; 0: all
    int64_t new_tokens;        // to generate for an item that does not say; 0: 10
} TaskOptions;
int tool_tasks(const Loaded *models, int n, const TaskOptions *o, SessionConfig c, Err *e);

// info.c. Configuration, ranks, parameters and bytes by part, what a cached position weighs.
int tool_info(const Loaded *l, int kv_type, Err *e);
const char *scheme_of(const Attention *a, char out[16]);    // "qkv+o"; "dense"

// explain.c. One layer's attention (layer < 0: a factored one in the middle) drawn to scale, what a token
// costs in it, and, with a text (or NULL), what its heads look at. c.context: 0, or positions to count with.
int tool_explain(const Loaded *l, int64_t layer, const char *text, SessionConfig c, Err *e);

// tokens.c. Ids of a file ("-": stdin) on one line, without BOS; and back.
int tool_tokenize(const Loaded *l, const char *text_file, Err *e);
int tool_detokenize(const Loaded *l, const char *ids_file, Err *e);

// encode.c, for encoders; a text gets what the vocabulary puts around every one ([CLS] … [SEP]).
typedef struct { int *ids; int64_t n; } Text;
int read_ids(const Loaded *l, const char *text, size_t size, Text *to, Err *e);   // decoders: BOS .. as ./run
void largest(const float *p, int n, int *best, int k);      // ids of the k largest of n, largest first
// For every mask in the text the `top` likeliest pieces, a line each: probability, id, the piece in
// quotes, the text with it in place of the mask.
int tool_fill_mask(const Loaded *l, const char *text, int64_t top, SessionConfig c, Err *e);
// A text as one vector of length 1 (d numbers on a line): the mean of its tokens' final states, or the
// first one's. A text longer than the model's context is refused. Of a file: every line is a text.
typedef enum { POOL_MEAN, POOL_FIRST } Pooling;
int tool_embed(const Loaded *l, const char *text, Pooling p, SessionConfig c, Err *e);
int tool_embed_file(const Loaded *l, const char *file, Pooling p, SessionConfig c, Err *e);
// bench.c. Speed of this model here, `repeat` times each, medians: a prompt of 512 tokens, 128 decoded on
// an empty cache and 64 behind each of the depths, start-up, peak memory, and what the machine could do.
// c.context bounds the positions (0: what the model was trained for); what does not fit is left out.
enum { BENCH_REPEATS = 100 };  // at most
typedef struct {
    int64_t repeat;            // 1 .. BENCH_REPEATS
    const char *depths;        // ascending, "0,2048,8192"
    double fill_seconds;       // a cache is filled by computing for so long, beyond by random numbers
    bool json;                 // one object instead of a table; what was not measured is null
} BenchConfig;
int tool_bench(const Loaded *l, SessionConfig c, const BenchConfig *config, Err *e);
double median(double *x, int n);                            // sorts x; 0 for n = 0
int read_depths(const char *text, int64_t *depth, int most, Err *e);    // how many, or -1

enum { TEXT_LIMIT = 1 << 30 }; // bytes of a text that is read whole
int read_text(const char *path, char **text, size_t *n, Err *e);   // "-": stdin; tokens.c

#endif
