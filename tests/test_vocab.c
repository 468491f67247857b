// Tests of export/vocab: every published form against the published vectors, each form made small
// and by hand, what is refused and why, configuration files, broken files.
#include "../export/source.h"
#include "test.h"
#include "vectors.h"

#include <sys/stat.h>
#include <unistd.h>

// ---- published files ----------------------------------------------------------------------------

static int vectors(void) {
    static const struct { const char *file, *vectors; int n, bos, eos, eot; bool add_bos,
        add_eos; } all[] = {
        {"llama2/tokenizer.model", "llama-spm", 32000, 1, 2, -1, true, false},
        {"llama2/tokenizer.json", "llama-spm", 32000, 1, 2, -1, true, false},
        {"llama2/tokenizer.bin", "llama-spm", 32000, 1, 2, -1, true, false},
        {"llama3/tokenizer.model", "llama-bpe", 128256, 128000, 128001, 128009, true, false},
        {"gptj/tokenizer.json", "gpt-2", 50400, -1, 50256, -1, false, false},
        {"gptj/vocab.json", "gpt-2", 50400, -1, 50256, -1, false, false},
        {"roberta/tokenizer.json", "roberta-bpe", 50265, 0, 2, -1, true, true},
        {"roberta/vocab.json", "roberta-bpe", 50265, 0, 2, -1, true, true},
    };
    int skipped = 0;
    for (int i = 0; i < COUNT(all); i++) {
        char name[256];
        snprintf(name, sizeof name, "tokenizers/%s", all[i].file);
        const char *path = data_path(name);
        if (!path) { skipped++; continue; }
        Err e;
        Vocab v;
        CHECK(!vocab_read(&v, path, 0, &e), "%s", e.msg);
        CHECK(v.n == all[i].n, "%s: %d tokens, expected %d", path, v.n, all[i].n);
        CHECK(v.bos == all[i].bos && v.eos == all[i].eos && v.eot == all[i].eot,
            "%s: bos %d, eos %d, eot %d",
              path, v.bos, v.eos, v.eot);
        CHECK(v.add_bos == all[i].add_bos && v.add_eos == all[i].add_eos, "%s: adds %d %d", path,
            v.add_bos,
              v.add_eos);
        Tokenizer *t = tokenizer_new(&v, &e);
        CHECK(t, "%s: %s", path, e.msg);
        snprintf(name, sizeof name, "tokenizers/ggml-vocab-%s.gguf", all[i].vectors);
        int result = check_vectors(t, name, 1);
        tokenizer_free(t);
        vocab_free(&v);
        if (result == FAIL) return FAIL;
        skipped += result == SKIP;
    }
    return skipped ? SKIP : PASS;
}

// The same vectors once more, after a vocabulary has gone through GGUF's metadata.
static int vectors_through_gguf(void) {
    static const char *const files[][2] = {{"roberta/vocab.json", "roberta-bpe"}, {"gptj/vocab.json", "gpt-2"}};
    int result = PASS;
    for (int i = 0; i < COUNT(files) && result == PASS; i++) {
        char name[256];
        snprintf(name, sizeof name, "tokenizers/%s", files[i][0]);
        const char *path = data_path(name);
        if (!path) return SKIP;
        Err e;
        Vocab v, w;
        Gguf g;
        CHECK(!vocab_read(&v, path, 0, &e), "%s", e.msg);
        GgufBuilder *b = gguf_builder(&e);
        CHECK(b, "%s", e.msg);
        vocab_to_gguf(&v, b);
        CHECK(!gguf_build(b, path, &g, &e) && !vocab_from_gguf(&w, &g, &e), "%s", e.msg);
        CHECK(w.n == v.n && w.bos == v.bos && w.eos == v.eos && w.mask == v.mask && w.add_bos == v.add_bos &&
              w.add_eos == v.add_eos, "%s: bos %d, eos %d, mask %d", path, w.bos, w.eos, w.mask);
        Tokenizer *t = tokenizer_new(&w, &e);
        CHECK(t, "%s", e.msg);
        snprintf(name, sizeof name, "tokenizers/ggml-vocab-%s.gguf", files[i][1]);
        result = check_vectors(t, name, 1);
        CHECK(i || (w.mask == 50264 && w.strip[w.mask] == TOK_LSTRIP), "mask %d", w.mask);
        tokenizer_free(t);
        vocab_free(&w);
        gguf_free(&g);
        gguf_builder_free(b);
        vocab_free(&v);
    }
    return result;
}

static int encode_is(const Tokenizer *t, const char *text, const int *expected, size_t n) {
    int *ids;
    size_t n_ids;
    if (tokenizer_encode(t, text, strlen(text), true, true, &ids, &n_ids, NULL)) return 0;
    int same = n_ids == n && !memcmp(ids, expected, n * sizeof *ids);
    if (!same) for (size_t i = 0; i < n_ids; i++) printf("%s%d%s", i ? " " : "  got ", ids[i],
        i + 1 < n_ids ? "" : "\n");
    free(ids);
    return same;
}
#define ENCODES(t, text, ...) CHECK(encode_is(t, text, (int[]){__VA_ARGS__}, \
    sizeof (int[]){__VA_ARGS__} / sizeof(int)), \
                                    "'%s'", text)

