/* Makes room for the next instance of kernels.h. */
#undef REAL
#undef W
#undef VEC
#undef IVEC
#undef SET1
#undef FMA
#undef SQRT
#undef NAME
#undef P
#undef TIMES
#undef OUTER
#undef UPPER
#undef LOWER
#undef GATHER
