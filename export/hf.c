// hf: a Hugging Face folder (config.json, *.safetensors, tokenizer files) as a GGUF index. A table
// a family (families.c) says which tensor becomes which and what shape it must have; every tensor of
// the files must be in it. Owns the mappings and what it had to convert; all matrices that need not be
// turned, and stand at an address of their type, borrow from the files.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../core/json.h"
#include "families.h"
#include "source.h"

enum { MAX_FILES = 1024, MAX_CONFIG = 1 << 20, MAX_INDEX = 1 << 27, PATH_SIZE = 4096 };

// ---- what is read -------------------------------------------------------------------------------

typedef struct {
    char config_path[PATH_SIZE], folder[PATH_SIZE];
    JsonDoc config, index;
    Safetensors file[MAX_FILES];
    char *file_name[MAX_FILES];
    bool *used[MAX_FILES];                  // one a tensor: it is mapped or ignored
    int n_files;
    const Family *family;
    int64_t layers, heads, n_kv, cut, size[N_SIZES];      // cut: rows of positions that no text has
    bool tied;
    Source *s;
} Hf;

static void hf_free(void *p) {
    Hf *h = p;
    for (int i = 0; i < h->n_files; i++) {
        safetensors_free(&h->file[i]);
        free(h->file_name[i]);
        free(h->used[i]);
    }
    json_free(&h->config);
    json_free(&h->index);
    free(h);
}

static int join(char out[PATH_SIZE], const char *folder, const char *name, size_t n, Err *e) {
    int len = snprintf(out, PATH_SIZE, "%s/%.*s", folder, (int)n, name);
    return len < PATH_SIZE ? 0 : fail(e, "%s: path too long", folder);
}

static bool file_there(const char *folder, const char *name) {
    char path[PATH_SIZE];
    FILE *f = join(path, folder, name, strlen(name), NULL) ? NULL : open_file(path, "rb");
    if (f) fclose(f);
    return f != NULL;
}

static int read_json(JsonDoc *d, const char *path, size_t limit, Err *e) {
    char *text;
    size_t n;
    if (read_file(path, limit, &text, &n, e)) return -1;
    int result = json_parse(d, text, n, path, e);
    free(text);
    if (result == 0 && d->root->type != J_OBJECT) result = fail(e, "%s: no JSON object", path);
    return result;
}

// ---- config.json --------------------------------------------------------------------------------

static const Json *setting(const Json *object, const char *key) {      // null counts as absent
    const Json *v = json_get(object, key);
    return v && v->type != J_NULL ? v : NULL;
}

// An integer in 1 .. max; absent: `otherwise`, or an error when that is 0.
static int get_int(const Hf *h, const char *key, int64_t max, int64_t otherwise, int64_t *out,
                   Err *e) {
    const Json *v = setting(h->config.root, key);
    *out = otherwise;
    if (!v && otherwise) return 0;
    if (!v) return fail(e, "%s: %s is missing", h->config_path, key);
    if (v->type != J_NUMBER || !v->is_integer)
        return fail(e, "%s: %s is no integer", h->config_path, key);
    if (v->integer < 1 || v->integer > max)
        return fail(e, "%s: %s is %lld, expected 1 to %lld", h->config_path, key,
                    (long long)v->integer, (long long)max);
    *out = v->integer;
    return 0;
}

// A number above 0; absent: `otherwise`, or an error when that is 0.
static int get_real(const Hf *h, const Json *object, const char *key, double otherwise, double *out,
                    Err *e) {
    const Json *v = setting(object, key);
    *out = otherwise;
    if (!v && otherwise != 0) return 0;
    if (!v || v->type != J_NUMBER || !(v->number > 0 && v->number < 1e30))
        return fail(e, "%s: %s is missing or no positive number", h->config_path, key);
    *out = v->number;
    return 0;
}

