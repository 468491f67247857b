// quant: number types of stored weights, one row at a time. The values are ggml's type numbers and
// the block layouts are ggml's, as GGUF files hold them. Knows no files and no threads.
// T_I32 is for tables of indices: it has a size and can be read, but is no type of a weight.
#ifndef QUANT_H
#define QUANT_H

#include "util.h"

typedef enum {
    T_F32 = 0, T_F16 = 1, T_Q4_0 = 2, T_Q4_1 = 3, T_Q5_0 = 6, T_Q5_1 = 7, T_Q8_0 = 8,
    T_Q2_K = 10, T_Q3_K = 11, T_Q4_K = 12, T_Q5_K = 13, T_Q6_K = 14, T_I32 = 26, T_BF16 = 30,
} Type;

typedef struct {
    const char *name;    // lower case: "f32", "q4_0", "q6_k"
    int block;           // weights in a block: 1, 32 or 256
    int bytes;           // bytes of a block
    bool native;         // has kernels that compute on it, and quantize_row writes it
} TypeInfo;

const TypeInfo *type_info(int type);       // NULL for a type this program does not read
int type_by_name(const char *name);        // -1 when unknown

// Bytes of a row of n weights; false when n is not a multiple of the block or the type is unknown.
bool row_size(int type, int64_t n, size_t *bytes);

// dst (n) floats from one stored row; n a multiple of the block. No alignment is asked of src.
void dequantize_row(int type, const void *src, float *dst, int64_t n);

// One stored row from src (n) floats, native types only, rounding as ggml's reference does.
void quantize_row(int type, const float *src, void *dst, int64_t n);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);              // round to nearest even; overflow gives infinity
float bf16_to_f32(uint16_t h);
uint16_t f32_to_bf16(float f);             // round to nearest even; NaN stays NaN

// A stored matrix W (rows, cols), row-major, cols contiguous; y = W x. data is borrowed (usually
// from the file's mapping). rows = 0: no such matrix.
typedef struct { const void *data; int64_t rows, cols; int type; } Mat;

size_t mat_bytes(const Mat *w);                               // of a checked Mat
void mat_row(const Mat *w, int64_t row, float *dst);          // dst (cols) = W[row]
Mat mat_rows(const Mat *w, int64_t first, int64_t rows);      // rows first .. first + rows, in place

#endif