static int special_tokens(void) {
    const char *llama3 = data_path("tokenizers/llama3/tokenizer.model");
    const char *roberta = data_path("tokenizers/roberta/tokenizer.json");
    const char *tok512 = data_path("models/tok512.bin");
    Err e;
    Vocab v;
    Tokenizer *t;
    if (!llama3 || !roberta || !tok512) return SKIP;
    CHECK(!vocab_read(&v, llama3, 0, &e) && (t = tokenizer_new(&v, &e)), "%s", e.msg);
    CHECK(tokenizer_id(t, "<|start_header_id|>") == 128006 &&
        tokenizer_id(t, "<|end_header_id|>") == 128007 &&
          tokenizer_id(t, "<|reserved_special_token_0|>") == 128002 &&
          tokenizer_id(t, "<|reserved_special_token_4|>") == 128008 &&
          tokenizer_id(t, "<|reserved_special_token_5|>") == 128010 &&
          tokenizer_id(t, "<|reserved_special_token_250|>") == 128255,
              "the tokens behind the ranks");
    CHECK(tokenizer_ends(t, 128001) && tokenizer_ends(t, 128009) && !tokenizer_ends(t, 128000),
        "ends");
    ENCODES(t, "<|start_header_id|>user<|end_header_id|>\n\n", 128006, 882, 128007, 271);
    tokenizer_free(t);
    vocab_free(&v);
    CHECK(!vocab_read(&v, roberta, 0, &e) && (t = tokenizer_new(&v, &e)), "%s", e.msg);
    ENCODES(t, "The capital is <mask>.", 133, 812, 16, 50264, 4);
    CHECK(v.strip[50264] == TOK_LSTRIP, "<mask> eats the space before it");
    tokenizer_free(t);
    vocab_free(&v);
    CHECK(!vocab_read(&v, tok512, 600, &e) && (t = tokenizer_new(&v, &e)), "%s", e.msg);
    CHECK(v.n == 600 && v.type[511] == TOK_NORMAL && v.type[512] == TOK_UNUSED &&
        str_is(v.piece[599], "[PAD599]"),
          "filled up to the embedding's rows");
    ENCODES(t, "Once upon a time", 403, 407, 261, 378);
    tokenizer_free(t);
    vocab_free(&v);
    CHECK(vocab_read(&v, tok512, 500, &e) && strstr(e.msg,
        "512 tokens, but the embedding has 500 rows"), "%s", e.msg);
    return PASS;
}

// ---- files made here ----------------------------------------------------------------------------

static char folder[64], file_path[128];

static const char *put(const char *name, const void *data, size_t n) {
    if (!*folder) {
        strcpy(folder, "/tmp/tensorllm-vocab-XXXXXX");
        if (!mkdtemp(folder)) abort();
    }
    snprintf(file_path, sizeof file_path, "%s/%s", folder, name);
    FILE *f = fopen(file_path, "wb");
    if (!f || fwrite(data, 1, n, f) != n || fclose(f)) abort();
    return file_path;
}
static const char *put_text(const char *name, const char *text) { return put(name, text,
    strlen(text)); }

static void clear(void) {
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tokenizer.bin",
        "vocab.json", "vocab.txt",
        "merges.txt", "added_tokens.json", "tokenizer_config.json", "special_tokens_map.json",
        "generation_config.json", "chat_template.jinja"};
    char path[128];
    for (int i = 0; i < COUNT(names) && *folder; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    if (*folder) rmdir(folder);
    *folder = 0;
}

#define MERGES_A "[\"a b\", [\"ab\", \"c\"]]"
#define VOCAB_A "{\"a\": 0, \"b\": 1, \"c\": 2, \"ab\": 3, \"abc\": 4, \"\\u0120\": 5}"
#define ADDED_A "[{\"id\": 6, \"content\": \"<s>\", \"special\": true, \"rstrip\": true}, " \
                " {\"id\": 8, \"content\": \"<u>\", \"special\": false}]"
#define MODEL_A "{\"type\": \"BPE\", \"ignore_merges\": true, \"vocab\": " VOCAB_A ", \"merges\": " MERGES_A "}"
#define LEVEL(own) "{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": " own "}"
#define SPLIT(regex) "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Split\", \"pattern\": {\"Regex\": \"" \
    regex "\"}, \"behavior\": \"Isolated\", \"invert\": false}, " LEVEL("false") "]}"
#define MODERN_JSON(digits) "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}" digits \
    "| ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+"

static const char *json(const char *model, const char *pre, const char *normalizer,
    const char *post) {
    static char text[1 << 14];
    snprintf(text, sizeof text,
        "{\"version\": \"1.0\", \"added_tokens\": " ADDED_A ", \"normalizer\": %s, "
             "\"pre_tokenizer\": %s, \"post_processor\": %s, \"model\": %s}", normalizer, pre,
                 post, model);
    return put_text("tokenizer.json", text);
}