static int get_flag(const Hf *h, const char *key, bool otherwise, bool *out, Err *e) {
    const Json *v = setting(h->config.root, key);
    *out = v ? v->boolean : otherwise;
    return !v || v->type == J_BOOL ? 0 : fail(e, "%s: %s is no boolean", h->config_path, key);
}

static int find_family(Hf *h, Err *e) {
    const Json *list = setting(h->config.root, "architectures");
    const Json *name = list && list->type == J_ARRAY ? list->child : NULL;
    if (!name || name->type != J_STRING)
        return fail(e, "%s: \"architectures\" names no model class", h->config_path);
    char known[256] = "";
    for (int i = 0; i < n_families; i++) {
        if (str_is(name->string, families[i].name)) h->family = &families[i];
        snprintf(known + strlen(known), sizeof known - strlen(known), i ? ", %s" : "%s",
                 families[i].name);
    }
    if (h->family) return 0;
    return fail(e, "%s: architecture %.*s is not supported (%s are)", h->config_path,
                name->string.n < 80 ? (int)name->string.n : 80, name->string.s, known);
}

static int read_sizes(Hf *h, Err *e) {
    int64_t *n = h->size, pad = 0;
    const Keys *key = h->family->keys;
    if (get_int(h, key->d, 1 << 20, 0, &n[D], e) ||
        get_int(h, key->layers, 4096, 0, &h->layers, e) ||
        get_int(h, key->heads, 1 << 16, 0, &h->heads, e) ||
        get_int(h, key->f, 1 << 24, strcmp(key->f, "n_inner") ? 0 : 4 * n[D], &n[FF], e) ||
        get_int(h, "vocab_size", 1 << 24, 0, &n[VOCAB], e) ||
        get_int(h, "type_vocab_size", 1 << 16, 2, &n[TYPES], e) ||
        get_int(h, key->context, 1 << 28, 0, &n[POSITIONS], e)) return -1;
    h->n_kv = h->heads;
    if (key->kv && get_int(h, key->kv, 1 << 16, h->heads, &h->n_kv, e)) return -1;
    if (h->heads % h->n_kv)
        return fail(e, "%s: %s %lld is no multiple of %s %lld", h->config_path, key->heads,
                    (long long)h->heads, key->kv, (long long)h->n_kv);
    const bool free_heads = key->rope && setting(h->config.root, "head_dim");
    if (!free_heads && n[D] % h->heads)
        return fail(e, "%s: %s %lld is no multiple of %s %lld", h->config_path, key->d, (long long)n[D],
                    key->heads, (long long)h->heads);
    n[HD] = n[D] / h->heads;
    if (free_heads && get_int(h, "head_dim", 1 << 16, 0, &n[HD], e)) return -1;
    if (key->rope && n[HD] % 2)
        return fail(e, "%s: head_dim %lld is odd, rotary pairs need it even", h->config_path,
                    (long long)n[HD]);
    n[Q] = h->heads * n[HD];
    n[KV] = h->n_kv * n[HD];
    n[QKV] = n[Q] + 2 * n[KV];

    // RoBERTa's texts begin at the position behind the padding token's id.
    if (strcmp(h->family->prefix, "roberta.")) return 0;
    if (get_int(h, "pad_token_id", n[POSITIONS] - 2, 1, &pad, e)) return -1;
    h->cut = pad + 1;
    n[POSITIONS] -= h->cut;
    return n[POSITIONS] > 0 ? 0 : fail(e, "%s: %s leaves no positions behind the padding's", h->config_path,
                                       key->context);
}

