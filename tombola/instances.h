/* A room's arithmetic, once for each instruction set and number type. Its kernels.c says what that is, and includes this:

     ARITHMETIC   the file, seen from here
     LOOSE(real)  `, aligned(sizeof(real))` where vectors may begin at any number, else nothing

   In that file there are

     SET, WIDE    PORTABLE, AVX2 or AVX512; whether numbers are double
     REAL         float or double
     W            numbers in a vector
     VEC, IVEC    the vector type, and that of as many integers;  LOAD, STORE, SET1, FMA, SQRT on them
     NAME(x)      x with the suffix of this instance;  NAME(sums), of W vectors

   and afterwards best_set, width_of, and EACH and INSTANCES, which call the instance that is asked for. */

#define PORTABLE 0
#define AVX2 1
#define AVX512 2

/* ---- portable: 16 bytes a vector ------------------------------------------------------------------------------------ */

typedef float float4 __attribute__((vector_size(16), may_alias LOOSE(float)));
typedef double double2 __attribute__((vector_size(16), may_alias LOOSE(double)));
typedef int32_t int4 __attribute__((vector_size(16)));
typedef int64_t long2 __attribute__((vector_size(16)));

#define SET PORTABLE
#define WIDE 0
#define REAL float
#define W 4
#define VEC float4
#define IVEC int4
#define SET1(x) ((VEC){(x), (x), (x), (x)})
#if defined(__aarch64__)
#define FMA(a, b, c) ((VEC)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#define SQRT(a) ((VEC)vsqrtq_f32((float32x4_t)(a)))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
static INLINE float4 sqrt4(float4 a) { return (float4){sqrtf(a[0]), sqrtf(a[1]), sqrtf(a[2]), sqrtf(a[3])}; }
#define SQRT(a) sqrt4(a)
#endif
#define NAME(x) x##_float_portable
DEFINE_SUMS
#include ARITHMETIC
#include "undefine.h"

#define SET PORTABLE
#define WIDE 1
#define REAL double
#define W 2
#define VEC double2
#define IVEC long2
#define SET1(x) ((VEC){(x), (x)})
#if defined(__aarch64__)
#define FMA(a, b, c) ((VEC)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#define SQRT(a) ((VEC)vsqrtq_f64((float64x2_t)(a)))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
static INLINE double2 sqrt2(double2 a) { return (double2){sqrt(a[0]), sqrt(a[1])}; }
#define SQRT(a) sqrt2(a)
#endif
#define NAME(x) x##_double_portable
DEFINE_SUMS
#include ARITHMETIC
#include "undefine.h"

#if defined(__x86_64__)

/* ---- AVX2 -------------------------------------------------------------------------------------------------------- */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
typedef float float8 __attribute__((vector_size(32), may_alias LOOSE(float)));
typedef double double4 __attribute__((vector_size(32), may_alias LOOSE(double)));
typedef int32_t int8 __attribute__((vector_size(32)));
typedef int64_t long4 __attribute__((vector_size(32)));

#define SET AVX2
#define WIDE 0
#define REAL float
#define W 8
#define VEC float8
#define IVEC int8
#define SET1(x) ((VEC)_mm256_set1_ps(x))
#define FMA(a, b, c) ((VEC)_mm256_fmadd_ps((__m256)(a), (__m256)(b), (__m256)(c)))
#define SQRT(a) ((VEC)_mm256_sqrt_ps((__m256)(a)))
#define NAME(x) x##_float_avx2
DEFINE_SUMS
#include ARITHMETIC
#include "undefine.h"

#define SET AVX2
#define WIDE 1
#define REAL double
#define W 4
#define VEC double4
#define IVEC long4
#define SET1(x) ((VEC)_mm256_set1_pd(x))
#define FMA(a, b, c) ((VEC)_mm256_fmadd_pd((__m256d)(a), (__m256d)(b), (__m256d)(c)))
#define SQRT(a) ((VEC)_mm256_sqrt_pd((__m256d)(a)))
#define NAME(x) x##_double_avx2
DEFINE_SUMS
#include ARITHMETIC
#include "undefine.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* ---- AVX-512 ----------------------------------------------------------------------------------------------------- */

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
typedef float float16 __attribute__((vector_size(64), may_alias LOOSE(float)));
typedef double double8 __attribute__((vector_size(64), may_alias LOOSE(double)));
typedef int32_t int16 __attribute__((vector_size(64)));
typedef int64_t long8 __attribute__((vector_size(64)));

#define SET AVX512
#define WIDE 0
#define REAL float
#define W 16
#define VEC float16
#define IVEC int16
#define SET1(x) ((VEC)_mm512_set1_ps(x))
#define FMA(a, b, c) ((VEC)_mm512_fmadd_ps((__m512)(a), (__m512)(b), (__m512)(c)))
#define SQRT(a) ((VEC)_mm512_sqrt_ps((__m512)(a)))
#define NAME(x) x##_float_avx512
DEFINE_SUMS
#include ARITHMETIC
#include "undefine.h"

#define SET AVX512
#define WIDE 1
#define REAL double
#define W 8
#define VEC double8
#define IVEC long8
#define SET1(x) ((VEC)_mm512_set1_pd(x))
#define FMA(a, b, c) ((VEC)_mm512_fmadd_pd((__m512d)(a), (__m512d)(b), (__m512d)(c)))
#define SQRT(a) ((VEC)_mm512_sqrt_pd((__m512d)(a)))
#define NAME(x) x##_double_avx512
DEFINE_SUMS
#include ARITHMETIC
#include "undefine.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

/* ---- what Python calls ---------------------------------------------------------------------------------------------- */

/* The best instruction set that this processor has. */
static int best_set(void) {
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

/* Numbers in a vector of the instance. */
static int width_of(int set, int wide) { return (set == AVX512 ? 16 : set == AVX2 ? 8 : 4) >> (wide != 0); }

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