static int byte_level_json(void) {
    static const struct { const char *pre; PreTokenizer expected; } pres[] = {
        {LEVEL("true"), PRE_GPT2},
        {"{\"type\": \"ByteLevel\", \"add_prefix_space\": false}", PRE_GPT2},
        {"{\"type\": \"Sequence\", \"pretokenizers\": [" LEVEL("true") "]}", PRE_GPT2},
        {SPLIT(MODERN_JSON("{1,3}")), PRE_LLAMA3}, {SPLIT(MODERN_JSON("")), PRE_QWEN2},
        {SPLIT("'s|'t|'re|'ve|'m|'ll|'d| ?\\\\p{L}+| ?\\\\p{N}+| ?[^\\\\s\\\\p{L}\\\\p{N}]+|\\\\s+(?!\\\\S)|\\\\s+"), PRE_GPT2},
        {"{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, "
         LEVEL("true") "]}", PRE_SMOLLM},
    };
    Err e;
    Vocab v;
    for (int i = 0; i < COUNT(pres); i++) {
        const char *path = json(MODEL_A, pres[i].pre, i ? "null" : "{\"type\": \"NFC\"}", "null");
        CHECK(!vocab_read(&v, path, 12, &e), "%s", e.msg);
        CHECK(v.pre == pres[i].expected, "case %d: %s", i, pre_name(v.pre));
        CHECK(v.kind == VOCAB_BPE && v.n == 12 && v.n_merges == 2 && v.ignore_merges, "%d tokens",
            v.n);
        CHECK(str_is(v.merge[0], "a b") && str_is(v.merge[1], "ab c"), "merges");
        CHECK(v.type[4] == TOK_NORMAL && v.type[6] == TOK_CONTROL && v.type[7] == TOK_UNUSED &&
              v.type[8] == TOK_USER && v.type[11] == TOK_UNUSED, "types");
        CHECK(v.strip[6] == TOK_RSTRIP && str_is(v.piece[7], "[PAD7]") && v.bos == 6 &&
            v.eos == -1, "bos %d", v.bos);
        vocab_free(&v);
    }
    CHECK(!vocab_read(&v, json(MODEL_A, "{\"type\": \"ByteLevel\"}", "null", "null"), 0, &e), "%s", e.msg);
    CHECK(v.add_space_prefix, "a prefix is ByteLevel's default");
    vocab_free(&v);
    const char *post = "{\"type\": \"Sequence\", \"processors\": [{\"type\": \"ByteLevel\"}, {\"type\": \"TemplateProcessing\", "
        "\"single\": [{\"SpecialToken\": {\"id\": \"<s>\", \"type_id\": 0}}, {\"Sequence\": {\"id\": \"A\"}}, "
        "{\"SpecialToken\": {\"id\": \"<u>\"}}]}]}";
    CHECK(!vocab_read(&v, json(MODEL_A, LEVEL("true"), "null", post), 0, &e), "%s", e.msg);
    CHECK(v.n == 9 && v.bos == 6 && v.eos == 8 && v.add_bos && v.add_eos, "bos %d, eos %d", v.bos,
        v.eos);
    vocab_free(&v);
    clear();
    return PASS;
}

#define MODEL_B "{\"type\": \"BPE\", \"byte_fallback\": true, \"unk_token\": \"<unk>\", \"vocab\": {\"<unk>\": 0, \"a\": 1, " \
    "\"b\": 2, \"\xE2\x96\x81\": 3, \"ab\": 4, \"\xE2\x96\x81" "a\": 5, \"<0x41>\": 7, \"ba\": 9}, " \
    "\"merges\": [\"a b\", \"\xE2\x96\x81 a\"]}"
#define SPACES(first) "{\"type\": \"Sequence\", \"normalizers\": [" first "{\"type\": \"Replace\", \"pattern\": " \
    "{\"String\": \" \"}, \"content\": \"\xE2\x96\x81\"}]}"
#define PREPEND "{\"type\": \"Prepend\", \"prepend\": \"\xE2\x96\x81\"}, "

static int sentencepiece_json(void) {
    static const struct { const char *pre, *normalizer; bool prefix; } cases[] = {
        {"null", SPACES(PREPEND), true}, {"null", SPACES(""), false},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"first\"}", "null", true},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"prepend_scheme\": \"never\"}", "null", false},
        {"{\"type\": \"Metaspace\", \"replacement\": \"\xE2\x96\x81\", \"add_prefix_space\": true}", "null", true},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        Err e;
        Vocab v;
        CHECK(!vocab_read(&v, json(MODEL_B, cases[i].pre, cases[i].normalizer, "null"), 0, &e),
            "%s", e.msg);
        CHECK(v.kind == VOCAB_SPM && v.add_space_prefix == cases[i].prefix && v.unk == 0,
            "case %d", i);
        CHECK(v.type[0] == TOK_UNKNOWN && v.type[7] == TOK_BYTE && v.type[6] == TOK_CONTROL,
            "types");
        CHECK(v.score[4] == 0 && v.score[5] == -1 && v.score[9] == -INFINITY, "scores %g %g %g",
            (double)v.score[4],
              (double)v.score[5], (double)v.score[9]);
        Tokenizer *t = tokenizer_new(&v, &e);
        CHECK(t, "%s", e.msg);
        if (cases[i].prefix) ENCODES(t, "a ba<s>ab", 5, 3, 2, 1, 6, 3, 4);
        else ENCODES(t, "a baA", 1, 3, 2, 1, 7);
        tokenizer_free(t);
        vocab_free(&v);
    }
    clear();
    return PASS;
}