// The activation by its name there, as tucker.activation where it is not the family's own.
static int read_activation(const Hf *h, Err *e) {
    static const struct { const char *name, *ours; } known[] = {
        {"silu", "silu"}, {"swish", "silu"}, {"gelu", "gelu"}, {"gelu_new", "gelu_tanh"},
        {"gelu_pytorch_tanh", "gelu_tanh"}};
    const char *key = h->family->keys->act, *found = NULL;
    const Json *act = setting(h->config.root, key);
    const bool fixed = h->family->fixed_act;
    Str name = act && act->type == J_STRING ? act->string : (Str){"", 0};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (str_is(name, known[i].name)) found = known[i].ours;
    if (!act) found = h->family->act;
    if (!found || (fixed && strcmp(found, h->family->act)))
        return fail(e, "%s: %s '%.*s' is not supported (%s)", h->config_path, key,
                    name.n < 40 ? (int)name.n : 40, name.s,
                    fixed ? h->family->act : "gelu, gelu_new, gelu_pytorch_tanh and silu are");
    if (strcmp(found, h->family->act))
        gguf_set_str(h->s->built, "tucker.activation", found, strlen(found));
    return 0;
}

// What the engine does not compute is refused by its name.
static int check_features(const Hf *h, Err *e) {
    static const struct { const char *key; bool value; } flags[] = {
        {"mlp_bias", false}, {"scale_attn_weights", true}, {"scale_attn_by_inverse_layer_idx", false},
        {"add_cross_attention", false}, {"is_decoder", false}};
    if (read_activation(h, e)) return -1;
    if (setting(h->config.root, "quantization_config"))
        return fail(e, "%s: weights packed as quantization_config says are not supported (take the "
                       "unquantised model)", h->config_path);
    const Json *part = setting(h->config.root, "partial_rotary_factor");
    if (part && part->number != 1)
        return fail(e, "%s: partial_rotary_factor is not supported", h->config_path);
    const Json *positions = setting(h->config.root, "position_embedding_type");
    if (positions && !(positions->type == J_STRING && str_is(positions->string, "absolute")))
        return fail(e, "%s: position_embedding_type other than absolute is not supported", h->config_path);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        bool value;
        if (get_flag(h, flags[i].key, flags[i].value, &value, e)) return -1;
        if (value != flags[i].value)
            return fail(e, "%s: %s: %s is not supported", h->config_path, flags[i].key,
                        value ? "true" : "false");
    }
    return 0;
}

static void set_key_int(const Hf *h, const char *key, int64_t v) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", h->family->arch, key);
    gguf_set_int(h->s->built, full, GGUF_U32, v);
}

static void set_key_float(const Hf *h, const char *key, double v) {
    char full[128];
    snprintf(full, sizeof full, "%s.%s", h->family->arch, key);
    gguf_set_float(h->s->built, full, (float)v);
}

// llama 3's scaling: slow rotations are slowed by `factor`, fast ones kept, those between blended.
// The divisor of every pair's angle becomes the tensor rope_freqs.weight (hd/2).
static int llama3_scaling(Hf *h, const Json *rope, double base, Err *e) {
    double factor, low, high, old;
    int64_t pairs = h->size[HD] / 2;
    if (get_real(h, rope, "factor", 0, &factor, e) ||
        get_real(h, rope, "low_freq_factor", 0, &low, e) ||
        get_real(h, rope, "high_freq_factor", 0, &high, e) ||
        get_real(h, rope, "original_max_position_embeddings", 0, &old, e)) return -1;
    if (low >= high)
        return fail(e, "%s: low_freq_factor %g is not below high_freq_factor %g", h->config_path,
                    low, high);
    float *f = alloc((size_t)pairs, sizeof *f, "rope_freqs.weight", e);
    if (!f || source_own(h->s, f, free, e)) return -1;
    for (int64_t i = 0; i < pairs; i++) {
        double turns = old / (2 * M_PI * pow(base, 2.0 * (double)i / (double)h->size[HD]));
        double blend = (turns - low) / (high - low);       // turns within the old context
        f[i] = turns > high ? 1 : turns < low ? (float)factor
             : (float)(1 / ((1 - blend) / factor + blend));
    }
    gguf_add(h->s->built, "rope_freqs.weight", T_F32, 1, (int64_t[]){pairs, 1, 1, 1}, f);
    return 0;
}

