/* The arithmetic of a sparse layer: what it is given for each instance is in ../vectors.h. */

/* Backward a tile's inputs and their gradients are in registers together. */
#if defined(__x86_64__)
#define LONG_TILE (sizeof(VEC) == 64 ? 8 : 4)
#else
#define LONG_TILE 8
#endif

/* ---- between torch's tensors and our maps --------------------------------------------------------------------------- */

#define LOW(l, d) ((l) / 2 + ((l) % 2) * W)
#define HIGH(l, d) ((l) / 2 + W / 2 + ((l) % 2) * W)
/* Transposes W vectors: each round is a perfect shuffle of all their numbers. */
static INLINE void NAME(turn)(VEC *r) {
    VEC s[W];
    UNROLL for (int round = 1; round < W; round *= 2) {
        UNROLL for (int i = 0; i < W / 2; i++) {
            s[2 * i] = SHUFFLE(IVEC, r[i], r[i + W / 2], LANES(LOW, 0));
            s[2 * i + 1] = SHUFFLE(IVEC, r[i], r[i + W / 2], LANES(HIGH, 0));
        }
        UNROLL for (int i = 0; i < W; i++) r[i] = s[i];
    }
}

#undef LOW
#undef HIGH

/* How many of so many numbers fit into a vector. */
static INLINE long NAME(in_vector)(long left) { return left < 0 ? 0 : left < W ? left : W; }

static INLINE VEC NAME(load_some)(const REAL *from, long some) {
    VEC v = SET1(0);
    memcpy(&v, from, sizeof(REAL) * some);
    return v;
}

/* A map between torch's memory, [example][channel][place] or, if `last`, [example][place][channel], and ours. */
typedef struct {
    const map *m;
    long size, channel, step; /* numbers from example to example; in ours, from channel to channel, position to position */
    int last;
} NAME(way);

static INLINE NAME(way) NAME(way_of)(const map *m, int last, long abreast) {
    return (NAME(way)){m, (long)m->channels * m->places, m->planes * m->plane, abreast * W, last};
}

/* Numbers from the beginning of ours to what is at the i-th of torch's inner dimension and the o-th of its outer one; less
   than 0 where no window meets it. */
static INLINE long NAME(ours)(const NAME(way) *y, long o, long i) {
    long place = y->m->place[y->last ? o : i];
    return place < 0 ? -1 : place * y->step + (y->last ? i : o) * y->channel;
}

/* Whether the W of the inner dimension from i on are all met, or lie in ours at the same distance from each other. */
static INLINE int NAME(order)(const NAME(way) *y, long o, long i) {
    if (y->last) return y->m->place[o] >= 0 ? STRAIGHT : STREWN;
    return y->m->order[i / W];
}

/* W of the inner dimension from i on, of W examples, come to ours, where `examples` of them are and the other lanes are 0.
   With `totals`, all that comes to a channel is added to the channel's. */
static INLINE void NAME(take)(const NAME(way) *y, const REAL *from, long o, long i, long inner, long examples, REAL *to,
                              VEC *totals) {
    VEC r[W];
    int order = examples == W && i + W <= inner ? NAME(order)(y, o, i) : STREWN;
    if (order != STREWN) {
        long apart = y->last ? y->channel : y->step;
        UNROLL for (int e = 0; e < W; e++) r[e] = LOAD(from + e * y->size);
        NAME(turn)(r);
        if (order == STRAIGHT) {
            to += NAME(ours)(y, o, i);
            UNROLL for (int j = 0; j < W; j++) STORE(to + j * apart, r[j]);
        } else
            UNROLL for (int j = 0; j < W; j++) STORE(to + NAME(ours)(y, o, i + j), r[j]);
        if (!totals) return;
        if (y->last) {
            UNROLL for (int j = 0; j < W; j++) totals[i + j] = totals[i + j] + r[j];
        } else {
            VEC sum = r[0];
            UNROLL for (int j = 1; j < W; j++) sum = sum + r[j];
            totals[o] = totals[o] + sum;
        }
        return;
    }
    long some = NAME(in_vector)(inner - i);
    for (long e = 0; e < W; e++) r[e] = e < examples ? NAME(load_some)(from + e * y->size, some) : SET1(0);
    NAME(turn)(r);
    for (long j = 0; j < some; j++) {
        long at = NAME(ours)(y, o, i + j), c = y->last ? i + j : o;
        if (at >= 0) STORE(to + at, r[j]);
        if (totals) totals[c] = totals[c] + r[j];
    }
}