static int refuses_json(void) {
    static const struct { const char *model, *pre, *normalizer, *says; } cases[] = {
        {"{\"type\": \"Unigram\", \"vocab\": []}", "null", "null", "'Unigram'"},
        {"{\"type\": \"WordPiece\", \"vocab\": []}", "null", "null", "model.vocab is expected"},
        {"{\"type\": \"WordPiece\", \"vocab\": {}}", "null", "null", "'<u>' with normalized"},
        {"{\"type\": \"WordLevel\", \"vocab\": {}}", "null", "null", "'WordLevel'"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}}", LEVEL("true"), "null", "model.merges"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [\"ab\"]}", LEVEL("true"), "null",
            "merge"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [[\"a\"]]}", LEVEL("true"),
            "null", "merge"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0}, \"merges\": [7]}", LEVEL("true"), "null",
            "merge"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 0, \"b\": 0}, \"merges\": []}", LEVEL("true"),
            "null", "two tokens"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": -1}, \"merges\": []}", LEVEL("true"), "null",
            "id -1"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 1.5}, \"merges\": []}", LEVEL("true"), "null",
            "no integer"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 9000000}, \"merges\": []}", LEVEL("true"), "null",
            "ids up to"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 1e30}, \"merges\": []}", LEVEL("true"), "null",
            "no integer"},
        {"{\"type\": \"BPE\", \"vocab\": {\"a\": 99999999999}, \"merges\": []}", LEVEL("true"),
            "null", "expected below"},
        {"{\"type\": \"BPE\", \"vocab\": [], \"merges\": []}", LEVEL("true"), "null",
            "model.vocab"},
        {"{\"end_of_word_suffix\": \"</w>\", \"vocab\": {\"a\": 0}, \"merges\": []}", "null",
            "null", "suffixes"},
        {MODEL_A, "null", "null", "pre_tokenizer"}, {MODEL_A, "{\"type\": \"Whitespace\"}", "null",
            "'Whitespace'"},
        {MODEL_A, "{\"type\": \"Sequence\", \"pretokenizers\": [{\"type\": \"Digits\", \"individual_digits\": true}, "
         "{\"type\": \"ByteLevel\", \"add_prefix_space\": true}]}", "null", "add_prefix_space"},
        {MODEL_A, SPLIT("\\\\d+"), "null", "\\d+"}, {MODEL_A, LEVEL("true"),
            "{\"type\": \"Lowercase\"}", "'Lowercase'"},
        {MODEL_B, "null", "null", "normalizer"}, {MODEL_B, "null", "{\"type\": \"NFKC\"}",
            "'NFKC'"},
        {MODEL_B, LEVEL("true"), SPACES(""), "'ByteLevel'"},
    };
    Err e;
    Vocab v;
    for (int i = 0; i < COUNT(cases); i++) {
        const char *path = json(cases[i].model, cases[i].pre, cases[i].normalizer, "null");
        CHECK(vocab_read(&v, path, 0, &e), "case %d (%s) is accepted", i, cases[i].says);
        CHECK(strstr(e.msg, cases[i].says) && strstr(e.msg, path),
            "case %d: '%s' should have said '%s'", i, e.msg,
              cases[i].says);
    }
    CHECK(vocab_read(&v, put_text("tokenizer.json", "{\"model\": {"), 0, &e),
        "half a file is accepted");
    CHECK(vocab_read(&v, put_text("tokenizer.json", "{}"), 0, &e) && strstr(e.msg, "merges.txt"),
        "%s", e.msg);
    CHECK(vocab_read(&v, put_text("tokenizer.json", ""), 0, &e), "an empty file is accepted");
    CHECK(vocab_read(&v, put_text("tokenizer.json", "what?"), 0, &e) &&
        strstr(e.msg, "known form"), "%s", e.msg);
    CHECK(vocab_read(&v, "nowhere/tokenizer.json", 0, &e), "a file that is not there");
    clear();
    return PASS;
}

// ---- WordPiece ----------------------------------------------------------------------------------

#define ADDED_W "[{\"id\": 0, \"content\": \"[UNK]\", \"special\": true, \"normalized\": false}, " \
    "{\"id\": 1, \"content\": \"[CLS]\", \"special\": true, \"normalized\": false}, " \
    "{\"id\": 2, \"content\": \"[SEP]\", \"special\": true, \"normalized\": false}, " \
    "{\"id\": 3, \"content\": \"[MASK]\", \"special\": true, \"normalized\": false}]"
#define VOCAB_W "{\"[UNK]\": 0, \"[CLS]\": 1, \"[SEP]\": 2, \"[MASK]\": 3, \"a\": 4, \"##b\": 5, \"B\": 6, " \
    "\"\u00e9\": 7, \"e\": 8, \"\": 9, \"##\": 10, \"b\": 11}"
#define MODEL_W(more) "{\"type\": \"WordPiece\", \"unk_token\": \"[UNK]\", \"vocab\": " VOCAB_W ", " more "}"
#define USUAL "\"continuing_subword_prefix\": \"##\", \"max_input_chars_per_word\": 100"
#define BERT(more) "{\"type\": \"BertNormalizer\", \"clean_text\": true, \"handle_chinese_chars\": true, " more "}"
#define BERT_PRE "{\"type\": \"BertPreTokenizer\"}"
#define TEMPLATE(before) "{\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"[CLS]\"}}, " \
    before "{\"Sequence\": {\"id\": \"A\"}}, {\"SpecialToken\": {\"id\": \"[SEP]\"}}]}"

static const char *json_w(const char *added, const char *model, const char *pre, const char *normalizer,
                          const char *post) {
    static char text[1 << 14];
    snprintf(text, sizeof text, "{\"added_tokens\": %s, \"normalizer\": %s, \"pre_tokenizer\": %s, "
             "\"post_processor\": %s, \"model\": %s}", added, normalizer, pre, post, model);
    return put_text("tokenizer.json", text);
}

