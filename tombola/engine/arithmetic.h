/* The engine's arithmetic: what it is given for each instance is in ../instances.h, and besides

     ROWS      rows of outputs that a dense product keeps in registers
     SPOTS     positions of a map that a sparse convolution's weight meets at once
     SELECT    lane by lane, as C++ writes `test ? a : b`
     SUMS      the sums of W vectors
     INPUT     W bytes as inputs: fl(fl(scale byte) + shift) in float32, whatever REAL is
     GATHER    W floats from wherever they are */

#if SET == AVX512
#define ROWS 6
#define SPOTS 4
#else
#define ROWS 3
#define SPOTS 2
#endif

#define SUMS NAME(sums)
#define SELECT(test, a, b) ((VEC)(((IVEC)(test) & (IVEC)(a)) | (~(IVEC)(test) & (IVEC)(b))))

#if SET == AVX512
#define GATHER(x, i) ((VEC)_mm512_i32gather_ps(_mm512_loadu_si512(i), x, 4))
#elif SET == AVX2
#define GATHER(x, i) ((VEC)_mm256_i32gather_ps(x, _mm256_loadu_si256((const __m256i *)(i)), 4))
#else
#define GATHER(x, i) ((VEC){(x)[(i)[0]], (x)[(i)[1]], (x)[(i)[2]], (x)[(i)[3]]})
#endif

#define INPUT NAME(input)
#define BYTE(l, from) ((REAL)((float)(from)[l] * scale + shift))
static INLINE VEC NAME(input)(const uint8_t *from, float scale, float shift) {
#if SET == AVX512 && !WIDE
    return (VEC)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from))) * scale + shift;
#elif SET == AVX2 && !WIDE
    return (VEC)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from))) * scale + shift;
#else
    return (VEC){LANES(BYTE, from)};
#endif
}

/* exp, for arguments <= 0: to an ulp or two in float32 */
#if WIDE
static INLINE VEC NAME(exponential)(VEC x) {
    for (int j = 0; j < W; j++) x[j] = exp(x[j]);
    return x;
}
#else
static INLINE VEC NAME(exponential)(VEC x) {
    x = SELECT(x < SET1(-87.0f), SET1(-87.0f), x);
    VEC t = FMA(x, SET1(1.44269504f), SET1(12582912.0f)); /* 1.5 * 2^23: rounds to an integer */
    VEC n = t - SET1(12582912.0f);
    VEC r = FMA(n, SET1(-0.693359375f), x);
    r = FMA(n, SET1(2.12194440e-4f), r);
    VEC p = SET1(1.9875691500e-4f);
    p = FMA(p, r, SET1(1.3981999507e-3f));
    p = FMA(p, r, SET1(8.3334519073e-3f));
    p = FMA(p, r, SET1(4.1665795894e-2f));
    p = FMA(p, r, SET1(1.6666665459e-1f));
    p = FMA(p, r, SET1(5.0000001201e-1f));
    p = FMA(p, r * r, r) + SET1(1.0f);
    IVEC power = ((IVEC)t - 0x4b400000 + 127) << 23;
    return p * (VEC)power;
}
#endif

#include "kernels.h"
#if !WIDE
#include "packed.h"
#include "inference.h"
#endif

#undef ROWS
#undef SPOTS
#undef SUMS
#undef SELECT
#undef GATHER
#undef INPUT
#undef BYTE
#undef P
#undef TIMES
#undef OUTER
#undef UPPER
#undef LOWER