/* The way back: what no window meets is 0. */
static INLINE void NAME(give)(const NAME(way) *y, const REAL *from, long o, long i, long inner, long examples, REAL *to) {
    VEC r[W];
    int order = examples == W && i + W <= inner ? NAME(order)(y, o, i) : STREWN;
    if (order != STREWN) {
        long apart = y->last ? y->channel : y->step;
        if (order == STRAIGHT) {
            from += NAME(ours)(y, o, i);
            UNROLL for (int j = 0; j < W; j++) r[j] = LOAD(from + j * apart);
        } else
            UNROLL for (int j = 0; j < W; j++) r[j] = LOAD(from + NAME(ours)(y, o, i + j));
        NAME(turn)(r);
        UNROLL for (int e = 0; e < W; e++) STORE(to + e * y->size, r[e]);
        return;
    }
    long some = NAME(in_vector)(inner - i);
    for (long j = 0; j < W; j++) {
        long at = j < some ? NAME(ours)(y, o, i + j) : -1;
        r[j] = at < 0 ? SET1(0) : LOAD(from + at);
    }
    NAME(turn)(r);
    for (long e = 0; e < examples; e++) memcpy(to + e * y->size, &r[e], sizeof(REAL) * some);
}

/* All of a panel, strip by strip, so that what lies beside each other in ours is met together. */
#define STRIP (4 * W)
#define STRIPS(o, v, i)                                                                                                \
    long inner = last ? m->channels : m->places, outer = last ? m->places : m->channels;                               \
    const NAME(way) y = NAME(way_of)(m, last, abreast);                                                                \
    for (long o = 0; o < outer; o++)                                                                                   \
        for (long strip = 0; strip < inner; strip += STRIP)                                                            \
            for (long v = 0; v < abreast; v++)                                                                         \
                for (long i = strip; i < inner && i < strip + STRIP; i += W)

static INLINE long NAME(lanes)(long examples, long v) { return NAME(in_vector)(examples - v * W); }

static INLINE void NAME(take_strips)(const map *m, const REAL *x, long examples, const int last, long abreast, REAL *to,
                                     VEC *totals) {
    STRIPS(o, v, i) NAME(take)(&y, x + v * W * y.size + o * inner + i, o, i, inner, NAME(lanes)(examples, v), to + v * W, totals);
}

static INLINE void NAME(give_strips)(const map *m, const REAL *from, long examples, const int last, long abreast, REAL *x) {
    STRIPS(o, v, i) NAME(give)(&y, from + v * W, o, i, inner, NAME(lanes)(examples, v), x + v * W * y.size + o * inner + i);
}
#undef STRIPS
#undef STRIP

static void NAME(take_panel)(const map *m, const REAL *x, long examples, int last, long abreast, REAL *to, VEC *totals) {
    if (last || m->places == 1) NAME(take_strips)(m, x, examples, 1, abreast, to, totals);
    else NAME(take_strips)(m, x, examples, 0, abreast, to, totals);
}

static void NAME(give_panel)(const map *m, const REAL *from, long examples, int last, long abreast, REAL *x) {
    if (last || m->places == 1) NAME(give_strips)(m, from, examples, 1, abreast, x);
    else NAME(give_strips)(m, from, examples, 0, abreast, x);
}