static int wordpiece_json(void) {
    static const struct { const char *normalizer; WordRules rules; } cases[] = {
        {BERT("\"strip_accents\": null, \"lowercase\": true"), {true, true, true, true}},
        {BERT("\"strip_accents\": null, \"lowercase\": false"), {true, true, false, false}},
        {BERT("\"strip_accents\": true, \"lowercase\": false"), {true, true, true, false}},
        {BERT("\"strip_accents\": false, \"lowercase\": true"), {true, true, false, true}},
        {"{\"type\": \"BertNormalizer\", \"clean_text\": false, \"handle_chinese_chars\": false}",
         {false, false, true, true}},
    };
    static const char *const posts[] = {"null", TEMPLATE(""),
        "{\"type\": \"BertProcessing\", \"sep\": [\"[SEP]\", 2], \"cls\": [\"[CLS]\", 1]}"};
    for (int i = 0; i < COUNT(cases); i++) {
        Err e;
        Vocab v;
        CHECK(!vocab_read(&v, json_w(ADDED_W, MODEL_W(USUAL), BERT_PRE, cases[i].normalizer, posts[i % 3]), 14,
                          &e), "%s", e.msg);
        CHECK(v.kind == VOCAB_WPM && v.n == 14 && v.unk == 0 && v.bos == 1 && v.eos == 2 && v.mask == 3,
              "%d %d %d %d", v.unk, v.bos, v.eos, v.mask);
        CHECK(!memcmp(&v.rules, &cases[i].rules, sizeof v.rules), "case %d: rules", i);
        CHECK(v.add_bos == (i % 3 > 0) && v.add_eos == v.add_bos, "case %d: adds", i);
        CHECK(str_is(v.piece[3], "[MASK]") && str_is(v.piece[4], "\xE2\x96\x81" "a") && str_is(v.piece[5], "b") &&
              str_is(v.piece[9], "\xE2\x96\x81") && v.type[3] == TOK_CONTROL, "pieces");
        Tokenizer *t = tokenizer_new(&v, &e);
        CHECK(t, "%s", e.msg);
        if (i == 0) ENCODES(t, "aB [MASK] \xC3\xA9", 4, 5, 3, 8);
        if (i == 1) ENCODES(t, "ab B \xC3\xA9", 4, 5, 6, 7);
        if (i == 3) ENCODES(t, "B \xC3\x89", 11, 7);
        tokenizer_free(t);
        vocab_free(&v);
    }
    static const struct { const char *added, *model, *pre, *normalizer, *post, *says; } bad[] = {
        {ADDED_W, MODEL_W("\"max_input_chars_per_word\": 100"), BERT_PRE, BERT("\"x\": 1"), "null", "prefix"},
        {ADDED_W, MODEL_W("\"continuing_subword_prefix\": \"##\", \"max_input_chars_per_word\": 200"), BERT_PRE,
         BERT("\"x\": 1"), "null", "max_input_chars_per_word"},
        {ADDED_W, MODEL_W(USUAL), "null", BERT("\"x\": 1"), "null", "pre_tokenizer"},
        {ADDED_W, MODEL_W(USUAL), "{\"type\": \"Whitespace\"}", BERT("\"x\": 1"), "null", "'Whitespace'"},
        {ADDED_W, MODEL_W(USUAL), BERT_PRE, "null", "null", "normalizer"},
        {ADDED_W, MODEL_W(USUAL), BERT_PRE, "{\"type\": \"NFKC\"}", "null", "'NFKC'"},
        {ADDED_W, MODEL_W(USUAL), BERT_PRE, BERT("\"x\": 1"), "{\"type\": \"ByteLevel\"}", "'ByteLevel'"},
        {ADDED_W, MODEL_W(USUAL), BERT_PRE, BERT("\"x\": 1"), TEMPLATE("{\"SpecialToken\": {\"id\": \"[MASK]\"}}, "),
         "'TemplateProcessing'"},
        {"[{\"id\": 12, \"content\": \"new\", \"special\": true, \"single_word\": true}]", MODEL_W(USUAL), BERT_PRE,
         BERT("\"x\": 1"), "null", "single_word"},
        {"[]", "{\"type\": \"WordPiece\", " USUAL ", \"vocab\": {\"a\": 0}}", BERT_PRE, BERT("\"x\": 1"), "null",
         "unk_token"},
    };
    Err e;
    Vocab v;
    for (int i = 0; i < COUNT(bad); i++) {
        CHECK(vocab_read(&v, json_w(bad[i].added, bad[i].model, bad[i].pre, bad[i].normalizer, bad[i].post), 0,
                         &e) && strstr(e.msg, bad[i].says), "case %d: '%s' should have said '%s'", i, e.msg,
              bad[i].says);
    }
    clear();
    return PASS;
}

static int vocab_txt(void) {
    Err e;
    Vocab v;
    put_text("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\r\na\n##b\n\nB\n\xC3\xA9");
    CHECK(!vocab_read(&v, folder, 12, &e) && !vocab_read_config(&v, folder, &e), "%s", e.msg);
    CHECK(v.kind == VOCAB_WPM && v.n == 12 && v.unk == 1 && v.bos == 2 && v.eos == 3 && v.mask == 4 &&
          v.add_bos && v.add_eos && v.type[4] == TOK_CONTROL && v.type[10] == TOK_UNUSED, "bos %d", v.bos);
    CHECK(str_is(v.piece[4], "[MASK]") && str_is(v.piece[5], "\xE2\x96\x81" "a") && str_is(v.piece[6], "b"),
          "pieces");
    CHECK(v.rules.clean && v.rules.chinese && v.rules.strip_accents && v.rules.lower, "rules");
    vocab_free(&v);
    static const struct { const char *config; WordRules rules; } cases[] = {
        {"{\"do_lower_case\": false}", {true, true, false, false}},
        {"{\"do_lower_case\": false, \"strip_accents\": true}", {true, true, true, false}},
        {"{\"do_lower_case\": true, \"strip_accents\": null, \"tokenize_chinese_chars\": false, \"cls_token\": "
         "\"a\", \"sep_token\": {\"content\": \"B\"}}", {true, false, true, true}},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        put_text("tokenizer_config.json", cases[i].config);
        CHECK(!vocab_read(&v, folder, 0, &e) && !vocab_read_config(&v, folder, &e), "%s", e.msg);
        CHECK(!memcmp(&v.rules, &cases[i].rules, sizeof v.rules), "case %d: rules", i);
        if (i == 2) CHECK(v.bos == 5 && v.eos == 8 && str_is(v.piece[5], "a") && v.type[8] == TOK_CONTROL,
                          "bos %d, eos %d", v.bos, v.eos);
        vocab_free(&v);
    }
    CHECK(vocab_read(&v, put_text("vocab.txt", "a\nb\n"), 0, &e) && strstr(e.msg, "no [UNK]"), "%s", e.msg);
    CHECK(vocab_read(&v, put_text("vocab.txt", ""), 0, &e), "an empty file");
    clear();
    return PASS;
}

