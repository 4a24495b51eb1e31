/* Convolutions of stride 1 that keep the size of their map, and max pooling: once for each instance, like kernels.h.

   A map is [panel][channel][position][P]. Positions are those of the image and of a border of zeros around it, row by
   row, so that a window that hangs over the edge reads zeros. A layer's inputs, outputs and their gradients have the
   same border: what a weight meets at a position is at a fixed distance from it, l->column[k] in the inputs and
   l->t_column[k] in the gradients of the outputs. */

#define MAP(l, channels) ((long)(channels) * (l)->plane * P)

/* The first position of an image's row: of its window, and its own. */
#define WINDOW(l, at_row) (((l)->corner + (at_row) * (l)->pitch) * (long)P)
#define PLACE(l, at_row) (((l)->inner + (at_row) * (l)->pitch) * (long)P)

/* ---- dense ---------------------------------------------------------------------------------------------------------- */

/* y[r ys] += sum_k a[r rs + (list ? list[k] : k)] x[from[k]] for all rows r of outputs, at all positions of an image's row:
   a few k at a time, so that their weights stay in the second cache while the positions pass. */
static void NAME(product_along)(const REAL *a, long rs, const int32_t *list, const int32_t *from, const REAL *x, REAL *y,
                                long ys, long rows, long n, long width) {
    for (long k = 0; k < n; k += NEAR) {
        long span = n - k < NEAR ? n - k : NEAR;
        for (long at = 0; at < width * P; at += P) {
            long r = 0;
            if (list) {
                for (; r + ROWS <= rows; r += ROWS)
                    NAME(times_many_strewn)(a + r * rs, rs, 1, list + k, from + k, x + at, y + r * ys + at, ys, span);
                for (; r < rows; r++)
                    NAME(times_one_strewn)(a + r * rs, rs, 1, list + k, from + k, x + at, y + r * ys + at, ys, span);
            } else {
                for (; r + ROWS <= rows; r += ROWS)
                    NAME(times_many_mapped)(a + r * rs + k, rs, 1, 0, from + k, x + at, y + r * ys + at, ys, span);
                for (; r < rows; r++)
                    NAME(times_one_mapped)(a + r * rs + k, rs, 1, 0, from + k, x + at, y + r * ys + at, ys, span);
            }
        }
    }
}

/* g[r, c] += dy[r] . x[column[c]] over some rows of the image, for R outputs and C weights of each. */
#define SLOPE(SOME, R, C)                                                                                              \
    static INLINE void NAME(slope_##SOME)(const layer *l, const REAL *dy, const REAL *x, const int32_t *column,        \
                                          long rows, REAL *g) {                                                        \
        enum { SLOTS = (R * C + W - 1) / W * W };                                                                      \
        VEC s[SLOTS];                                                                                                  \
        REAL sums[SLOTS] ALIGNED;                                                                                      \
        long plane = (long)l->plane * P, row = (long)l->pitch * P, width = (long)l->width * P;                           \
        const REAL *from[C];                                                                                           \
        for (int c = 0; c < C; c++) from[c] = x + (long)column[c] * P;                                                 \
        for (int q = 0; q < SLOTS; q++) s[q] = SET1(0);                                                                \
        for (long end = rows * row, begin = 0; begin < end; begin += row)                                              \
            for (long at = begin; at < begin + width; at += W) {                                                       \
                VEC d[R];                                                                                              \
                for (int r = 0; r < R; r++) d[r] = LOAD(dy + r * plane + at);                                          \
                for (int c = 0; c < C; c++) {                                                                          \
                    VEC one = LOAD(from[c] + at);                                                                      \
                    for (int r = 0; r < R; r++) s[r * C + c] = FMA(d[r], one, s[r * C + c]);                           \
                }                                                                                                      \
            }                                                                                                          \
        for (int q = 0; q < SLOTS; q += W) {                                                                           \
            VEC t[W];                                                                                                  \
            for (int j = 0; j < W; j++) t[j] = s[q + j];                                                               \
            STORE(sums + q, SUMS(t));                                                                                  \
        }                                                                                                              \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int c = 0; c < C; c++) g[(long)r * l->stride + c] += sums[r * C + c];                                 \
    }
