// Writes a model of LLaMA-2-7B's shape with random weights in Q4_0, 3.8 GB: for what must be true of a large
// file (offsets beyond 32 bits, memory, time, bytes a second), which random weights show as well as others.
// Blocks are written as they are drawn, nothing is held. The vocabulary is made up: bytes, and words w0, w1 ...
//   make_large FILE [layers]
#include "../core/vocab.h"
#include "test.h"

enum { D = 4096, HEADS = 32, F = 11008, VOCAB = 32000, CONTEXT = 4096, BLOCK = 18 };

static void check(bool failed, const Err *e) {
    if (!failed) return;
    fprintf(stderr, "make_large: %s\n", e->msg);
    exit(1);
}

static void add_tokenizer(GgufBuilder *b) {
    static char text[VOCAB][16];
    static Str piece[VOCAB];
    static float score[VOCAB];
    static int32_t type[VOCAB];
    for (int i = 0; i < VOCAB; i++) {
        if (i < 3) snprintf(text[i], sizeof *text, "%s", (const char *[]){"<unk>", "<s>", "</s>"}[i]);
        else if (i < 259) snprintf(text[i], sizeof *text, "<0x%02X>", i - 3);
        else snprintf(text[i], sizeof *text, "\xE2\x96\x81w%d", i - 259);
        piece[i] = (Str){text[i], strlen(text[i])};
        score[i] = (float)-i;
        type[i] = i == 0 ? TOK_UNKNOWN : i < 3 ? TOK_CONTROL : i < 259 ? TOK_BYTE : TOK_NORMAL;
    }
    gguf_set_str(b, "tokenizer.ggml.model", "llama", 5);
    gguf_set_strings(b, "tokenizer.ggml.tokens", piece, VOCAB);
    gguf_set_array(b, "tokenizer.ggml.scores", GGUF_F32, score, VOCAB);
    gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_I32, type, VOCAB);
    gguf_set_int(b, "tokenizer.ggml.bos_token_id", GGUF_U32, 1);
    gguf_set_int(b, "tokenizer.ggml.eos_token_id", GGUF_U32, 2);
    gguf_set_int(b, "tokenizer.ggml.unknown_token_id", GGUF_U32, 0);
}

// Calls add(rows, cols, name) for every tensor in the file's order; rows = 0: a norm.
typedef void Add(void *ctx, const char *name, int64_t rows, int64_t cols);
static void each_tensor(int layers, Add *add, void *ctx) {
    static const struct { const char *name; int64_t rows, cols; } of_layer[] = {
        {"attn_norm", 0, D}, {"attn_q", D, D}, {"attn_k", D, D}, {"attn_v", D, D}, {"attn_output", D, D},
        {"ffn_norm", 0, D}, {"ffn_gate", F, D}, {"ffn_up", F, D}, {"ffn_down", D, F}};
    char name[GGUF_MAX_NAME];
    add(ctx, "token_embd.weight", VOCAB, D);
    for (int l = 0; l < layers; l++)
        for (size_t i = 0; i < COUNT(of_layer); i++) {
            snprintf(name, sizeof name, "blk.%d.%s.weight", l, of_layer[i].name);
            add(ctx, name, of_layer[i].rows, of_layer[i].cols);
        }
    add(ctx, "output_norm.weight", 0, D);
    add(ctx, "output.weight", VOCAB, D);
}

static void declare(void *b, const char *name, int64_t rows, int64_t cols) {
    gguf_add(b, name, rows ? T_Q4_0 : T_F32, rows ? 2 : 1, (int64_t[4]){cols, rows ? rows : 1, 1, 1}, NULL);
}

typedef struct { GgufBuilder *b; FileOut out; uint64_t seed; } Writer;

// A block of Q4_0: numbers of -8 to 7 times a scale of either sign, so that their mean is nought, which
// leaves a row's product with its input about as large as the input's numbers.
static void write_tensor(void *ctx, const char *name, int64_t rows, int64_t cols) {
    static float ones[D];
    static uint8_t row[F / 32 * BLOCK];
    Writer *w = ctx;
    Err e = {""};
    (void)name;
    for (int i = 0; i < D; i++) ones[i] = 1;
    if (!rows) check(gguf_put(w->b, &w->out, ones, (size_t)cols * sizeof *ones, &e), &e);
    const uint16_t scale = f32_to_f16(1 / (4.6f * sqrtf((float)cols)));
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols / 32; c++) {
            const uint64_t bits[3] = {random_u64(&w->seed), random_u64(&w->seed), random_u64(&w->seed)};
            const uint16_t d = scale | (uint16_t)(bits[2] >> 48 & 0x8000);
            memcpy(row + c * BLOCK, &d, 2);
            memcpy(row + c * BLOCK + 2, bits, 16);
        }
        check(gguf_put(w->b, &w->out, row, (size_t)(cols / 32 * BLOCK), &e), &e);
    }
}

int main(int argc, char **argv) {
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: make_large FILE [layers]\n");
        return 1;
    }
    const int layers = argc > 2 ? atoi(argv[2]) : 32;
    Err e = {""};
    Writer w = {.b = gguf_builder(&e), .seed = 7};
    check(!w.b, &e);
    gguf_set_str(w.b, "general.architecture", "llama", 5);
    gguf_set_str(w.b, "general.name", "random weights", 14);
    static const struct { const char *key; int64_t value; } number[] = {
        {"llama.context_length", CONTEXT}, {"llama.embedding_length", D}, {"llama.feed_forward_length", F},
        {"llama.attention.head_count", HEADS}, {"llama.attention.head_count_kv", HEADS},
        {"llama.rope.dimension_count", D / HEADS}, {"llama.vocab_size", VOCAB}};
    for (size_t i = 0; i < COUNT(number); i++) gguf_set_int(w.b, number[i].key, GGUF_U32, number[i].value);
    gguf_set_int(w.b, "llama.block_count", GGUF_U32, layers);
    gguf_set_float(w.b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    gguf_set_float(w.b, "llama.rope.freq_base", 10000);
    add_tokenizer(w.b);
    each_tensor(layers, declare, w.b);
    check(out_open(&w.out, argv[1], &e), &e);
    check(gguf_begin(w.b, &w.out, &e), &e);
    each_tensor(layers, write_tensor, &w);
    check(gguf_end(w.b, &w.out, &e), &e);
    check(out_commit(&w.out, &e), &e);
    gguf_builder_free(w.b);
    return 0;
}