// GPT-J rotates the first rotary_dim numbers of each head, and pairs neighbours.
static int read_rotary_dim(Hf *h, Err *e) {
    int64_t dims;
    if (get_int(h, "rotary_dim", h->size[HD], 0, &dims, e)) return -1;
    if (dims % 2) return fail(e, "%s: rotary_dim %lld is odd", h->config_path, (long long)dims);
    set_key_int(h, "rope.dimension_count", dims);
    return 0;
}

static int read_rope(Hf *h, Err *e) {
    const Json *root = h->config.root, *rope = setting(root, "rope_parameters");   // the new name
    if (!rope) rope = setting(root, "rope_scaling");                               // the old one
    if (rope && rope->type != J_OBJECT)
        return fail(e, "%s: rope_parameters is no object", h->config_path);
    double base, factor;
    if (get_real(h, root, "rope_theta", 10000, &base, e) ||
        get_real(h, rope, "rope_theta", base, &base, e)) return -1;
    set_key_float(h, "rope.freq_base", base);
    set_key_int(h, "rope.dimension_count", h->size[HD]);

    const Json *part = setting(rope, "partial_rotary_factor"), *type = setting(rope, "rope_type");
    if (part && part->number != 1)
        return fail(e, "%s: partial_rotary_factor is not supported", h->config_path);
    if (!type) type = setting(rope, "type");
    if (!type) {
        for (const Json *c = rope ? rope->child : NULL; c; c = c->next)
            if (c->type == J_OBJECT || str_is(c->key, "factor"))
                return fail(e, "%s: rope_parameters without rope_type", h->config_path);
        return 0;
    }
    if (type->type != J_STRING) return fail(e, "%s: rope_type is no string", h->config_path);
    if (str_is(type->string, "default")) return 0;
    if (str_is(type->string, "llama3")) return llama3_scaling(h, rope, base, e);
    if (!str_is(type->string, "linear"))
        return fail(e, "%s: rope_type '%.*s' is not supported (default, linear and llama3 are)",
                    h->config_path, type->string.n < 40 ? (int)type->string.n : 40, type->string.s);
    if (get_real(h, rope, "factor", 0, &factor, e)) return -1;
    char key[64];
    snprintf(key, sizeof key, "%s.rope.scaling.type", h->family->arch);
    gguf_set_str(h->s->built, key, "linear", 6);
    set_key_float(h, "rope.scaling.factor", factor);
    return 0;
}

// One window for all layers, or none; a mixture is refused.
static int read_window(const Hf *h, Err *e) {
    const Json *root = h->config.root, *types = setting(root, "layer_types");
    const Json *key = json_get(root, "sliding_window");
    bool asked;
    int64_t window, from, sliding = 0, full = 0;
    if (get_flag(h, "use_sliding_window", h->family->window == ALWAYS, &asked, e)) return -1;
    if (h->family->window == NEVER || !asked || (key && key->type == J_NULL)) return 0;
    if (get_int(h, "sliding_window", INT32_MAX, 4096, &window, e)) return -1;
    if (types && types->type != J_ARRAY)
        return fail(e, "%s: layer_types is no list", h->config_path);
    if (types) {
        for (const Json *c = types->child; c; c = c->next) {
            sliding += c->type == J_STRING && str_is(c->string, "sliding_attention");
            full += c->type == J_STRING && str_is(c->string, "full_attention");
        }
        if (sliding + full != h->layers || types->count != h->layers)
            return fail(e, "%s: layer_types is no list of %lld full_attention or sliding_attention",
                        h->config_path, (long long)h->layers);
    } else if (h->family->window == ASKED) {         // the layers from max_window_layers on slide
        const Json *v = setting(root, "max_window_layers");
        from = v && v->is_integer && v->integer >= 0 ? v->integer : 28;
        full = from < h->layers ? from : h->layers;
        sliding = h->layers - full;
    } else sliding = h->layers;
    if (sliding && full)
        return fail(e, "%s: sliding_window on %lld of %lld layers is not supported (on all it is)",
                    h->config_path, (long long)sliding, (long long)h->layers);
    if (sliding) set_key_int(h, "attention.sliding_window", window);
    return 0;
}

