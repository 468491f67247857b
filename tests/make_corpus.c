// Makes the seeds of tests/corpus that are not written by hand: small random models of every family, dense
// and on factors, the same as Hugging Face folders, a llama2.c checkpoint, tokenizers in binary forms.
//   make corpus          (from the top of the tree; the same bytes every time)
#include <math.h>
#include <sys/stat.h>

#include "../core/vocab.h"
#include "../export/families.h"
#include "rig.h"

static FILE *create(const char *target, const char *name) {
    char path[256];
    snprintf(path, sizeof path, "tests/corpus/%s", target);
    mkdir("tests/corpus", 0777);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "tests/corpus/%s/%s", target, name);
    FILE *f = fopen(path, "wb");
    if (!f) { perror(path); exit(1); }
    return f;
}

static void check(int status, const Err *e) {
    if (status) { fprintf(stderr, "%s\n", e->msg); exit(1); }
}

// ---- GGUF -----------------------------------------------------------------------------------------

enum { PIECES = 20 };

static void add_tokenizer(GgufBuilder *b, const char *model) {
    static const char *const spm[] = {"<unk>", "<s>", "</s>", "<0x41>", "\xE2\x96\x81", "\xE2\x96\x81t", "he",
                                      "t", "h", "e"};
    static const char *const bpe[] = {"t", "h", "e", "\xC4\xA0", "th", "the", "<|im_end|>", "1", "2", "12"};
    static const char *const wpm[] = {"[UNK]", "[CLS]", "[SEP]", "[MASK]", "\xE2\x96\x81the", "\xE2\x96\x81t",
                                      "he", "h", "e", "a"};
    const char *const *all = *model == 'l' ? spm : *model == 'g' ? bpe : wpm;
    Str piece[PIECES], merge[] = {{"t h", 3}, {"th e", 4}, {"1 2", 3}};
    float score[PIECES];
    int32_t type[PIECES];
    uint8_t strip[PIECES] = {0};
    for (int i = 0; i < PIECES; i++) {
        piece[i] = (Str){i < 10 ? all[i] : "x", i < 10 ? strlen(all[i]) : 1};
        score[i] = (float)-i;
        type[i] = strchr("<[", *piece[i].s) ? TOK_CONTROL : TOK_NORMAL;
    }
    if (all == spm) type[0] = TOK_UNKNOWN, type[3] = TOK_BYTE;
    gguf_set_str(b, "tokenizer.ggml.model", model, strlen(model));
    gguf_set_str(b, "tokenizer.ggml.pre", "llama-bpe", 9);
    gguf_set_strings(b, "tokenizer.ggml.tokens", piece, PIECES);
    gguf_set_array(b, "tokenizer.ggml.token_type", GGUF_I32, type, PIECES);
    if (all == spm) gguf_set_array(b, "tokenizer.ggml.scores", GGUF_F32, score, PIECES);
    if (all == bpe) gguf_set_strings(b, "tokenizer.ggml.merges", merge, 3);
    if (all != bpe) gguf_set_int(b, "tokenizer.ggml.unknown_token_id", GGUF_U32, 0);
    gguf_set_int(b, "tokenizer.ggml.bos_token_id", GGUF_U32, 1);
    gguf_set_int(b, "tokenizer.ggml.eos_token_id", GGUF_U32, 2);
    strip[3] = TOK_LSTRIP;
    if (all == wpm) gguf_set_array(b, "tucker.tokenizer.strip", GGUF_U8, strip, PIECES);
    if (all == wpm) gguf_set_int(b, "tokenizer.ggml.mask_token_id", GGUF_U32, 3);
    gguf_set_bool(b, "tokenizer.ggml.add_bos_token", true);
    gguf_set_str(b, "tokenizer.chat_template", "<|im_start|><|im_end|>", 22);
}

// The file of what is in the builder.
static void write_gguf(GgufBuilder *b, const char *name) {
    static uint8_t zeros[64];
    Err e = {""};
    Gguf g;
    FileOut o;
    char path[256];
    fclose(create("gguf", name));
    snprintf(path, sizeof path, "tests/corpus/gguf/%s", name);
    check(gguf_build(b, "seed", &g, &e) || out_open(&o, path, &e) || gguf_begin(b, &o, &e), &e);
    for (uint64_t i = 0; i < g.n_tensors; i++)
        check(gguf_put(b, &o, g.tensor[i].data ? g.tensor[i].data : zeros, g.tensor[i].size, &e), &e);
    check(gguf_end(b, &o, &e) || out_commit(&o, &e), &e);
    gguf_free(&g);
}