#if ROWS == 6
enum { NAME(DEEP) = 4, NAME(WIDE) = 6 };
SLOPE(many, 4, 6)
SLOPE(one_weight, 4, 1)
SLOPE(one_output, 1, 6)
#else
enum { NAME(DEEP) = 3, NAME(WIDE) = 3 };
SLOPE(many, 3, 3)
SLOPE(one_weight, 3, 1)
SLOPE(one_output, 1, 3)
#endif
SLOPE(one, 1, 1)

/* Rows of the image by the dozen or so: their gradients and inputs stay in the second cache while all weights pass. */
static void NAME(dense_slope)(const layer *l, const REAL *dy, const REAL *x) {
    long deep = NAME(DEEP), wide = NAME(WIDE), n = (long)l->in * l->size * l->size, plane = (long)l->plane * P;
    long some = l->width < BAND ? BAND / l->width : 1;
    REAL *g = l->g;
    for (long top = 0; top < l->height; top += some) {
        long rows = l->height - top < some ? l->height - top : some;
        const REAL *from = x + WINDOW(l, top), *d = dy + PLACE(l, top);
        for (long k = 0, next; k < n; k = next) {
            next = k + wide <= n ? k + wide : k + 1;
            for (long o = 0; o < l->out;) {
                REAL *to = g + o * l->stride + k;
                const REAL *of = d + o * plane;
                int many = o + deep <= l->out, whole = next == k + wide;
                if (many && whole) NAME(slope_many)(l, of, from, l->column + k, rows, to);
                else if (many) NAME(slope_one_weight)(l, of, from, l->column + k, rows, to);
                else if (whole) NAME(slope_one_output)(l, of, from, l->column + k, rows, to);
                else NAME(slope_one)(l, of, from, l->column + k, rows, to);
                o += many ? deep : 1;
            }
        }
    }
}

/* ---- sparse --------------------------------------------------------------------------------------------------------- */

/* y[row ys] += sum_k w[k] x[column[k]] over each segment's weights, at V / 4 neighbouring positions. */
#define SPARSE_AT(SOME, V)                                                                                             \
    static INLINE void NAME(sparse_at_##SOME)(const segment *segments, long n, const int32_t *column, const REAL *w,   \
                                              const REAL *x, REAL *y, long ys) {                                       \
        for (long t = 0; t < n; t++) {                                                                                 \
            segment s = segments[t];                                                                                   \
            REAL *to = y + s.row * ys;                                                                                 \
            VEC a[V];                                                                                                  \
            for (int j = 0; j < V; j++) a[j] = LOAD(to + j * W);                                                       \
            for (long k = s.begin; k < s.end; k++) {                                                                   \
                const REAL *from = x + (long)column[k] * P;                                                            \
                VEC u = SET1(w[k]);                                                                                    \
                for (int j = 0; j < V; j++) a[j] = FMA(u, LOAD(from + j * W), a[j]);                                   \
            }                                                                                                          \
            for (int j = 0; j < V; j++) STORE(to + j * W, a[j]);                                                       \
        }                                                                                                              \
    }
SPARSE_AT(one, 4)
SPARSE_AT(many, 4 * SPOTS)

