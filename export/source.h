// source: published weights, whatever their files, presented as a GGUF index over mapped bytes:
// tensor names, shapes and metadata as GGUF has them. So the exporter, and the engine inside it,
// read one form only. Nothing is copied but 1-D tensors that are not F32, matrices that have to be
// turned, and what stands at an odd address.
//   a GGUF or .tbin                      gguf
//   a Hugging Face folder                safetensors.c, hf.c, vocab.c, json.c
//   a llama2.c .bin + tokenizer.bin      llama2c.c
#ifndef SOURCE_H
#define SOURCE_H

#include "../model.h"
#include "../tokenizer.h"

typedef struct {
    Gguf g;
    GgufBuilder *built;       // NULL when the source is a GGUF as it stands
    Vocab vocab;              // read from a tokenizer file; n = 0 when it stays in g's metadata
    const char *kind;         // "gguf", "safetensors", "llama2.c"
    char sha256[65];          // of the weights file (of the files' hashes, when sharded), hex
    void *owned;
} Source;

// tokenizer: path of a tokenizer file, NULL: the one beside the weights. A GGUF holds its own.
// In the index of a Hugging Face folder the key tucker.rope_pairs is "half": rows of Q and K stand
// as published. Without the key, arch llama means "interleaved" (GGUF's and llama2.c's order), gptj
// too (published so), any other arch "half".
int source_open(Source *s, const char *path, const char *tokenizer, Err *e);
void source_close(Source *s);
// Where Q, K and V of m, bound to s, stand in one tensor: takes them apart, as factors need them. m is to
// be bound anew. Files without factors keep the one tensor, for other programs expect it.
int source_split(Source *s, const Model *m, Err *e);

// For the readers. Memory that lives as long as s: source_close calls release(p); when -1 is
// returned it has been called.
int source_own(Source *s, void *p, void (*release)(void *), Err *e);
// Sets s->sha256 from n mapped files.
int source_hash(Source *s, const FileMap *const *files, int n, Err *e);

int source_hf(Source *s, const char *folder, const char *tokenizer, Err *e);     // hf.c
int source_llama2c(Source *s, const char *path, const char *tokenizer, Err *e);  // llama2c.c

// Vocabularies (vocab.c). path may be tokenizer.json, a SentencePiece or tiktoken .model, a
// llama2.c tokenizer.bin, or a folder with vocab.json + merges.txt. n_vocab: rows of the embedding
// (0: unknown); pieces are filled up to it with unused ones. v owns its memory.
int vocab_read(Vocab *v, const char *path, int n_vocab, Err *e);
// Adds what tokenizer_config.json, special_tokens_map.json and generation_config.json in `folder`
// say: bos, eos, add_bos, chat template. Absent files are no error.
int vocab_read_config(Vocab *v, const char *folder, Err *e);

// safetensors.c: an index like gguf's, parse apart from open.
typedef struct {
    Str name;
    int type, n_dims;         // type: -1 where it is none of F32, F16, BF16
    int64_t dims[8];
    const void *data;
    size_t size;
} StTensor;
typedef struct { FileMap map; StTensor *tensor; size_t n; void *owned; } Safetensors;
int safetensors_parse(Safetensors *s, const void *data, size_t size, const char *name, Err *e);
int safetensors_open(Safetensors *s, const char *path, Err *e);
const StTensor *safetensors_find(const Safetensors *s, const char *name);
void safetensors_free(Safetensors *s);

#endif
