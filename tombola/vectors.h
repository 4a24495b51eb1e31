/* What all kernels are written in: GNU vectors, for whatever instruction set. instances.h says what is compiled for which.

   VEC is a vector of W numbers, REAL each, IVEC one of as many integers. */

#include <math.h>
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

_Static_assert(sizeof(long) == 8, "indices are of 64 bits"); /* elsewhere the installation goes on without kernels */

#define LOAD(p) (*(const VEC *)(p))
#define STORE(p, x) (*(VEC *)(p) = (x))
#define LANES2(F, d) F(0, d), F(1, d)
#define LANES4(F, d) LANES2(F, d), F(2, d), F(3, d)
#define LANES8(F, d) LANES4(F, d), F(4, d), F(5, d), F(6, d), F(7, d)
#define LANES16(F, d) LANES8(F, d), F(8, d), F(9, d), F(10, d), F(11, d), F(12, d), F(13, d), F(14, d), F(15, d)
#define LANES CAT(LANES, W)
#define ONE(l, d) 1
#define BIT(l, d) (1 << (l))
#define ONES ((IVEC){LANES(ONE, 0)})
#define BITS ((IVEC){LANES(BIT, 0)})

/* ---- sums of W vectors: element i of the result is the sum of s[i]'s elements --------------------------------------- */

#define KEEP(l, d) ((l) & (d) ? (l) + W : (l))
#define CROSS(l, d) ((l) & (d) ? ((l) ^ (d)) + W : ((l) ^ (d)))
/* Lane l of a step's sum: where bit d of l is 0, a[l] + a[l ^ d], else b[l] + b[l ^ d]. */
#define PAIR(a, b, d) (SHUFFLE(IVEC, a, b, LANES(KEEP, d)) + SHUFFLE(IVEC, a, b, LANES(CROSS, d)))
#define HALVE(d)                                                                                                       \
    if (W > d) UNROLL for (int j = 0; j < (d); j++) s[j] = PAIR(s[j], s[j + (d)], (d) % W);
#define DEFINE_SUMS                                                                                                    \
    static INLINE VEC NAME(sums)(VEC *s) {                                                                             \
        HALVE(8) HALVE(4) HALVE(2) HALVE(1) return s[0];                                                               \
    }
