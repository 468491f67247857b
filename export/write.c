// write: the output of a plan, tensor by tensor, in the order of its index. Holds one layer's
// factors at a time.
#include <stdlib.h>
#include <string.h>

#include "compress.h"

// One tensor, from the source or from w, row by row through a buffer.
static int write_item(Plan *p, const Item *i, const void *values, FileOut *out, Err *e) {
    const GgufTensor *t = i->src;
    const float *w = values;
    int64_t rows = i->rows, cols = i->cols;
    if (t && t->type == i->type && !i->reorder) return gguf_put(p->b, out, t->data, t->size, e);
    if (i->part == PART_PIVOT && !t) return gguf_put(p->b, out, values, item_bytes(i), e);
    size_t from = 0, to = 0;
    if ((t && !row_size(t->type, cols, &from)) || !row_size(i->type, cols, &to))
        return fail(e, "tensor %s: rows of %lld numbers are no whole blocks", i->name,
                    (long long)cols);
    int64_t chunk = 1 + (1 << 20) / (int64_t)(to + 1), n;
    uint8_t *buffer = alloc((size_t)chunk, to, i->name, e);
    float *row = alloc((size_t)cols, sizeof *row, i->name, e);
    int result = buffer && row ? 0 : -1;
    for (int64_t r = 0; r < rows && !result; r += n) {
        for (n = 0; n < chunk && r + n < rows; n++) {
            const Config *c = &p->model->config;
            int64_t at = i->reorder ? pair_row(r + n, c->hd, c->rope_dims, p->to_half) : r + n;
            const uint8_t *stored = t ? (const uint8_t *)t->data + (size_t)at * from : NULL;
            uint8_t *slot = buffer + (size_t)n * to;
            if (t && t->type == i->type) memcpy(slot, stored, to);
            else {
                if (t) dequantize_row(t->type, stored, row, cols);
                quantize_row(i->type, t ? row : w + at * cols, slot, cols);
            }
        }
        result = gguf_put(p->b, out, buffer, (size_t)n * to, e);
    }
    free(buffer);
    free(row);
    return result;
}

// What replaces a layer's matrices, as floats: factors of its groups, or matrices rebuilt of them.
typedef struct { GroupParts group[4]; float *w[4], *ffn[N_FFN][2]; } LayerParts;

static int make_layer(Plan *p, int layer, LayerParts *parts, Err *e) {
    const Attention *a = &p->model->layer[layer].attn;
    const Config *c = &p->model->config;
    LayerPlan *l = &p->layer[layer];
    const Layer *from = &p->model->layer[layer];
    const LaserMat *ffn[N_FFN] = {&from->gate, &from->up, &from->down};
    for (int k = 0; k < a->n_groups; k++)
        if (rebuild_group(a, k, parts->w, e)) return -1;
    for (int i = 0; i < N_FFN; i++)                      // only there when rebuilding
        if (ffn[i]->a.rows && !(parts->ffn[i][0] = rebuild_product(&ffn[i]->w, &ffn[i]->a, e)))
            return -1;
    for (int i = 0; i < N_FFN; i++)
        if (l->ffn[i] && compression_ffn(p->weighted, layer, i, l->ffn[i], &parts->ffn[i][0],
                                         &parts->ffn[i][1], &l->ffn_error[i], e)) return -1;
    for (int k = 0; k < l->n_groups; k++) {
        if (interrupted) return fail(e, "interrupted");            // a large group takes minutes
        if (l->group[k].weighted) {
            if (compression_group(p->weighted, layer, &l->group[k], &parts->group[k], l->error, e))
                return -1;
            continue;
        }
        float *w[4] = {0};
        int result = 0;
        for (int q = P_Q; q <= P_O && !result; q++)
            if (l->group[k].set & 1 << q &&
                !(w[q] = matrix(&a->w[q], c->hd, c->rope_dims, p->reorder && q <= P_K, p->to_half,
                                e)))
                result = -1;
        if (!result)
            result = decompose_group(p->shape, &l->group[k], w, p->o.sweeps, &parts->group[k],
                                     l->error, e);
        for (int q = P_Q; q <= P_O; q++) free(w[q]);
        if (result) return -1;
    }
    return 0;
}

static void layer_free(LayerParts *parts) {
    for (int k = 0; k < 4; k++) {
        parts_free(&parts->group[k]);
        free(parts->w[k]);
    }
    for (int i = 0; i < N_FFN; i++) {
        free(parts->ffn[i][0]);
        free(parts->ffn[i][1]);
    }
    *parts = (LayerParts){0};
}

// Where the numbers of a tensor that is not copied stand.
static const void *values_of(const Plan *p, const Item *i, const LayerParts *parts) {
    if (i->src || i->stack) return NULL;
    if (p->o.rebuild && i->part < N_PARTS) return parts->w[i->part - PART_CORE];
    if (i->part == PART_REFIT) return p->weighted->down[i->layer];
    if (i->part == PART_PIVOT) return parts->group[i->group].pivot;
    if (i->part >= PART_FFN) return parts->ffn[(i->part - PART_FFN) / 2][(i->part - PART_FFN) % 2];
    return parts->group[i->group].part[i->part];
}

static int write_tensors(Plan *p, FileOut *out, Progress *progress, void *ctx, Err *e) {
    LayerParts parts = {0};
    int result = 0, layer = -1;
    for (size_t k = 0; k < p->n_items && !result; k++) {
        const Item *i = &p->item[k];
        if (i->layer != layer) {
            layer = i->layer;
            layer_free(&parts);
            if (progress) progress(ctx, "factors", layer < 0 ? 0 : layer, p->n_layers);
            result = make_layer(p, layer, &parts, e);
        }
        float *made = NULL;
        if (!result && i->stack) {
            Stack *s = &p->stack[i->stack - 1];
            const char *part = strchr(i->name + 4, '.') + 1;
            if (stack_make(s, p->model, e) || !(made = stack_matrix(s, p->model, layer, part, e)))
                result = -1;
        }
        if (!result) result = write_item(p, i, made ? made : values_of(p, i, &parts), out, e);
        free(made);
    }
    if (progress && !result) progress(ctx, "factors", p->n_layers, p->n_layers);
    layer_free(&parts);
    return result;
}

static int patch_errors(Plan *p, FileOut *out, Err *e) {
    float *error = alloc((size_t)p->n_layers, 4 * sizeof *error, "errors", e);
    if (!error) return -1;
    for (int i = 0; i < 4 * p->n_layers; i++) error[i] = (float)p->layer[i / 4].error[i % 4];
    size_t size = 4 * sizeof *error * (size_t)p->n_layers;
    int result = gguf_patch(p->b, out, "tucker.error", error, size, e);
    free(error);
    return result;
}

int plan_write(Plan *p, FileOut *out, Progress *progress, void *ctx, Err *e) {
    bool factors = !p->o.dense && !p->o.rebuild;
    if (gguf_begin(p->b, out, e) || write_tensors(p, out, progress, ctx, e) || gguf_end(p->b, out, e))
        return -1;
    return factors ? patch_errors(p, out, e) : 0;
}