static void models(void) {
    static const struct { const char *name, *tokenizer; Rig rig; RigTucker t; } all[] = {
        {"llama", "llama", {"llama", NULL, 8, 2, 1, 4, 8, PIECES, 1, 16, true, false, true, 2, T_F32, 1}, {0}},
        {"wide", "llama", {"llama", NULL, 32, 2, 1, 16, 8, PIECES, 1, 64, false, true, false, 0, T_F16, 20}, {0}},
        {"llama_f16", "", {"llama", "half", 8, 2, 2, 4, 8, PIECES, 1, 16, false, true, false, 0, T_F16, 2}, {0}},
        {"llama_q8", "", {"llama", NULL, 32, 2, 1, 16, 32, PIECES, 1, 16, false, true, false, 0, T_Q8_0, 3}, {0}},
        {"llama_q4", "", {"llama", NULL, 32, 2, 1, 16, 32, PIECES, 1, 16, false, true, false, 0, T_Q4_0, 4}, {0}},
        {"llama_q41", "", {"llama", NULL, 32, 1, 1, 32, 32, PIECES, 1, 16, false, true, false, 0, T_Q4_1, 5}, {0}},
        {"qwen2", "gpt2", {"qwen2", NULL, 8, 2, 1, 4, 8, PIECES, 1, 16, true, false, false, 0, T_BF16, 6}, {0}},
        {"qwen3", "", {"qwen3", NULL, 8, 2, 2, 4, 8, PIECES, 1, 16, false, true, false, 0, T_F32, 7}, {0}},
        {"gptj", "", {"gptj", NULL, 8, 2, 2, 4, 8, PIECES, 1, 16, false, false, false, 0, T_F32, 8}, {0}},
        {"gpt2", "", {"gpt2", NULL, 8, 2, 2, 4, 8, PIECES, 1, 16, true, true, false, 0, T_F32, 9}, {0}},
        {"bert", "bert", {"bert", NULL, 8, 2, 2, 4, 8, PIECES, 1, 16, true, true, false, 0, T_F32, 10}, {0}},
        {"tucker", "", {"llama", "half", 8, 2, 1, 4, 8, PIECES, 2, 16, false, true, false, 0, T_F32, 11},
         {"qkvo", 5, 2, 2, false, 0, {0}}},
        {"tucker_split", "", {"llama", "half", 8, 2, 1, 4, 8, PIECES, 1, 16, true, true, false, 0, T_F16, 12},
         {"qkv+o", 5, 4, 4, false, 0, {2, 3, 2}}},
        {"tucker_pivot", "gpt2", {"qwen2", NULL, 8, 2, 2, 4, 8, PIECES, 1, 16, true, true, false, 0, T_F32, 13},
         {"qk+v+o", 5, 4, 2, false, 15, {0}}},
        {"tucker_gpt2", "", {"gpt2", NULL, 8, 2, 2, 4, 8, PIECES, 1, 16, true, true, false, 0, T_F32, 14},
         {"qk+v", 4, 3, 1, false, 0, {0}}},
        {"tucker_bert", "", {"bert", NULL, 8, 2, 2, 4, 8, PIECES, 1, 16, true, true, false, 0, T_F32, 15},
         {"qkv", 4, 3, 2, false, 0, {0}}},
    };
    for (int i = 0; i < COUNT(all); i++) {
        RigModel r;
        Err e = {""};
        char name[64];
        check(rig_build(&r, &all[i].rig, all[i].t.scheme ? &all[i].t : NULL, &e), &e);
        if (*all[i].tokenizer) add_tokenizer(r.b, all[i].tokenizer);
        snprintf(name, sizeof name, "%s.gguf", all[i].name);
        write_gguf(r.b, name);
        rig_free(&r);
    }
}