/* g[k] += dy[row[k]] . x[column[k]] at V / 4 neighbouring positions; as sparse_learn, a chunk of weights after another. */
#define SPARSE_SLOPE(SOME, V)                                                                                          \
    static INLINE void NAME(sparse_slope_##SOME)(const layer *l, const REAL *dy, const REAL *x) {                      \
        const int32_t *column = l->column;                                                                             \
        REAL *g = l->g;                                                                                                \
        VEC s[CHUNK];                                                                                                  \
        segment at = {0, 0, 0};                                                                                        \
        long t = 0;                                                                                                    \
        for (long first = 0; first < l->count; first += CHUNK) {                                                       \
            long end = l->count - first < CHUNK ? l->count : first + CHUNK;                                            \
            for (long k = first; k < end;) {                                                                           \
                if (k == at.end) at = l->segments[t++];                                                                \
                long stop = at.end < end ? at.end : end;                                                               \
                const REAL *of = dy + MAP(l, at.row);                                                                  \
                VEC d[V];                                                                                              \
                for (int j = 0; j < V; j++) d[j] = LOAD(of + j * W);                                                   \
                for (long q = k; q < stop; q++) {                                                                      \
                    const REAL *f = x + (long)column[q] * P;                                                           \
                    VEC a = d[0] * LOAD(f), b = d[1] * LOAD(f + W);                                                    \
                    for (int j = 2; j < V; j += 2) {                                                                   \
                        a = FMA(d[j], LOAD(f + j * W), a);                                                             \
                        b = FMA(d[j + 1], LOAD(f + (j + 1) * W), b);                                                   \
                    }                                                                                                  \
                    s[q - first] = a + b;                                                                              \
                }                                                                                                      \
                k = stop;                                                                                              \
            }                                                                                                          \
            for (long k = end; k < first + CHUNK && k % W; k++) s[k - first] = SET1(0);                                \
            for (long k = first; k < end; k += W) STORE(g + k, LOAD(g + k) + SUMS(s + (k - first)));                   \
        }                                                                                                              \
    }
SPARSE_SLOPE(one, 4)
SPARSE_SLOPE(many, 4 * SPOTS)

/* ---- a layer -------------------------------------------------------------------------------------------------------- */

/* y = max(0, x * w + bias), one panel; `y` starts with anything inside and with zeros in its border. A row of the image
   is finished while it is in the second cache. */
static void NAME(convolve)(const layer *l, const REAL *x, REAL *y) {
    const REAL *bias = l->bias;
    long plane = (long)l->plane * P, n = (long)l->in * l->size * l->size;
    for (long r = 0; r < l->height; r++) {
        const REAL *from = x + WINDOW(l, r);
        REAL *to = y + PLACE(l, r);
        for (long o = 0; o < l->out; o++) {
            VEC b = SET1(bias[o]);
            for (long at = 0; at < (long)l->width * P; at += W) STORE(to + o * plane + at, b);
        }
        long c = 0;
        if (l->kind == DENSE) {
            NAME(product_along)(l->w, l->stride, 0, l->column, from, to, plane, l->out, n, l->width);
            c = l->width;
        }
        for (; c + SPOTS <= l->width; c += SPOTS)
            NAME(sparse_at_many)(l->segments, l->n_segments, l->column, l->w, from + c * P, to + c * P, plane);
        for (; c < l->width; c++)
            NAME(sparse_at_one)(l->segments, l->n_segments, l->column, l->w, from + c * P, to + c * P, plane);
        for (long o = 0; o < l->out; o++) NAME(positive)(to + o * plane, (long)l->width * P);
    }
}

/* dL/dx of a panel, 0 where the ReLU before it gave 0: dy meets the weights turned round. */
static void NAME(convolve_back)(const layer *l, const REAL *dy, const REAL *x, REAL *dx) {
    long plane = (long)l->plane * P, n = (long)l->out * l->size * l->size;
    for (long r = 0; r < l->height; r++) {
        const REAL *from = dy + WINDOW(l, r);
        REAL *to = dx + PLACE(l, r);
        for (long i = 0; i < l->in; i++) memset(to + i * plane, 0, sizeof(REAL) * l->width * P);
        long c = 0;
        if (l->kind == DENSE) {
            long area = l->size * l->size;
            NAME(product_along)(l->w, area, l->t_place, l->t_column, from, to, plane, l->in, n, l->width);
            c = l->width;
        }
        for (; c + SPOTS <= l->width; c += SPOTS)
            NAME(sparse_at_many)(l->t_segments, l->n_t_segments, l->t_column, l->t_w, from + c * P, to + c * P, plane);
        for (; c < l->width; c++)
            NAME(sparse_at_one)(l->t_segments, l->n_t_segments, l->t_column, l->t_w, from + c * P, to + c * P, plane);
        for (long i = 0; i < l->in; i++)
            NAME(where_positive)(x + PLACE(l, r) + i * plane, to + i * plane, (long)l->width * P);
    }
}

