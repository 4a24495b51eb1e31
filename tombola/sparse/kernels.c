/* Fully connected and convolutional layers at the cost of their living weights: outputs, and the gradients of inputs,
   weights and bias.

   Plain C with GNU vector extensions, no Python and no torch in it: kernels.py describes a layer as the structs below and
   calls the functions at the end. walk.h holds the arithmetic; it is compiled once for each instruction set and number
   type, and the caller names the instance it wants.

   In memory of its own a map lies as [channel][plane][row][column][abreast][W]: W examples make a vector, and `abreast`
   vectors, of other examples, lie beside each other at each position, so that short rows make long walks too. Rows and
   columns have a border of zeros where windows hang over the edge. Where a window moves by s positions each channel has
   s planes a direction, of every s-th row or column: within them it moves by one. So whatever a weight meets is at a
   fixed distance from the position that is computed, and one walk serves all strides, dilations and groups. */

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define INLINE inline __attribute__((always_inline))
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#define UNROLL _Pragma("GCC unroll 16")

#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(index, a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(index, a, b, ...) __builtin_shuffle(a, b, (index){__VA_ARGS__})
#endif

#define VERSION 2 /* the same as in kernels.py: it changes with any meaning of what follows */

#define MOST 16 /* vectors of the largest tile: neighbouring positions of a row that a weight meets at once */

/* The weights from `begin` to `end` are those of one channel written. */
typedef struct {
    int32_t row, begin, end;
} segment;

/* Living weights in the order in which they are met: in blocks of the channels that they read, so that what a tile reads
   stays in the first cache; within a block by the channel that they write. The first block names all of those. */
typedef struct {
    int32_t blocks, count;
    int64_t reach;             /* numbers from the first position of a window to its last */
    const int32_t *block;      /* the first segment of each block, and the end */
    const segment *segments;
    const int32_t *offset;     /* numbers from the position that is computed to what a weight meets */
    const int32_t *place;      /* where each weight is in the dense layer's */
} list;

typedef struct {
    int32_t begin, length;
} run;

enum { STREWN, MET, STRAIGHT }; /* some are met by no window; all are met; they follow each other in one plane */

/* How a map lies in memory of our own. */
typedef struct {
    int32_t channels, planes;    /* planes of each channel */
    int32_t places, n_gaps;      /* rows times columns of torch's map */
    int64_t plane, pitch, first; /* numbers from plane to plane, from row to row, to the first position computed */
    int64_t rows, across;        /* that are computed, and vectors in each */
    const int32_t *place;        /* where torch's places are in a channel's planes; -1: no window meets them */
    const uint8_t *order;        /* of each W of torch's places, how they lie: one of the following */
    const run *gaps;             /* positions of a channel's planes that are border */
} map;

typedef struct {
    int64_t abreast; /* vectors beside each other at a position */
    map in, out;
    list forward, backward;
} layer;

/* ---- sums of W vectors: element i of the result is the sum of vector i's elements ----------------------------------- */

#define KEEP(l, d) ((l) & (d) ? (l) + W : (l))
#define CROSS(l, d) ((l) & (d) ? ((l) ^ (d)) + W : ((l) ^ (d)))
#define LOW(l, d) ((l) / 2 + ((l) % 2) * W)
#define HIGH(l, d) ((l) / 2 + W / 2 + ((l) % 2) * W)
#define LANES2(F, d) F(0, d), F(1, d)
#define LANES4(F, d) LANES2(F, d), F(2, d), F(3, d)
#define LANES8(F, d) LANES4(F, d), F(4, d), F(5, d), F(6, d), F(7, d)
#define LANES16(F, d) LANES8(F, d), F(8, d), F(9, d), F(10, d), F(11, d), F(12, d), F(13, d), F(14, d), F(15, d)
#define LANES CAT(LANES, W)
#define BIT(l, d) (1 << (l))
#define LOAD(p) (*(const VEC *)(p))
#define STORE(p, x) (*(VEC *)(p) = (x))

/* ---- portable: 16 bytes a vector ------------------------------------------------------------------------------------ */

typedef float float4 __attribute__((vector_size(16), may_alias, aligned(4)));
typedef double double2 __attribute__((vector_size(16), may_alias, aligned(8)));
typedef int32_t int4 __attribute__((vector_size(16)));
typedef int64_t long2 __attribute__((vector_size(16)));

#define REAL float
#define W 4
#define VEC float4
#define IVEC int4
#define SET1(x) ((VEC){(x), (x), (x), (x)})
#if defined(__aarch64__)
#define FMA(a, b, c) ((VEC)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define NAME(x) x##_float_portable
#include "walk.h"
#include "undefine.h"

#define REAL double
#define W 2
#define VEC double2
#define IVEC long2
#define SET1(x) ((VEC){(x), (x)})
#if defined(__aarch64__)
#define FMA(a, b, c) ((VEC)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define NAME(x) x##_double_portable
#include "walk.h"
#include "undefine.h"

#if defined(__x86_64__)

/* ---- AVX2 ----------------------------------------------------------------------------------------------------------- */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
typedef float float8 __attribute__((vector_size(32), may_alias, aligned(4)));
typedef double double4 __attribute__((vector_size(32), may_alias, aligned(8)));
typedef int32_t int8 __attribute__((vector_size(32)));
typedef int64_t long4 __attribute__((vector_size(32)));

