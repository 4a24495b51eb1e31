/* Makes room for the next instance of the arithmetic. */
#undef SET
#undef WIDE
#undef REAL
#undef W
#undef VEC
#undef IVEC
#undef SET1
#undef FMA
#undef SQRT
#undef NAME