/* The border of a map becomes 0. */
static void NAME(clear)(const map *m, long abreast, REAL *to) {
    for (long c = 0; c < m->channels; c++, to += m->planes * m->plane)
        for (long g = 0; g < m->n_gaps; g++)
            memset(to + m->gaps[g].begin * abreast * W, 0, sizeof(REAL) * m->gaps[g].length * abreast * W);
}

/* ---- walks ---------------------------------------------------------------------------------------------------------- */

/* While a tile is computed, what its successor reads comes nearer: with the i-th of n channels written, the share of the
   channels read that falls to it. */
static INLINE void NAME(foresee)(const int T, const map *read, const REAL *soon, long i, long n) {
    long planes = (long)read->channels * read->planes;
    for (long c = i * planes / n; c < (i + 1) * planes / n; c++)
        UNROLL for (int j = 0; j < T; j++) __builtin_prefetch(soon + c * read->plane + j * W, 0, 2);
}

/* y = b + sum_k w[k] x[offset[k]] for all channels, at T neighbouring vectors of a row. */
static INLINE void NAME(forward_tile)(const int T, const list *l, const REAL *w, const REAL *bias, const REAL *x,
                                      const map *read, const REAL *soon, REAL *y, long plane) {
    for (long b = 0, t = 0; b < l->blocks; b++)
        for (; t < l->block[b + 1]; t++) {
            segment s = l->segments[t];
            REAL *to = y + s.row * plane;
            VEC a[MOST];
            if (b) {
                UNROLL for (int j = 0; j < T; j++) a[j] = LOAD(to + j * W);
            } else {
                VEC start = bias ? SET1(bias[s.row]) : SET1(0);
                UNROLL for (int j = 0; j < T; j++) a[j] = start;
                NAME(foresee)(T, read, soon, t, l->block[1]);
            }
            for (long k = s.begin; k < s.end; k++) {
                const REAL *from = x + l->offset[k];
                VEC u = SET1(w[k]);
                UNROLL for (int j = 0; j < T; j++) a[j] = FMA(u, LOAD(from + j * W), a[j]);
            }
            UNROLL for (int j = 0; j < T; j++) STORE(to + j * W, a[j]);
        }
}

/* Both gradients in one walk: x and dx of a tile stay in registers, each vector of dy is loaded once and serves two
   multiply-adds. Where the tile begins with positions that were met before, `again` of them, they count no second time
   in dw. The sums over the tile of W weights at a time stay in the first cache and become one vector of dw. */
static INLINE void NAME(backward_tile)(const int T, const int inputs, const int weights, const list *l, const REAL *w,
                                       const REAL *dy, const map *read, const REAL *soon, const REAL *x, REAL *dx,
                                       long plane, long again, REAL *dw) {
    VEC some[W];
    for (long b = 0, t = 0; b < l->blocks; b++)
        for (; t < l->block[b + 1]; t++) {
            segment s = l->segments[t];
            VEC a[MOST], d[MOST];
            if (weights) {
                UNROLL for (int j = 0; j < T; j++) a[j] = LOAD(x + s.row * plane + j * W);
                if (again) UNROLL for (int j = 0; j < T; j++) if (j < again) a[j] = SET1(0);
            }
            if (inputs) UNROLL for (int j = 0; j < T; j++) d[j] = b ? LOAD(dx + s.row * plane + j * W) : SET1(0);
            if (!b) NAME(foresee)(T, read, soon, t, l->block[1]);
            for (long k = s.begin; k < s.end;) {
                long stop = s.end < (k | (W - 1)) + 1 ? s.end : (k | (W - 1)) + 1;
                for (; k < stop; k++) {
                    const REAL *from = dy + l->offset[k];
                    VEC u = SET1(w[k]), p = SET1(0), q = SET1(0);
                    UNROLL for (int j = 0; j < T; j++) {
                        VEC one = LOAD(from + j * W);
                        if (inputs) d[j] = FMA(u, one, d[j]);
                        if (weights && j % 2) q = FMA(a[j], one, q);
                        else if (weights) p = FMA(a[j], one, p);
                    }
                    if (weights) some[k % W] = p + q;
                }
                if (weights && k % W == 0) STORE(dw + k - W, LOAD(dw + k - W) + NAME(sums)(some));
            }
            if (inputs) UNROLL for (int j = 0; j < T; j++) STORE(dx + s.row * plane + j * W, d[j]);
        }
    if (weights && l->count % W) {
        for (long j = l->count % W; j < W; j++) some[j] = SET1(0);
        REAL *to = dw + l->count - l->count % W;
        STORE(to, LOAD(to) + NAME(sums)(some));
    }
}