#define REAL float
#define W 8
#define VEC float8
#define IVEC int8
#define SET1(x) ((VEC)_mm256_set1_ps(x))
#define FMA(a, b, c) ((VEC)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define NAME(x) x##_float_avx2
#include "walk.h"
#include "undefine.h"

#define REAL double
#define W 4
#define VEC double4
#define IVEC long4
#define SET1(x) ((VEC)_mm256_set1_pd(x))
#define FMA(a, b, c) ((VEC)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define NAME(x) x##_double_avx2
#include "walk.h"
#include "undefine.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* ---- AVX-512 -------------------------------------------------------------------------------------------------------- */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
typedef float float16 __attribute__((vector_size(64), may_alias, aligned(4)));
typedef double double8 __attribute__((vector_size(64), may_alias, aligned(8)));
typedef int32_t int16 __attribute__((vector_size(64)));
typedef int64_t long8 __attribute__((vector_size(64)));

#define REAL float
#define W 16
#define VEC float16
#define IVEC int16
#define SET1(x) ((VEC)_mm512_set1_ps(x))
#define FMA(a, b, c) ((VEC)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define NAME(x) x##_float_avx512
#include "walk.h"
#include "undefine.h"

#define REAL double
#define W 8
#define VEC double8
#define IVEC long8
#define SET1(x) ((VEC)_mm512_set1_pd(x))
#define FMA(a, b, c) ((VEC)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define NAME(x) x##_double_avx512
#include "walk.h"
#include "undefine.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

/* ---- what Python calls ---------------------------------------------------------------------------------------------- */

enum { PORTABLE, AVX2, AVX512 };

/* The best instruction set that this processor has. */
int sparse_best(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        return AVX512;
    if (avx2) return AVX2;
#endif
    return PORTABLE;
}

/* What the caller's descriptions must amount to: a library of another version is no library. */
int64_t sparse_layout(void) { return VERSION * 1000 + (int64_t)sizeof(layer); }

/* Numbers in a vector of the instance. */
int sparse_width(int set, int wide) { return (set == AVX512 ? 16 : set == AVX2 ? 8 : 4) >> (wide != 0); }

#if defined(__x86_64__)
#define INSTANCES(call, kind)                                                                                          \
    switch (set) {                                                                                                     \
        case AVX512: call(kind##_avx512); break;                                                                       \
        case AVX2: call(kind##_avx2); break;                                                                           \
        default: call(kind##_portable);                                                                                \
    }
#else
#define INSTANCES(call, kind)                                                                                          \
    (void)set;                                                                                                         \
    call(kind##_portable);
#endif
#define EACH(call)                                                                                                     \
    if (wide) {                                                                                                        \
        INSTANCES(call, double)                                                                                        \
    } else {                                                                                                           \
        INSTANCES(call, float)                                                                                         \
    }

/* Outputs of the panels of examples from `begin` to `end`. `w` are the living weights in the order of l->forward; x_last
   and y_last: channels are innermost in x, in y. `room` holds one panel's inputs and outputs. */
void sparse_forward(int set, int wide, const layer *l, const void *x, int x_last, void *y, int y_last, const void *w,
                    const void *bias, int64_t examples, int64_t begin, int64_t end, void *room) {
#define CALL(kind) forward_##kind(l, x, x_last, y, y_last, w, bias, examples, begin, end, room)
    EACH(CALL)
#undef CALL
}

/* The gradients of the inputs, of the living weights in the order of l->backward, and of the bias; each may be NULL and is
   then not made; dw and db are added to. `room` holds two panels of inputs, one of outputs, and a vector for each output. */
void sparse_backward(int set, int wide, const layer *l, const void *x, int x_last, const void *dy, int dy_last, void *dx,
                     const void *w, void *dw, void *db, int64_t examples, int64_t begin, int64_t end, void *room) {
#define CALL(kind) backward_##kind(l, x, x_last, dy, dy_last, dx, w, dw, db, examples, begin, end, room)
    EACH(CALL)
#undef CALL
}

/* Whether all that is not 0 of a dense weight's numbers is where `alive` has a bit, 64 of them to a word. */
int sparse_whole(int set, int wide, const void *dense, int64_t count, const uint64_t *alive) {
    int whole = 0;
#define CALL(kind) whole = whole_##kind(dense, count, alive)
    EACH(CALL)
#undef CALL
    return whole;
}

/* w[k] = dense[place[k]]. */
void sparse_gather(int wide, const void *dense, const int32_t *place, int64_t count, void *w) {
    if (wide)
        for (int64_t k = 0; k < count; k++) ((double *)w)[k] = ((const double *)dense)[place[k]];
    else
        for (int64_t k = 0; k < count; k++) ((float *)w)[k] = ((const float *)dense)[place[k]];
}

/* dense[place[k]] = the sum of what the threads found, `apart` numbers from one's to the next's, in their order. */
void sparse_scatter(int wide, const void *sums, int64_t threads, int64_t apart, const int32_t *place, int64_t count,
                    void *dense) {
#define SCATTER(real)                                                                                                  \
    for (int64_t k = 0; k < count; k++) {                                                                              \
        real sum = ((const real *)sums)[k];                                                                            \
        for (int64_t t = 1; t < threads; t++) sum += ((const real *)sums)[t * apart + k];                              \
        ((real *)dense)[place[k]] = sum;                                                                               \
    }
    if (wide) {
        SCATTER(double)
    } else {
        SCATTER(float)
    }
#undef SCATTER
}
