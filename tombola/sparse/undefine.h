/* Makes room for the next instance of walk.h. */
#undef REAL
#undef W
#undef VEC
#undef IVEC
#undef SET1
#undef FMA
#undef NAME
#undef LONG_TILE