/* The tiles of T vectors of all rows, of which a row's last one begins where it ends with the row. */
#define TILES(T, at, again)                                                                                            \
    for (long r = 0; r < m->rows; r++)                                                                                 \
        for (long v = 0, at, again; v < m->across && (at = v + T <= m->across ? v : m->across - T, again = v - at, 1); v += T)

static INLINE void NAME(forward_walk)(const int T, const layer *l, const REAL *x, REAL *y, const REAL *w,
                                      const REAL *bias) {
    const map *m = &l->out, *read = &l->in;
    TILES(T, at, again) {
        (void)again;
        const REAL *from = x + r * read->pitch + at * W;
        NAME(forward_tile)(T, &l->forward, w, bias, from, read, from + l->forward.reach + T * W,
                           y + m->first + r * m->pitch + at * W, m->plane);
    }
}

static INLINE void NAME(backward_walk)(const int T, const int inputs, const int weights, const layer *l, const REAL *x,
                                       const REAL *dy, REAL *dx, const REAL *w, REAL *dw) {
    const map *m = &l->in, *read = &l->out;
    TILES(T, at, again) {
        const REAL *from = dy + r * read->pitch + at * W;
        long to = m->first + r * m->pitch + at * W;
        NAME(backward_tile)(T, inputs, weights, &l->backward, w, from, read, from + l->backward.reach + T * W,
                            x + to, dx + to, m->plane, again, dw);
    }
}
#undef TILES

static void NAME(forward_any)(const layer *l, const REAL *x, REAL *y, const REAL *w, const REAL *bias) {
    long across = l->out.across;
    if (across >= 8) NAME(forward_walk)(8, l, x, y, w, bias);
    else if (across >= 4) NAME(forward_walk)(4, l, x, y, w, bias);
    else if (across >= 2) NAME(forward_walk)(2, l, x, y, w, bias);
    else NAME(forward_walk)(1, l, x, y, w, bias);
}

#define BACKWARD(SOME, inputs, weights)                                                                                \
    static void NAME(backward_##SOME)(const layer *l, const REAL *x, const REAL *dy, REAL *dx, const REAL *w,          \
                                      REAL *dw) {                                                                      \
        long across = l->in.across;                                                                                    \
        if (across >= LONG_TILE && LONG_TILE == 8) NAME(backward_walk)(8, inputs, weights, l, x, dy, dx, w, dw);       \
        else if (across >= 4) NAME(backward_walk)(4, inputs, weights, l, x, dy, dx, w, dw);                            \
        else if (across >= 2) NAME(backward_walk)(2, inputs, weights, l, x, dy, dx, w, dw);                            \
        else NAME(backward_walk)(1, inputs, weights, l, x, dy, dx, w, dw);                                             \
    }
BACKWARD(both, 1, 1)
BACKWARD(inputs, 1, 0)
BACKWARD(weights, 0, 1)
#undef BACKWARD

/* ---- a layer -------------------------------------------------------------------------------------------------------- */