static int read_config(Hf *h, Err *e) {
    double eps = 0;
    const Keys *key = NULL;
    if (join(h->config_path, h->folder, "config.json", 11, e) ||
        read_json(&h->config, h->config_path, MAX_CONFIG, e) || find_family(h, e) ||
        read_sizes(h, e) || check_features(h, e) ||
        get_flag(h, "tie_word_embeddings", h->family->tied, &h->tied, e)) return -1;
    key = h->family->keys;
    if (get_real(h, h->config.root, key->eps, key->eps_else, &eps, e)) return -1;
    const char *arch = h->family->arch, *name = path_name(h->folder);
    if (!*name || name[0] == '.') name = h->family->name;
    gguf_set_str(h->s->built, "general.architecture", arch, strlen(arch));
    gguf_set_str(h->s->built, "general.name", name, strlen(name));
    set_key_int(h, "context_length", h->size[POSITIONS]);
    set_key_int(h, "embedding_length", h->size[D]);
    set_key_int(h, "block_count", h->layers);
    set_key_int(h, "feed_forward_length", h->size[FF]);
    set_key_int(h, "attention.head_count", h->heads);
    set_key_int(h, "attention.head_count_kv", h->n_kv);
    set_key_int(h, "vocab_size", h->size[VOCAB]);
    set_key_float(h, key->rope ? "attention.layer_norm_rms_epsilon" : "attention.layer_norm_epsilon", eps);
    if (strcmp(arch, "bert") == 0) {
        char full[128];
        snprintf(full, sizeof full, "%s.attention.causal", arch);
        gguf_set_bool(h->s->built, full, false);
        gguf_set_int(h->s->built, "tokenizer.ggml.token_type_count", GGUF_U32, h->size[TYPES]);
    }
    if (!key->rope) return strcmp(arch, "gptj") ? 0 : read_rotary_dim(h, e);
    if (setting(h->config.root, "head_dim")) {
        set_key_int(h, "attention.key_length", h->size[HD]);
        set_key_int(h, "attention.value_length", h->size[HD]);
    }
    gguf_set_str(h->s->built, "tucker.rope_pairs", "half", 4);
    return read_rope(h, e) || read_window(h, e) ? -1 : 0;
}

// ---- the weights' files -------------------------------------------------------------------------

// Opens folder/name unless it is open already; *at: its number.
static int add_file(Hf *h, const char *name, size_t n, int *at, Err *e) {
    char path[PATH_SIZE];
    if (join(path, h->folder, name, n, e)) return -1;
    for (*at = 0; *at < h->n_files; ++*at)
        if (strcmp(h->file_name[*at], path) == 0) return 0;
    if (!is_name(name, n))
        return fail(e, "%s: '%.*s' is no name of a file beside the index", h->folder,
                    n < 100 ? (int)n : 100, name);
    if (h->n_files == MAX_FILES)
        return fail(e, "%s: more than %d files of weights", h->folder, MAX_FILES);
    char *kept = strdup(path);
    if (!kept) return fail(e, "%s: out of memory", h->folder);
    Safetensors *f = &h->file[h->n_files];
    if (safetensors_open(f, kept, e)) {
        free(kept);
        return -1;
    }
    h->file_name[h->n_files] = kept;
    h->used[h->n_files++] = alloc(f->n, sizeof(bool), kept, e);
    return h->used[*at] ? 0 : -1;
}

static const StTensor *find_tensor(Hf *h, const char *name, int before, int *file) {
    for (int i = 0; i < before; i++) {
        const StTensor *t = safetensors_find(&h->file[i], name);
        if (t) {
            *file = i;
            return t;
        }
    }
    return NULL;
}