/* The weights' gradients of all panels, into l->g, and the step they ask for. */
static void NAME(convolution_learn)(const layer *l, const REAL *x, long panels, int kind, const NAME(pace) *pace) {
    long size = l->kind == DENSE ? (long)l->out * l->stride : (l->count + W - 1) / W * W;
    REAL *g = l->g, *w = l->w, *m = l->m, *v = l->v;
    memset(g, 0, sizeof(REAL) * size);
    for (long p = 0; p < panels; p++, x += MAP(l, l->in)) {
        const REAL *dy = (REAL *)l->dy + p * MAP(l, l->out);
        if (l->kind == DENSE) NAME(dense_slope)(l, dy, x);
        else
            for (long r = 0; r < l->height; r++) {
                const REAL *from = x + WINDOW(l, r), *d = dy + PLACE(l, r);
                long c = 0;
                for (; c + SPOTS <= l->width; c += SPOTS) NAME(sparse_slope_many)(l, d + c * P, from + c * P);
                for (; c < l->width; c++) NAME(sparse_slope_one)(l, d + c * P, from + c * P);
            }
    }
    if (l->alive)
        for (long at = 0; at < size; at += W)
            STORE(g + at, SELECT((ONES * l->alive[at / W] & BITS) != 0, LOAD(g + at), SET1(0)));
    NAME(move_all)(kind, pace, g, w, m, v, size);
}

/* ---- pooling: windows that do not overlap ---------------------------------------------------------------------------- */

#define EACH_POOLED(l, ...)                                                                                            \
    for (long channel = 0; channel < (l)->out; channel++)                                                              \
        for (long r = 0; r < (l)->height / (l)->pool; r++)                                                             \
            for (long c = 0; c < (l)->width / (l)->pool; c++) {                                                        \
                long to = (channel * (l)->z_plane + (l)->z_inner + r * (l)->z_pitch + c) * P;                            \
                long from = (channel * (l)->plane + (l)->inner + r * (l)->pool * (l)->pitch + c * (l)->pool) * P;        \
                for (int j = 0; j < 4; j++, to += W, from += W) __VA_ARGS__                                                 \
            }

/* The greatest of each window; NaN, as in torch, is greater than any number. */
static void NAME(pool)(const layer *l, const REAL *y, REAL *z) {
    EACH_POOLED(l, {
        VEC most = LOAD(y + from);
        for (long a = 0; a < l->pool; a++)
            for (long b = 0; b < l->pool; b++) {
                VEC one = LOAD(y + from + (a * l->pitch + b) * P);
                most = SELECT(one <= most, most, SELECT(most != most, most, one));
            }
        STORE(z + to, most);
    })
}

/* The gradient goes to the first of the window's greatest, as in torch, or, where that is NaN, to the first of all: it is
   not lost. dz is 0 already where the greatest is 0. */
static void NAME(unpool)(const layer *l, const REAL *y, const REAL *z, const REAL *dz, REAL *dy) {
    EACH_POOLED(l, {
        VEC most = LOAD(z + to), left = LOAD(dz + to);
        for (long a = 0; a < l->pool; a++)
            for (long b = 0; b < l->pool; b++) {
                long at = from + (a * l->pitch + b) * P;
                VEC one = LOAD(y + at);
                STORE(dy + at, SELECT(one < most, SET1(0), left));
                left = SELECT(one < most, left, SET1(0));
            }
    })
}

#undef MAP
#undef WINDOW
#undef PLACE
#undef SLOPE
#undef SPARSE_AT
#undef SPARSE_SLOPE
#undef EACH_POOLED