static int vocab_and_merges(void) {
    Err e;
    Vocab v;
    put_text("vocab.json",
        "{\"<s>\": 0, \"<pad>\": 1, \"</s>\": 2, \"a\": 3, \"b\": 4, \"ab\": 5, \"model\": 6, \"<mask>\": 7}");
    put_text("merges.txt", "#version: 0.2\na b\r\n\nx y\n");
    put_text("added_tokens.json", "{\"<new>\": 8}");
    CHECK(!vocab_read(&v, folder, 10, &e), "%s", e.msg);
    CHECK(v.n == 10 && v.n_merges == 2 && str_is(v.merge[0], "a b") && v.pre == PRE_GPT2,
        "%d merges", v.n_merges);
    CHECK(v.bos == 0 && v.eos == 2 && v.add_bos && v.add_eos && v.strip[7] == TOK_LSTRIP, "bos %d",
        v.bos);
    CHECK(v.type[1] == TOK_CONTROL && v.type[6] == TOK_NORMAL && v.type[8] == TOK_USER &&
        v.type[9] == TOK_UNUSED, "types");
    Tokenizer *t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    ENCODES(t, "ab<new> <mask>ba", 5, 8, 7, 4, 3);
    tokenizer_free(t);
    vocab_free(&v);
    put_text("tokenizer_config.json", "{\"add_prefix_space\": true}");
    CHECK(!vocab_read(&v, folder, 10, &e) && !vocab_read_config(&v, folder, &e), "%s", e.msg);
    CHECK(v.add_space_prefix && v.mask == 7, "mask %d", v.mask);
    vocab_free(&v);
    put_text("added_tokens.json", "{\"<new>\": \"8\"}");
    CHECK(vocab_read(&v, folder, 0, &e) && strstr(e.msg, "added_tokens.json"), "%s", e.msg);
    put_text("added_tokens.json", "{\"<far>\": 9999999}");
    CHECK(vocab_read(&v, folder, 0, &e) && strstr(e.msg, "8 tokens, but ids up to 9999999"), "%s", e.msg);
    clear();
    put_text("added_tokens.json", "{}");
    CHECK(vocab_read(&v, folder, 0, &e) && strstr(e.msg, "no tokenizer.json"), "%s", e.msg);
    clear();
    return PASS;
}

// ---- SentencePiece's protobuf -------------------------------------------------------------------

typedef struct { uint8_t byte[1 << 13]; size_t n; } Proto;

static void put_varint(Proto *p, uint64_t x) {
    for (; x > 127; x >>= 7) p->byte[p->n++] = (uint8_t)(x | 128);
    p->byte[p->n++] = (uint8_t)x;
}
static void put_int(Proto *p, int field, int64_t x) { put_varint(p, (uint64_t)field << 3);
    put_varint(p, (uint64_t)x); }
static void put_bytes(Proto *p, int field, const void *s, size_t n) {
    put_varint(p, (uint64_t)field << 3 | 2);
    put_varint(p, n);
    memcpy(p->byte + p->n, s, n);
    p->n += n;
}
static void put_piece(Proto *p, const char *text, float score, int type) {
    Proto m = {.n = 0};
    put_bytes(&m, 1, text, strlen(text));
    put_varint(&m, 2 << 3 | 5);
    memcpy(m.byte + m.n, &score, 4);
    m.n += 4;
    if (type != 1) put_int(&m, 3, type);
    put_bytes(p, 1, m.byte, m.n);
}

// What a model may have that ours has not; 0: as ours. type: of piece 260.
typedef struct { int model, no_prefix, squeeze, no_escape, suffix, bos,
    type; const char *map; } Options;

static void make_model(Proto *p, Options o) {
    Proto trainer = {.n = 0}, normalizer = {.n = 0};
    char name[8];
    p->n = 0;
    put_piece(p, "<unk>", 0, 2);
    put_piece(p, "<s>", 0, 3);
    put_piece(p, "</s>", 0, 3);
    for (int i = 0; i < 256; i++) {
        sprintf(name, "<0x%02X>", i);
        put_piece(p, name, 0, 6);
    }
    put_piece(p, "\xE2\x96\x81", -3, 1);     // 259
    put_piece(p, "a", -4, o.type ? o.type : 1);
    put_piece(p, "\xE2\x96\x81" "a", -1, 1);
    put_piece(p, "<user>", 0, 4);
    put_piece(p, "unused", 0, 5);
    put_int(&trainer, 3, o.model ? o.model : 2);
    put_int(&trainer, 24, o.suffix);
    put_int(&trainer, 41, o.bos ? o.bos : 1);
    put_varint(&trainer, 15 << 3 | 5);              // a float that says nothing here
    trainer.n += 4;
    put_varint(&trainer, 60 << 3 | 1);              // a double too
    trainer.n += 8;
    put_bytes(&normalizer, 1, "nmt_nfkc", 8);
    if (o.map) put_bytes(&normalizer, 2, o.map, strlen(o.map));
    put_int(&normalizer, 3, !o.no_prefix);
    put_int(&normalizer, 4, o.squeeze);
    put_int(&normalizer, 5, !o.no_escape);
    put_bytes(p, 2, trainer.byte, trainer.n);
    put_bytes(p, 3, normalizer.byte, normalizer.n);
}