static void NAME(forward)(const layer *l, const REAL *x, int x_last, REAL *y, int y_last, const REAL *w, const REAL *bias,
                          long examples, long begin, long end, REAL *room) {
    long panel = (long)l->abreast * W, in = (long)l->in.channels * l->in.places, out = (long)l->out.channels * l->out.places;
    REAL *xs = room, *ys = xs + l->in.channels * l->in.planes * l->in.plane;
    NAME(clear)(&l->in, l->abreast, xs);
    for (long p = begin; p < end; p++) {
        long some = examples - p * panel;
        NAME(take_panel)(&l->in, x + p * panel * in, some, x_last, l->abreast, xs, NULL);
        NAME(forward_any)(l, xs, ys, w, bias);
        NAME(give_panel)(&l->out, ys, some, y_last, l->abreast, y + p * panel * out);
    }
}

static void NAME(backward)(const layer *l, const REAL *x, int x_last, const REAL *dy, int dy_last, REAL *dx, const REAL *w,
                           REAL *dw, REAL *db, long examples, long begin, long end, REAL *room) {
    long panel = (long)l->abreast * W, in = (long)l->in.channels * l->in.places, out = (long)l->out.channels * l->out.places;
    long size = l->in.channels * l->in.planes * l->in.plane;
    REAL *xs = room, *dxs = xs + size, *dys = dxs + size;
    VEC *totals = db ? (VEC *)(dys + l->out.channels * l->out.plane) : NULL;
    if (db) memset(totals, 0, sizeof(VEC) * l->out.channels);
    NAME(clear)(&l->out, l->abreast, dys);
    if (dw) NAME(clear)(&l->in, l->abreast, xs);
    for (long p = begin; p < end; p++) {
        long some = examples - p * panel;
        NAME(take_panel)(&l->out, dy + p * panel * out, some, dy_last, l->abreast, dys, totals);
        if (dw) NAME(take_panel)(&l->in, x + p * panel * in, some, x_last, l->abreast, xs, NULL);
        if (dw && dx) NAME(backward_both)(l, xs, dys, dxs, w, dw);
        else if (dw) NAME(backward_weights)(l, xs, dys, dxs, w, dw);
        else if (dx) NAME(backward_inputs)(l, xs, dys, dxs, w, dw);
        if (dx) NAME(give_panel)(&l->in, dxs, some, x_last, l->abreast, dx + p * panel * in);
    }
    for (long c = 0; db && c < l->out.channels; c++)
        for (int lane = 0; lane < W; lane++) db[c] += ((const REAL *)(totals + c))[lane];
}

/* ---- a dense weight ------------------------------------------------------------------------------------------------- */

/* Lanes of 64 numbers that are not 0 where `alive` has no bit. */
static INLINE IVEC NAME(strays)(const REAL *from, uint64_t alive) {
    IVEC found = {0};
    UNROLL for (int j = 0; j < 64 / W; j++) {
        IVEC dead = (((IVEC){0} + (int)(alive >> j * W & ((1 << W) - 1))) & BITS) == 0;
        found |= dead & (LOAD(from + j * W) != SET1(0));
    }
    return found;
}

static int NAME(whole)(const REAL *dense, long count, const uint64_t *alive) {
    for (long begin = 0, end; begin < count / 64; begin = end) { /* what strays is mostly found soon */
        IVEC found = {0};
        end = begin + 64 < count / 64 ? begin + 64 : count / 64;
        for (long i = begin; i < end; i++) found |= NAME(strays)(dense + 64 * i, alive[i]);
        for (int l = 0; l < W; l++)
            if (found[l]) return 0;
    }
    if (count % 64 == 0) return 1;
    REAL rest[64] = {0};
    memcpy(rest, dense + count / 64 * 64, sizeof(REAL) * (count % 64));
    IVEC found = NAME(strays)(rest, alive[count / 64]);
    for (int l = 0; l < W; l++)
        if (found[l]) return 0;
    return 1;
}

#undef LONG_TILE