// Every type that is read, one a matrix, of bytes that are small numbers in each.
static void all_types(void) {
    static const struct { const char *name; int type, rows, cols; } all[] = {
        {"token_embd.weight", T_Q6_K, 4, 256}, {"blk.0.attn_q.weight", T_Q2_K, 4, 256},
        {"blk.0.attn_k.weight", T_Q3_K, 4, 256}, {"blk.0.attn_v.weight", T_Q4_K, 4, 256},
        {"blk.0.attn_output.weight", T_F16, 256, 4}, {"blk.0.ffn_gate.weight", T_Q5_K, 2, 256},
        {"blk.0.ffn_up.weight", T_Q5_0, 2, 256}, {"blk.0.ffn_down.weight", T_BF16, 256, 2},
        {"output.weight", T_Q5_1, 4, 256}, {"blk.0.attn_norm.weight", T_F32, 0, 256},
        {"blk.0.ffn_norm.weight", T_F32, 0, 256}, {"output_norm.weight", T_F32, 0, 256},
    };
    static uint8_t data[COUNT(all)][1 << 13];
    Err e = {""};
    GgufBuilder *b = gguf_builder(&e);
    const struct { const char *key; int v; } ints[] = {
        {"llama.embedding_length", 256}, {"llama.block_count", 1}, {"llama.feed_forward_length", 2},
        {"llama.context_length", 16}, {"llama.attention.head_count", 2}, {"llama.attention.head_count_kv", 2},
        {"llama.attention.key_length", 2}, {"llama.attention.value_length", 2}};
    gguf_set_str(b, "general.architecture", "llama", 5);
    for (int i = 0; i < COUNT(ints); i++) gguf_set_int(b, ints[i].key, GGUF_U32, ints[i].v);
    gguf_set_float(b, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    for (int i = 0; i < COUNT(all); i++) {
        for (size_t k = 0; k < sizeof *data; k++) data[i][k] = (uint8_t)(k % 2 ? 0x20 : k * 7);
        for (int k = 0; k < 256 && !all[i].rows; k++) ((float *)(void *)data[i])[k] = 1;
        const int64_t ne[4] = {all[i].cols, all[i].rows ? all[i].rows : 1, 1, 1};
        gguf_add(b, all[i].name, all[i].type, all[i].rows ? 2 : 1, ne, data[i]);
    }
    write_gguf(b, "all_types.gguf");
    gguf_builder_free(b);
}

// ---- Hugging Face folders -------------------------------------------------------------------------

static const char folder_tokenizer[] =
    "\n=== tokenizer.json\n"
    "{\"added_tokens\": [{\"id\": 9, \"content\": \"</s>\", \"special\": true, \"lstrip\": true}], \"normalizer\": null,"
    " \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false}, \"post_processor\": null,"
    " \"model\": {\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\\u0120\": 3, \"\\u0120a\": 4},"
    " \"merges\": [\"a b\", [\"\\u0120\", \"a\"]]}}"
    "\n=== tokenizer_config.json\n{\"eos_token\": \"</s>\", \"add_bos_token\": false, \"chat_template\": \"x\"}"
    "\n=== generation_config.json\n{\"eos_token_id\": [9, 8]}\n";

static void folders(void) {
    const int64_t size[N_SIZES] = {[D] = 8, [Q] = 8, [KV] = 4, [FF] = 12, [VOCAB] = 12, [HD] = 4, [QKV] = 24,
                                   [POSITIONS] = 16, [TYPES] = 2};
    for (int i = 0; i < n_families; i++) {
        const Family *f = &families[i];
        const Keys *k = f->keys;
        char name[80];
        const bool roberta = !strcmp(f->prefix, "roberta.");
        int64_t n[N_SIZES];
        memcpy(n, size, sizeof n);
        if (!k->kv) n[KV] = 8;
        if (roberta) n[POSITIONS] = 14;
        snprintf(name, sizeof name, "%s.txt", f->name);
        FILE *out = create("hf", name);
        fprintf(out, "=== config.json\n{\"architectures\": [\"%s\"], \"%s\": 8, \"%s\": 1, \"%s\": 2,", f->name,
            k->d, k->layers, k->heads);
        if (k->kv) fprintf(out, " \"%s\": 1, \"head_dim\": 4, \"rope_theta\": 50000.0,", k->kv);
        if (k->kv && i % 2)
            fprintf(out, " \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, "
                                    "\"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 8},");
        if (!strcmp(f->arch, "gptj")) fprintf(out, " \"rotary_dim\": 2,");
        fprintf(out, " \"%s\": 12, \"%s\": 16, \"vocab_size\": 12, \"type_vocab_size\": 2, \"%s\": 1e-5,", k->f,
            k->context, k->eps);
        fprintf(out, " \"sliding_window\": 8, \"tie_word_embeddings\": %s, \"bos_token_id\": 1}\n",
                f->tied ? "true" : "false");
        fprintf(out, "=== model.tensors\n");
        for (int part = 0; part < 3; part++)
            for (const Row *r = f->rows[part]; r && r->hf; r++) {
                const enum Need other = f->tied ? UNLESS_TIED : WHEN_TIED;
                if (r->need == IGNORED || r->need == OPTIONAL || r->need == other) continue;
                const char *at = r->hf, *type = r->cols ? "BF16" : "F32";
                if (*at == '@') fprintf(out, "%s", f->prefix), at++;
                for (; *at; at++) fputc(*at == '#' ? '0' : *at, out);
                int64_t rows = n[r->rows] + (r->form == CUT && roberta ? 2 : 0), cols = r->cols ? n[r->cols] : 0;
                if (r->form == TURNED) fprintf(out, " %s %d %d\n", type, (int)cols, (int)rows);
                else if (cols) fprintf(out, " %s %d %d\n", type, (int)rows, (int)cols);
                else fprintf(out, " %s %d\n", type, (int)rows);
            }
        fputs(folder_tokenizer, out);
        fclose(out);
    }
}

// ---- binary forms ---------------------------------------------------------------------------------

static void put_int(FILE *f, int32_t v) { fwrite(&v, 4, 1, f); }
static void put_float(FILE *f, float v) { fwrite(&v, 4, 1, f); }

static void llama2c(void) {
    for (int form = 0; form < 2; form++) {                // legacy, untied; version 1, tied
        FILE *f = create("llama2c", form ? "version1.bin" : "legacy.bin");
        const int32_t head[7] = {8, 8, 1, 2, 1, form ? 4 : -4, 8};
        if (form) put_int(f, 0x616b3432), put_int(f, 1);
        fwrite(head, sizeof head, 1, f);
        if (form) for (int i = 0; i < 256 - 8 - 28; i++) fputc(i == 0, f);
        int n = 4 * 8 + 8 + 64 + 32 + 32 + 64 + 8 + 3 * 64 + 8 + (form ? 0 : 2 * 8 * 2 + 4 * 8);
        for (int i = 0; i < n; i++) put_float(f, (float)(i % 7) / 8);
        fclose(f);
    }
}

static void tokenizers(void) {
    static const char *const pieces[] = {"<unk>", "<s>", "</s>", "<0x41>", " ", "t", "h", "e", "th", "the", " the"};
    static const char head[] = "=== tokenizer.bin\n";
    FILE *f = create("vocab", "llama2c_bin");
    fputs(head, f);
    put_int(f, 5);
    for (int i = 0; i < COUNT(pieces); i++) {
        put_float(f, (float)-i);
        put_int(f, (int32_t)strlen(pieces[i]));
        fputs(pieces[i], f);
    }
    fclose(f);
    // SentencePiece: pieces (1), each text (1), score (2), type (3); trainer (2) of model type BPE (3);
    // normalizer (3) with its prefix (3), squeeze (4) and escape (5).
    f = create("vocab", "sentencepiece");
    fputs("=== tokenizer.model\n", f);
    for (int i = 0; i < COUNT(pieces); i++) {
        char text[16];
        int type = i == 0 ? 2 : i < 3 ? 3 : i == 3 ? 6 : 1;
        snprintf(text, sizeof text, "%s%s", *pieces[i] == ' ' ? "\xE2\x96\x81" : "", pieces[i] + (*pieces[i] == ' '));
        int n = (int)strlen(text);
        fprintf(f, "\n%c\n%c%s\x15", n + 9, n, text);
        put_float(f, (float)-i);
        fprintf(f, "\x18%c", type);
    }
    fwrite("\x12\x02\x18\x02\x1a\x06\x18\x01\x20\0\x28\x01", 1, 12, f);
    fclose(f);
}

static void safetensors(void) {
    static const char *const all[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]},\"b\":{\"dtype\":\"BF16\",\"shape\":[4],"
        "\"data_offsets\":[24,32]},\"__metadata__\":{\"format\":\"pt\"}}   ",
        "{\"s\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},\"z\":{\"dtype\":\"F16\",\"shape\":[0,5],"
        "\"data_offsets\":[8,8]},\"f\":{\"dtype\":\"F4\",\"shape\":[48],\"data_offsets\":[8,32]}}",
        "{}",
    };
    for (int i = 0; i < COUNT(all); i++) {
        char name[32];
        uint64_t n = strlen(all[i]);
        snprintf(name, sizeof name, "%d.safetensors", i);
        FILE *f = create("safetensors", name);
        fwrite(&n, 8, 1, f);
        fwrite(all[i], 1, n, f);
        for (int k = 0; k < 32 && n > 2; k++) fputc(k, f);
        fclose(f);
    }
}

int main(void) {
    models();
    all_types();
    folders();
    llama2c();
    tokenizers();
    safetensors();
    return 0;
}