static int read_index(Hf *h, Err *e) {
    static const char index[] = "model.safetensors.index.json";
    char path[PATH_SIZE], name[256];
    if (join(path, h->folder, index, sizeof index - 1, e) ||
        read_json(&h->index, path, MAX_INDEX, e)) return -1;
    const Json *map = json_get(h->index.root, "weight_map");
    if (!map || map->type != J_OBJECT || !map->count)
        return fail(e, "%s: no weight_map", path);
    for (const Json *v = map->child; v; v = v->next) {
        int file;
        if (v->type != J_STRING) return fail(e, "%s: weight_map is no object of strings", path);
        if (add_file(h, v->string.s, v->string.n, &file, e)) return -1;
        if (v->key.n >= sizeof name) return fail(e, "%s: a tensor's name is too long", path);
        snprintf(name, sizeof name, "%.*s", (int)v->key.n, v->key.s);
        if (!safetensors_find(&h->file[file], name))
            return fail(e, "%s: %s has no tensor '%s'", path, h->file_name[file], name);
    }
    return 0;
}

// The only *.safetensors of the folder, whatever its name.
static int find_single(Hf *h, Err *e) {
    char name[256] = "";
    int at;
    const int count = find_in_folder(h->folder, ".safetensors", name, sizeof name);
    if (count < 0) return fail(e, "%s: cannot be listed", h->folder);
    if (count != 1)
        return fail(e, "%s: no model.safetensors or model.safetensors.index.json, and %s "
                       "*.safetensors", h->folder, count ? "several" : "no other");
    return add_file(h, name, strlen(name), &at, e);
}

static int open_files(Hf *h, Err *e) {
    int at;
    if (file_there(h->folder, "model.safetensors")) {
        if (add_file(h, "model.safetensors", 17, &at, e)) return -1;
    } else if (file_there(h->folder, "model.safetensors.index.json")) {
        if (read_index(h, e)) return -1;
    } else if (find_single(h, e)) return -1;

    const FileMap *maps[MAX_FILES];
    for (int i = 0; i < h->n_files; i++) {
        maps[i] = &h->file[i].map;
        for (size_t k = 0; k < h->file[i].n && i > 0; k++) {
            char name[256];
            const Str *s = &h->file[i].tensor[k].name;
            if (s->n >= sizeof name) continue;                       // refused as unknown later
            snprintf(name, sizeof name, "%.*s", (int)s->n, s->s);
            if (find_tensor(h, name, i, &at))
                return fail(e, "%s: tensor '%s' is in %s as well", h->file_name[i], name,
                            h->file_name[at]);
        }
    }
    return source_hash(h->s, maps, h->n_files, e);
}

// ---- tensors ------------------------------------------------------------------------------------

static void expand(char *out, size_t size, const char *prefix, const char *pattern, int64_t layer) {
    if (*pattern == '@') pattern++;
    else prefix = "";
    const char *mark = strchr(pattern, '#');
    if (!mark) snprintf(out, size, "%s%s", prefix, pattern);
    else snprintf(out, size, "%s%.*s%lld%s", prefix, (int)(mark - pattern), pattern, (long long)layer,
                  mark + 1);
}

// The tensor of a row, with the family's prefix or without; old files call LayerNorm's weight and bias
// gamma and beta. name: what it is called, or, if it is missing, should be.
static const StTensor *find_row(Hf *h, const Row *row, int64_t layer, char name[256], int *file) {
    static const char *const old[][2] = {{"LayerNorm.weight", "gamma"}, {"LayerNorm.bias", "beta"}};
    const StTensor *t = NULL;
    for (int bare = 0; bare < 2 && !t; bare++) {
        expand(name, 256, bare ? "" : h->family->prefix, row->hf, layer);
        t = find_tensor(h, name, h->n_files, file);
        for (int i = 0; i < 2 && !t; i++) {
            const size_t n = strlen(name), tail = strlen(old[i][0]);
            char older[280];
            if (n < tail || strcmp(name + n - tail, old[i][0])) continue;
            snprintf(older, sizeof older, "%.*sLayerNorm.%s", (int)(n - tail), name, old[i][1]);
            if ((t = find_tensor(h, older, h->n_files, file))) snprintf(name, 256, "%.255s", older);
        }
    }
    return t;
}