static int sentencepiece(void) {
    static Proto p;
    Err e;
    Vocab v;
    make_model(&p, (Options){0});
    CHECK(!vocab_read(&v, put("tokenizer.model", p.byte, p.n), 300, &e), "%s", e.msg);
    CHECK(v.kind == VOCAB_SPM && v.n == 300 && v.bos == 1 && v.eos == 2 && v.unk == 0 &&
        v.add_bos && v.add_space_prefix,
          "bos %d, eos %d, unk %d", v.bos, v.eos, v.unk);
    CHECK(v.type[262] == TOK_USER && v.type[263] == TOK_UNUSED && v.type[264] == TOK_UNUSED &&
        v.type[3] == TOK_BYTE, "types");
    Tokenizer *t = tokenizer_new(&v, &e);
    CHECK(t, "%s", e.msg);
    ENCODES(t, "a<user>aB", 261, 262, 260, 3 + 'B');
    tokenizer_free(t);
    vocab_free(&v);
    make_model(&p, (Options){.bos = -1, .no_prefix = 1});
    CHECK(!vocab_read(&v, put("tokenizer.model", p.byte, p.n), 0, &e), "%s", e.msg);
    CHECK(v.bos == 1 && !v.add_space_prefix && v.n == 264, "bos %d", v.bos);    // by its name
    vocab_free(&v);

    const struct { Options o; const char *says; } cases[] = {
        {{.model = 1}, "unigram"}, {{.model = 3}, "word"}, {{.model = 77}, "type ?"},
        {{.map = "x"}, "'nmt_nfkc'"}, {{.squeeze = 1}, "remove_extra_whitespaces"},
        {{.no_escape = 1}, "escape_whitespaces"}, {{.suffix = 1}, "treat_whitespace_as_suffix"},
        {{.type = 9}, "piece 260"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        make_model(&p, cases[i].o);
        CHECK(vocab_read(&v, put("tokenizer.model", p.byte, p.n), 0, &e),
            "case %d (%s) is accepted", i, cases[i].says);
        CHECK(strstr(e.msg, cases[i].says), "case %d: '%s' should have said '%s'", i, e.msg,
            cases[i].says);
    }
    clear();
    return PASS;
}

// Reads a file's bytes as they may come: 1 when it is usable.
static int usable(const char *name, const void *data, size_t n) {
    Err e;
    Vocab v;
    if (vocab_read(&v, put(name, data, n), 0, &e)) return 0;
    Tokenizer *t = tokenizer_new(&v, &e);
    int *ids = NULL, ok = t != NULL;
    size_t n_ids;
    if (t && tokenizer_encode(t, "a<user> \xFF", 9, true, true, &ids, &n_ids, &e)) ok = 0;
    free(ids);
    tokenizer_free(t);
    vocab_free(&v);
    return ok;
}

static int broken_files(void) {
    static Proto p, q;
    make_model(&p, (Options){0});
    int good = 0, bad = 0;
    for (size_t i = 0; i < 8 * p.n; i += i < 200 || i > 8 * (p.n - 60) ? 1 : 161) {
        q = p;
        q.byte[i / 8] ^= (uint8_t)(1 << i % 8);
        *(usable("tokenizer.model", q.byte, q.n) ? &good : &bad) += 1;
    }
    CHECK(good > 100 && bad > 100, "%d usable, %d refused", good, bad);
    for (size_t n = 0; n < p.n; n += 1 + n / 9) usable("tokenizer.model", p.byte, n);

    // llama2.c: each length in turn made wrong, and the file cut everywhere
    static uint8_t bin[4096];
    size_t n = 4, at[300];
    for (int i = 0; i < 262; i++) {
        char piece[8] = "a ";
        float score = -(float)i;
        if (i >= 3 && i < 259) sprintf(piece, "<0x%02X>", i - 3);
        if (i > 259) sprintf(piece, i == 260 ? "b" : " b");
        int32_t len = (int32_t)strlen(piece);
        at[i] = n;
        memcpy(bin + n, &score, 4);
        memcpy(bin + n + 4, &len, 4);
        memcpy(bin + n + 8, piece, (size_t)len);
        n += 8 + (size_t)len;
    }
    CHECK(usable("tokenizer.bin", bin, n), "a good one is refused");
    for (size_t cut = 0; cut < n; cut += 29) usable("tokenizer.bin", bin, cut);
    for (int i = 0; i < 262; i += 5) {
        static const int32_t wrong[] = {-1, INT32_MIN, INT32_MAX, 4000};
        uint8_t copy[4096];
        memcpy(copy, bin, n);
        memcpy(copy + at[i] + 4, &wrong[i % 4], 4);
        CHECK(!usable("tokenizer.bin", copy, n), "piece %d of length %d is accepted", i,
            wrong[i % 4]);
    }

    // WordPiece: every bit of a small vocab.txt and of a tokenizer.json turned over
    static const char pieces[] = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n\xC3\xA9\n##\xCC\x81\n";
    char *json_text;
    size_t json_size;
    Err e;
    json_w(ADDED_W, MODEL_W(USUAL), BERT_PRE, BERT("\"x\": 1"), TEMPLATE(""));
    CHECK(!read_file(file_path, 1 << 20, &json_text, &json_size, &e), "%s", e.msg);
    for (int form = 0; form < 2; form++) {
        size_t size = form ? json_size : sizeof pieces - 1;
        const char *name = form ? "tokenizer.json" : "vocab.txt";
        char *text = malloc(size);
        CHECK(text, "memory");
        good = bad = 0;
        for (size_t i = 0; i < 8 * size; i++) {
            memcpy(text, form ? json_text : pieces, size);
            text[i / 8] ^= (char)(1 << i % 8);
            *(usable(name, text, size) ? &good : &bad) += 1;
        }
        for (size_t cut = 0; cut < size; cut++) usable(name, text, cut);
        free(text);
        CHECK(good > 50 && bad > 30, "%s: %d usable, %d refused", name, good, bad);
    }
    free(json_text);

    // tiktoken: not base64, not in order, not llama 3's
    static const char *const lines[] = {"IQ== 0\nIg== 1\n", "IQ== 0\nIg== 2\n", "I*== 0\n",
        "IQ== 0\nIg==\n", "IQ= 0\n",
        "IQ== 0\n==== 1\n", "IQ== 0\n 1\n", "IQ== 0\nIg== 99999999999999999999\n"};
    for (int i = 0; i < COUNT(lines); i++)
        CHECK(!usable("tokenizer.model", lines[i], strlen(lines[i])), "%s is accepted", lines[i]);
    clear();
    return PASS;
}

// ---- configuration files ------------------------------------------------------------------------

static Vocab config_vocab(void) {
    Vocab v;
    Err e;
    json("{\"vocab\": {\"a\": 0, \"b\": 1, \"c\": 2, \"<|im_start|>\": 3, \"<|end|>\": 4, \"x\": 5}, \"merges\": []}",
         LEVEL("true"), "null", "null");
    if (vocab_read(&v, folder, 0, &e)) abort();
    return v;
}

static int config(void) {
    Err e;
    Vocab v = config_vocab();
    CHECK(!vocab_read_config(&v, folder, &e) && v.bos == 6 && v.eos == -1 && !v.chat_template.n,
        "no files: %s", e.msg);
    vocab_free(&v);

    put_text("special_tokens_map.json",
        "{\"bos_token\": \"a\", \"eos_token\": {\"content\": \"b\", \"lstrip\": true}, "
             "\"additional_special_tokens\": [\"<|im_start|>\"], \"pad_token\": \"nowhere\"}");
    v = config_vocab();
    CHECK(!vocab_read_config(&v, folder, &e), "%s", e.msg);
    CHECK(v.bos == 0 && v.eos == 1 && v.type[0] == TOK_CONTROL && v.type[1] == TOK_CONTROL &&
        v.type[2] == TOK_NORMAL &&
          v.type[3] == TOK_CONTROL && v.strip[1] == TOK_LSTRIP, "bos %d, eos %d", v.bos, v.eos);
    vocab_free(&v);
    put_text("tokenizer_config.json", "{\"tokenizer_class\": \"RobertaTokenizer\", \"mask_token\": {\"content\": "
             "\"c\", \"lstrip\": true}}");
    v = config_vocab();
    CHECK(!vocab_read_config(&v, folder, &e), "%s", e.msg);
    CHECK(v.add_bos && v.add_eos && v.mask == 2 && v.strip[2] == TOK_LSTRIP, "mask %d", v.mask);
    vocab_free(&v);

    put_text("tokenizer_config.json",
        "{\"add_bos_token\": true, \"add_eos_token\": true, \"bos_token\": null, \"eos_token\": "
             "{\"content\": \"<|end|>\"}, \"chat_template\": [{\"name\": \"tool\", \"template\": \"T\"}, "
             "{\"name\": \"default\", \"template\": \"D\"}]}");
    put_text("generation_config.json", "{\"eos_token_id\": [4, 2, 1], \"zzz\": 5}");
    v = config_vocab();
    CHECK(!vocab_read_config(&v, folder, &e), "%s", e.msg);
    CHECK(v.bos == -1 && !v.add_bos && v.eos == 4 && v.add_eos && v.eot == 2,
        "bos %d, eos %d, eot %d", v.bos, v.eos, v.eot);
    CHECK(str_is(v.chat_template, "D"), "%.*s", (int)v.chat_template.n, v.chat_template.s);
    vocab_free(&v);

    put_text("tokenizer_config.json", "{\"chat_template\": \"C\"}");
    put_text("generation_config.json", "{\"eos_token_id\": 4, \"pad_token_id\": 2}");
    put_text("special_tokens_map.json", "{}");
    v = config_vocab();
    CHECK(!vocab_read_config(&v, folder, &e), "%s", e.msg);
    CHECK(v.eos == 4 && v.eot == -1 && v.bos == 6 && str_is(v.chat_template, "C"),
        "eos %d, eot %d", v.eos, v.eot);
    vocab_free(&v);

    put_text("chat_template.jinja", "{{ J }}\n");
    v = config_vocab();
    CHECK(!vocab_read_config(&v, folder, &e) && str_is(v.chat_template, "{{ J }}\n"), "%s", e.msg);
    vocab_free(&v);

    put_text("generation_config.json", "{\"eos_token_id\": 9}");
    v = config_vocab();
    CHECK(vocab_read_config(&v, folder, &e) && strstr(e.msg, "eos_token_id"), "%s", e.msg);
    vocab_free(&v);
    put_text("generation_config.json", "{\"eos_token_id\": null}");
    put_text("tokenizer_config.json", "{\"chat_template\": ");
    v = config_vocab();
    CHECK(vocab_read_config(&v, folder, &e) && strstr(e.msg, "tokenizer_config.json"), "%s", e.msg);
    vocab_free(&v);
    clear();
    return PASS;
}

static const Test tests[] = {
    {"vectors", vectors}, {"special_tokens", special_tokens}, {"byte_level_json", byte_level_json},
    {"sentencepiece_json", sentencepiece_json}, {"refuses_json", refuses_json},
    {"vocab_and_merges", vocab_and_merges}, {"vectors_through_gguf", vectors_through_gguf},
    {"wordpiece_json", wordpiece_json}, {"vocab_txt", vocab_txt},
    {"sentencepiece", sentencepiece}, {"broken_files", broken_files}, {"config", config},
};

int main(int argc, char **argv) { return run_tests("vocab", tests, COUNT(tests), argc, argv); }