// Vectors become F32; what does not stand at a multiple of its number's size is copied.
static const void *usable(Hf *h, const StTensor *t, bool vector, Err *e) {
    size_t item = t->type == T_F32 ? 4 : 2, n = t->size / item;
    bool convert = vector && t->type != T_F32;
    if (!convert && (uintptr_t)t->data % item == 0) return t->data;
    void *copy = alloc(n, convert ? 4 : item, "a tensor", e);
    if (!copy || source_own(h->s, copy, free, e)) return NULL;
    if (convert) dequantize_row(t->type, t->data, copy, (int64_t)n);
    else memcpy(copy, t->data, t->size);
    return copy;
}

// A matrix (rows, cols) that the file holds the other way round.
static const void *turned(Hf *h, const StTensor *t, int64_t rows, int64_t cols, Err *e) {
    const size_t item = t->type == T_F32 ? 4 : 2;
    uint8_t *copy = alloc((size_t)rows * (size_t)cols, item, "a turned matrix", e);
    if (!copy || source_own(h->s, copy, free, e)) return NULL;
    for (int64_t c = 0; c < cols; c++)
        for (int64_t r = 0; r < rows; r++)
            memcpy(copy + (size_t)(r * cols + c) * item,
                   (const uint8_t *)t->data + (size_t)(c * rows + r) * item, item);
    return copy;
}

static int map_tensor(Hf *h, const Row *row, int64_t layer, Err *e) {
    char from[256], to[GGUF_MAX_NAME + 1];
    int file = 0;
    const StTensor *t = find_row(h, row, layer, from, &file);
    bool wanted = row->need == NEEDED || row->need == (h->tied ? WHEN_TIED : UNLESS_TIED);
    if (!t && wanted)
        return fail(e, "%s: tensor '%s' is missing%s", h->folder, from,
                    row->need == UNLESS_TIED ? " (and tie_word_embeddings is not set)" : "");
    if (!t) return 0;
    h->used[file][t - h->file[file].tensor] = true;
    if (!wanted && row->need != OPTIONAL) return 0;

    int64_t rows = h->size[row->rows], cols = row->cols ? h->size[row->cols] : 1;
    int n_dims = row->cols ? 2 : 1;
    const int64_t dims[2] = {row->form == TURNED ? cols : row->form == CUT ? rows + h->cut : rows,
                             row->form == TURNED ? rows : cols};
    if (t->n_dims != n_dims || t->dims[0] != dims[0] || (n_dims == 2 && t->dims[1] != dims[1])) {
        char shape[100] = "";
        for (int i = 0; i < t->n_dims && i < 4; i++)
            snprintf(shape + strlen(shape), sizeof shape - strlen(shape), i ? ", %lld" : "%lld",
                     (long long)t->dims[i]);
        return row->cols ? fail(e, "%s: %s has shape [%s], config.json asks [%lld, %lld]",
                                h->file_name[file], from, shape, (long long)dims[0],
                                (long long)dims[1])
                         : fail(e, "%s: %s has shape [%s], config.json asks [%lld]",
                                h->file_name[file], from, shape, (long long)rows);
    }
    if (t->type < 0)
        return fail(e, "%s: %s is not of type F32, F16 or BF16", h->file_name[file], from);
    const void *data = row->form == TURNED ? turned(h, t, rows, cols, e) : usable(h, t, n_dims == 1, e);
    if (!data) return -1;
    if (row->form == CUT)
        data = (const uint8_t *)data + (size_t)(h->cut * cols) * (t->type == T_F32 ? 4 : 2);
    int64_t ne[GGUF_MAX_DIMS] = {n_dims == 2 ? cols : rows, n_dims == 2 ? rows : 1, 1, 1};
    expand(to, sizeof to, "", row->gguf, layer);
    gguf_add(h->s->built, to, n_dims == 1 ? T_F32 : t->type, n_dims, ne, data);
    return 0;
}

static int map_tensors(Hf *h, Err *e) {
    for (int k = 0; k < 3; k++)
        for (const Row *row = h->family->rows[k]; row && row->hf; row++) {
            int64_t n = strchr(row->hf, '#') ? h->layers : 1;
            for (int64_t i = 0; i < n; i++)
                if (map_tensor(h, row, i, e)) return -1;
        }
    for (int i = 0; i < h->n_files; i++)
        for (size_t k = 0; k < h->file[i].n; k++) {
            Str name = h->file[i].tensor[k].name;
            if (!h->used[i][k])
                return fail(e, "%s: tensor '%.*s' has no place in a %s of %lld layers",
                            h->file_name[i], name.n < 120 ? (int)name.n : 120, name.s,
                            h->family->name, (long long)h->layers);
        }
    return 0;
}

// ---- the vocabulary -----------------------------------------------------------------------------

// An id that config.json gives for key; of a list the i-th. -1: none.
static int special_id(const Hf *h, const char *key, int i) {
    const Json *v = setting(h->config.root, key);
    if (v && v->type == J_ARRAY)
        for (v = v->child; v && i; i--) v = v->next;
    else if (i) v = NULL;
    bool ok = v && v->is_integer && v->integer >= 0 && v->integer < h->s->vocab.n;
    return ok ? (int)v->integer : -1;
}

static int read_vocab(Hf *h, const char *tokenizer, Err *e) {
    static const char *const names[] = {"tokenizer.model", "tokenizer.json"};
    char path[PATH_SIZE];
    Vocab *v = &h->s->vocab;
    for (size_t i = 0; i < sizeof names / sizeof *names && !tokenizer; i++)
        if (file_there(h->folder, names[i])) {
            if (join(path, h->folder, names[i], strlen(names[i]), e)) return -1;
            tokenizer = path;
        }
    if (!tokenizer && file_there(h->folder, "vocab.json")) tokenizer = h->folder;
    if (!tokenizer)
        return fail(e, "%s: no tokenizer.model, tokenizer.json or vocab.json (name one with "
                       "--tokenizer)", h->folder);
    if (vocab_read(v, tokenizer, (int)h->size[VOCAB], e) || vocab_read_config(v, h->folder, e))
        return -1;
    if (v->bos < 0) v->bos = special_id(h, "bos_token_id", 0);
    if (v->eos < 0) v->eos = special_id(h, "eos_token_id", 0);
    if (v->eot < 0) v->eot = special_id(h, "eos_token_id", 1);
    vocab_to_gguf(v, h->s->built);
    return 0;
}

int source_hf(Source *s, const char *folder, const char *tokenizer, Err *e) {
    s->kind = "safetensors";
    Hf *h = alloc(1, sizeof *h, folder, e);
    if (!h || source_own(s, h, hf_free, e)) return -1;
    size_t n = strlen(folder);
    while (n > 1 && is_separator(folder[n - 1])) n--;
    if (n >= PATH_SIZE) return fail(e, "%s: path too long", folder);
    memcpy(h->folder, folder, n);
    h->s = s;
    s->built = gguf_builder(e);
    if (!s->built) return -1;
    if (read_config(h, e) || open_files(h, e) || map_tensors(h, e) || read_vocab(h, tokenizer, e))
        return -1;
    return gguf_build(s->built, h->folder, &s->g, e);
}
