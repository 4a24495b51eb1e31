/* Training a network.

   The batch is innermost: a layer's values are [panel][unit][P], P = 4 W examples to a panel, so that one weight meets
   four full vectors. Lanes beyond the batch hold zeros as gradients and anything finite as values. */

#define P (4 * W)

/* ---- the optimiser: one vector of gradients moves one vector of weights -------------------------------------------*/

typedef struct {
    VEC rate, decay, keep, momentum, one_less_beta1, beta2, one_less_beta2, root2, eps;
} NAME(pace);

static NAME(pace) NAME(pace_of)(const optimiser *o, double rate, long done) {
    NAME(pace) pace;
    double root2 = 1, step = rate;
    if (o->kind == ADAM || o->kind == ADAMW) {
        double count = (double)(o->done_before + done + 1);
        step = rate / (1 - pow(o->beta1, count));
        root2 = 1 / sqrt(1 - pow(o->beta2, count));
    }
    pace.rate = SET1((REAL)step);
    pace.decay = SET1((REAL)o->decay);
    pace.keep = SET1((REAL)(1 - rate * o->decay));
    pace.momentum = SET1((REAL)o->momentum);
    pace.one_less_beta1 = SET1((REAL)(1 - o->beta1));
    pace.beta2 = SET1((REAL)o->beta2);
    pace.one_less_beta2 = SET1((REAL)(1 - o->beta2));
    pace.root2 = SET1((REAL)root2);
    pace.eps = SET1((REAL)o->eps);
    return pace;
}

static INLINE void NAME(move)(int kind, const NAME(pace) *c, VEC g, REAL *w, REAL *m, REAL *v) {
    VEC weight = LOAD(w);
    if (kind == ADAM || kind == ADAMW) {
        if (kind == ADAMW) weight = weight * c->keep;
        else g = FMA(weight, c->decay, g);
        VEC first = LOAD(m), second = LOAD(v);
        first = FMA(g - first, c->one_less_beta1, first);
        second = FMA(second, c->beta2, g * g * c->one_less_beta2);
        STORE(m, first);
        STORE(v, second);
        weight = weight - c->rate * first / FMA(SQRT(second), c->root2, c->eps);
    } else {
        g = FMA(weight, c->decay, g);
        if (kind != SGD) {
            VEC first = FMA(LOAD(m), c->momentum, g);
            STORE(m, first);
            if (kind == NESTEROV) g = FMA(first, c->momentum, g);
            else g = first;
        }
        weight = weight - c->rate * g;
    }
    STORE(w, weight);
}

/* n is a multiple of W: every array of parameters is padded with zeros, which stay zero. */
static INLINE void NAME(move_all)(int kind, const NAME(pace) *c, const REAL *g, REAL *w, REAL *m, REAL *v, long n) {
    for (long i = 0; i < n; i += W) {
        VEC gradient = SET1(0);
        if (g) gradient = LOAD(g + i);
        NAME(move)(kind, c, gradient, w + i, m + i, v + i);
    }
}

/* ---- dense products ---------------------------------------------------------------------------------------------- */

/* y[r ys / P] += sum_k a[r rs + k ks] x[k] for R rows r; x and y are rows of P numbers. LISTED: the k-th weight of a row
   is number list[k]. STREWN: it meets row from[k] of x. */
#define TIMES(SOME, R, LISTED, STREWN)                                                                                 \
    static INLINE void NAME(times_##SOME)(const REAL *a, long rs, long ks, const int32_t *list, const int32_t *from,   \
                                          const REAL *x, REAL *y, long ys, long n) {                                   \
        VEC s[R][4];                                                                                                   \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int j = 0; j < 4; j++) s[r][j] = LOAD(y + r * ys + j * W);                                            \
        for (long k = 0; k < n; k++) {                                                                                 \
            const REAL *at = a + (LISTED ? list[k] : k * ks), *f = x + (STREWN ? from[k] : k) * P;                     \
            VEC x0 = LOAD(f), x1 = LOAD(f + W), x2 = LOAD(f + 2 * W), x3 = LOAD(f + 3 * W);                            \
            for (int r = 0; r < R; r++) {                                                                              \
                VEC b = SET1(at[r * rs]);                                                                              \
                s[r][0] = FMA(b, x0, s[r][0]);                                                                         \
                s[r][1] = FMA(b, x1, s[r][1]);                                                                         \
                s[r][2] = FMA(b, x2, s[r][2]);                                                                         \
                s[r][3] = FMA(b, x3, s[r][3]);                                                                         \
            }                                                                                                          \
        }                                                                                                              \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int j = 0; j < 4; j++) STORE(y + r * ys + j * W, s[r][j]);                                            \
    }
TIMES(one, 1, 0, 0)
TIMES(many, ROWS, 0, 0)
TIMES(one_mapped, 1, 0, 1)
TIMES(many_mapped, ROWS, 0, 1)
TIMES(one_strewn, 1, 1, 1)
TIMES(many_strewn, ROWS, 1, 1)

static void NAME(product)(const REAL *a, long rs, long ks, const REAL *x, REAL *y, long rows, long n) {
    for (long k = 0; k < n; k += NEAR) {
        long span = n - k < NEAR ? n - k : NEAR, r = 0;
        for (; r + ROWS <= rows; r += ROWS) NAME(times_many)(a + r * rs + k * ks, rs, ks, 0, 0, x + k * P, y + r * P, P, span);
        for (; r < rows; r++) NAME(times_one)(a + r * rs + k * ks, rs, ks, 0, 0, x + k * P, y + r * P, P, span);
    }
}

/* g[o, i] = sum_b dy[o, b] xt[b, i], moved at once: the gradient never leaves the registers. */
#define OUTER(SOME, R, V)                                                                                              \
    static INLINE void NAME(outer_##SOME##_##V)(const layer *l, const REAL *dy, const REAL *xt, long o, long i,           \
                                             long examples, int kind, const NAME(pace) *pace) {                        \
        VEC s[R][V];                                                                                                   \
        long stride = l->stride;                                                                                       \
        REAL *w = (REAL *)l->w + o * stride + i, *m = (REAL *)l->m + o * stride + i, *v = (REAL *)l->v + o * stride + i;\
        for (int r = 0; r < R; r++)                                                                                    \
            for (int j = 0; j < V; j++) s[r][j] = SET1(0);                                                             \
        for (long first = 0; first < examples; first += P) {                                                           \
            long lanes = examples - first < P ? examples - first : P;                                                  \
            const REAL *d = dy + first * l->out + o * P, *x = xt + first * stride + i;                                 \
            for (long b = 0; b < lanes; b++, d++, x += stride) {                                                       \
                if (b < R * V && first == 0) {                                                                         \
                    long at = (b / V) * stride + (b % V) * W;                                                          \
                    PREFETCH(w + at);                                                                                  \
                    PREFETCH(m + at);                                                                                  \
                    PREFETCH(v + at);                                                                                  \
                }                                                                                                      \
                VEC t[V];                                                                                              \
                for (int j = 0; j < V; j++) t[j] = LOAD(x + j * W);                                                    \
                for (int r = 0; r < R; r++) {                                                                          \
                    VEC e = SET1(d[r * P]);                                                                            \
                    for (int j = 0; j < V; j++) s[r][j] = FMA(e, t[j], s[r][j]);                                       \
                }                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
        const uint16_t *alive = l->alive ? l->alive + (o * stride + i) / W : 0;                                        \
        for (int r = 0; r < R; r++)                                                                                    \
            for (int j = 0; j < V; j++) {                                                                              \
                long at = r * stride + j * W;                                                                          \
                VEC g = s[r][j];                                                                                       \
                if (alive) g = SELECT((ONES * alive[at / W] & BITS) != 0, g, SET1(0));                                 \
                NAME(move)(kind, pace, g, w + at, m + at, v + at);                                                     \
            }                                                                                                          \
    }
OUTER(one, 1, 4)
OUTER(one, 1, 1)
OUTER(many, ROWS, 4)
OUTER(many, ROWS, 1)

static INLINE void NAME(dense_learn)(const layer *l, const REAL *dy, const REAL *xt, long examples, int kind,
                                     const NAME(pace) *pace) {
    long i = 0;
    for (; i + P <= l->stride; i += P) {
        long o = 0;
        for (; o + ROWS <= l->out; o += ROWS) NAME(outer_many_4)(l, dy, xt, o, i, examples, kind, pace);
        for (; o < l->out; o++) NAME(outer_one_4)(l, dy, xt, o, i, examples, kind, pace);
    }
    for (; i < l->stride; i += W) {
        long o = 0;
        for (; o + ROWS <= l->out; o += ROWS) NAME(outer_many_1)(l, dy, xt, o, i, examples, kind, pace);
        for (; o < l->out; o++) NAME(outer_one_1)(l, dy, xt, o, i, examples, kind, pace);
    }
}

/* ---- sparse products: over the living weights only ---------------------------------------------------------------- */

/* y[row] += sum_k w[k] x[column[k]] over each segment's weights; the even and the odd ones are summed apart, as one chain
   of sums would wait for itself. */
static void NAME(sparse_product)(const segment *segments, long n, const int32_t *column, const REAL *w, const REAL *x,
                                 REAL *y) {
    for (long t = 0; t < n; t++) {
        segment s = segments[t];
        REAL *to = y + (long)s.row * P;
        VEC a[4], b[4];
        for (int j = 0; j < 4; j++) {
            a[j] = LOAD(to + j * W);
            b[j] = SET1(0);
        }
        long k = s.begin;
        for (; k + 1 < s.end; k += 2) {
            const REAL *even = x + (long)column[k] * P, *odd = x + (long)column[k + 1] * P;
            VEC u = SET1(w[k]), v = SET1(w[k + 1]);
            for (int j = 0; j < 4; j++) {
                a[j] = FMA(u, LOAD(even + j * W), a[j]);
                b[j] = FMA(v, LOAD(odd + j * W), b[j]);
            }
        }
        if (k < s.end) {
            const REAL *even = x + (long)column[k] * P;
            VEC u = SET1(w[k]);
            for (int j = 0; j < 4; j++) a[j] = FMA(u, LOAD(even + j * W), a[j]);
        }
        for (int j = 0; j < 4; j++) STORE(to + j * W, a[j] + b[j]);
    }
}

/* g[k] = dy[row[k]] . x[column[k]], moved at once, in chunks: first a vector for each weight, then, W of them at a time,
   the sums of their lanes (SUMS in kernels.c). */
static INLINE void NAME(sparse_learn)(const layer *l, const REAL *dy, const REAL *x, long panels, int kind,
                                      const NAME(pace) *pace) {
    const int32_t *column = l->column;
    REAL *w = l->w, *m = l->m, *v = l->v;
    VEC s[CHUNK];
    segment at = {0, 0, 0};
    long t = 0;
    for (long first = 0; first < l->count; first += CHUNK) {
        long end = l->count - first < CHUNK ? l->count : first + CHUNK;
        for (long k = first; k < end;) {
            if (k == at.end) at = l->segments[t++];
            long stop = at.end < end ? at.end : end;
            for (long p = 0; p < panels; p++) {
                const REAL *d = dy + (p * l->out + at.row) * P, *from = x + p * l->in * P;
                VEC d0 = LOAD(d), d1 = LOAD(d + W), d2 = LOAD(d + 2 * W), d3 = LOAD(d + 3 * W);
                for (long q = k; q < stop; q++) {
                    const REAL *f = from + (long)column[q] * P;
                    VEC a = d0 * LOAD(f), b = d1 * LOAD(f + W);
                    if (p) a = FMA(d0, LOAD(f), s[q - first]);
                    a = FMA(d2, LOAD(f + 2 * W), a);
                    b = FMA(d3, LOAD(f + 3 * W), b);
                    s[q - first] = a + b;
                }
            }
            k = stop;
        }
        for (long k = end; k < first + CHUNK && k % W; k++) s[k - first] = SET1(0);
        for (long k = first; k < end; k += W) {
            VEC g = SUMS(s + (k - first));
            NAME(move)(kind, pace, g, w + k, m + k, v + k);
        }
    }
}

/* ---- ReLU --------------------------------------------------------------------------------------------------------- */

static INLINE void NAME(positive)(REAL *y, long n) {
    for (long at = 0; at < n; at += W) {
        VEC z = LOAD(y + at);
        STORE(y + at, SELECT(z < SET1(0), SET1(0), z)); /* NaN stays NaN */
    }
}

/* d = 0 where the ReLU gave y = 0. */
static INLINE void NAME(where_positive)(const REAL *y, REAL *d, long n) {
    for (long at = 0; at < n; at += W) STORE(d + at, SELECT(LOAD(y + at) <= SET1(0), SET1(0), LOAD(d + at)));
}

/* ---- convolutions, and what follows them -------------------------------------------------------------------------- */

#include "convolution.h"

/* ---- a layer ------------------------------------------------------------------------------------------------------ */

static void NAME(forward)(const layer *l, const REAL *x, long panels) {
    const REAL *bias = l->bias;
    for (long p = 0; p < panels; p++, x += (long)l->in * l->plane * P) {
        REAL *y = (REAL *)l->y + p * l->out * l->plane * P;
        if (l->size) NAME(convolve)(l, x, y);
        else {
            for (long o = 0; o < l->out; o++) {
                VEC b = SET1(bias[o]);
                for (int j = 0; j < 4; j++) STORE(y + o * P + j * W, b);
            }
            if (l->kind == DENSE) NAME(product)(l->w, l->stride, 1, x, y, l->out, l->in);
            else NAME(sparse_product)(l->segments, l->n_segments, l->column, l->w, x, y);
            if (l->relu) NAME(positive)(y, (long)l->out * P);
        }
        if (l->pool) NAME(pool)(l, y, (REAL *)l->z + p * l->out * l->z_plane * P);
    }
}

/* dL/dx of a layer's inputs, 0 where the ReLU before it gave 0: y are those inputs. */
static void NAME(backward)(const layer *l, const REAL *y, REAL *dx, long panels) {
    if (l->kind == SPARSE)
        for (long k = 0; k < l->count; k++) ((REAL *)l->t_w)[k] = ((REAL *)l->w)[l->t_place[k]];
    long size = (long)l->in * l->plane * P;
    for (long p = 0; p < panels; p++, dx += size, y += size) {
        const REAL *dy = (REAL *)l->dy + p * l->out * l->plane * P;
        if (l->size) NAME(convolve_back)(l, dy, y, dx);
        else {
            memset(dx, 0, sizeof(REAL) * size);
            if (l->kind == DENSE) NAME(product)(l->w, 1, l->stride, dy, dx, l->in, l->out);
            else NAME(sparse_product)(l->t_segments, l->n_t_segments, l->t_column, l->t_w, dy, dx);
            NAME(where_positive)(y, dx, size);
        }
    }
}

static void NAME(transpose)(const REAL *x, long units, long examples, REAL *xt, long stride) {
    for (long b = 0; b < examples; b++) {
        const REAL *from = x + (b / P) * units * P + b % P;
        for (long i = 0; i < units; i++) xt[b * stride + i] = from[i * P];
    }
}

static void NAME(learn)(const layer *l, const REAL *x, long examples, long panels, const optimiser *o,
                        const NAME(pace) *pace, REAL *scratch) {
    const REAL *dy = l->dy;
    if (l->size) NAME(convolution_learn)(l, x, panels, o->kind, pace);
    else if (l->kind == DENSE) {
        NAME(transpose)(x, l->in, examples, l->xt, l->stride);
        switch (o->kind) {
            case SGD: NAME(dense_learn)(l, dy, l->xt, examples, SGD, pace); break;
            case MOMENTUM: NAME(dense_learn)(l, dy, l->xt, examples, MOMENTUM, pace); break;
            case NESTEROV: NAME(dense_learn)(l, dy, l->xt, examples, NESTEROV, pace); break;
            case ADAM: NAME(dense_learn)(l, dy, l->xt, examples, ADAM, pace); break;
            default: NAME(dense_learn)(l, dy, l->xt, examples, ADAMW, pace);
        }
    } else {
        switch (o->kind) {
            case SGD: NAME(sparse_learn)(l, dy, x, panels, SGD, pace); break;
            case MOMENTUM: NAME(sparse_learn)(l, dy, x, panels, MOMENTUM, pace); break;
            case NESTEROV: NAME(sparse_learn)(l, dy, x, panels, NESTEROV, pace); break;
            case ADAM: NAME(sparse_learn)(l, dy, x, panels, ADAM, pace); break;
            default: NAME(sparse_learn)(l, dy, x, panels, ADAMW, pace);
        }
    }
    long padded = (l->out + W - 1) / W * W;
    for (long q = 0; q < padded; q += W) {
        VEC s[W];
        for (int j = 0; j < W; j++) {
            s[j] = SET1(0);
            for (long p = 0; q + j < l->out && p < panels; p++) {
                const REAL *d = dy + (p * l->out + q + j) * l->plane * P;
                for (const REAL *end = d + (long)l->plane * P; d < end; d += P)
                    s[j] = s[j] + ((LOAD(d) + LOAD(d + W)) + (LOAD(d + 2 * W) + LOAD(d + 3 * W)));
            }
        }
        STORE(scratch + q, SUMS(s));
    }
    NAME(move_all)(o->kind, pace, scratch, l->bias, l->bias_m, l->bias_v, padded);
}

/* ---- inputs and loss ---------------------------------------------------------------------------------------------- */

/* x[i, lane] = image[pixel[i]] / the length of the whole image, rounded in float32 as torch does it; 0 of a black one. */
static void NAME(gather_unit)(const network *n, REAL *x) {
    int64_t squares[P] = {0};
    float length[P];
    for (long i = 0; i < n->pixels; i++)
        for (int lane = 0; lane < P; lane++) {
            int32_t byte = n->bytes[i * P + lane];
            squares[lane] += byte * byte;
        }
    for (int lane = 0; lane < P; lane++) length[lane] = (float)(1 / sqrt(squares[lane] ? (double)squares[lane] : 1.0));
    for (long i = 0; i < n->inputs; i++) {
        const uint8_t *from = n->bytes + (long)n->pixel[i] * P;
        REAL *to = x + (long)n->row[i] * P;
        for (int lane = 0; lane < P; lane++) to[lane] = (REAL)((float)from[lane] * length[lane]);
    }
}

/* x[i, lane] = scale[i] image[pixel[i]] + shift[i], rounded after each of the two, in float32, as torch does. */
static void NAME(gather)(const network *n, const uint8_t *images, const int64_t *places, long examples, long panels) {
    for (long p = 0; p < panels; p++) {
        turn_panel(images, places + p * P, examples - p * P, n->pixels, n->bytes, P);
        REAL *x = (REAL *)n->x + p * n->rows * P;
        if (n->unit) {
            NAME(gather_unit)(n, x);
            continue;
        }
        for (long i = 0; i < n->inputs; i++) {
            const uint8_t *from = n->bytes + (long)n->pixel[i] * P;
            REAL *to = x + (long)n->row[i] * P;
            for (int j = 0; j < 4; j++) STORE(to + j * W, INPUT(from + j * W, n->scale[i], n->shift[i]));
        }
    }
}

/* The next images are far away in memory: they may come while these are worked on. */
static INLINE void NAME(foresee)(const network *n, const uint8_t *images, const int64_t *places, long examples) {
    for (long b = 0; b < examples; b++)
        for (long at = 0; at < n->pixels; at += LINE) __builtin_prefetch(images + places[b] * n->pixels + at, 0, 2);
}

/* dy = (softmax(y) - onehot) / examples, 0 in the lanes beyond. */
static void NAME(loss_gradient)(const layer *l, const int64_t *labels, const int64_t *places, long examples,
                                long panels) {
    for (long p = 0; p < panels; p++) {
        const REAL *y = (REAL *)l->y + p * l->out * P;
        REAL *dy = (REAL *)l->dy + p * l->out * P;
        long lanes = examples - p * P < P ? examples - p * P : P;
        for (int j = 0; j < 4; j++) {
            VEC top = LOAD(y + j * W), sum = SET1(0);
            for (long o = 1; o < l->out; o++) {
                VEC z = LOAD(y + o * P + j * W);
                top = SELECT(z > top, z, top);
            }
            for (long o = 0; o < l->out; o++) {
                VEC e = NAME(exponential)(LOAD(y + o * P + j * W) - top);
                STORE(dy + o * P + j * W, e);
                sum = sum + e;
            }
            VEC share = SET1(1) / (sum * SET1((REAL)examples));
            for (long o = 0; o < l->out; o++) STORE(dy + o * P + j * W, LOAD(dy + o * P + j * W) * share);
        }
        for (long lane = 0; lane < lanes; lane++)
            dy[labels[places[p * P + lane]] * P + lane] -= (REAL)1 / (REAL)examples;
        for (long o = 0; o < l->out; o++)
            for (long lane = lanes; lane < P; lane++) dy[o * P + lane] = 0;
    }
}

/* ---- whole steps -------------------------------------------------------------------------------------------------- */

/* What layer l reads, and where its inputs' gradients go. */
static INLINE REAL *NAME(inputs)(const network *n, long l) {
    if (l == 0) return n->x;
    const layer *before = n->layers + l - 1;
    return before->pool ? before->z : before->y;
}

static INLINE REAL *NAME(input_gradients)(const network *n, long l) {
    const layer *before = n->layers + l - 1;
    return before->pool ? before->dz : before->dy;
}

static void NAME(unpool_all)(const layer *l, long panels) {
    for (long p = 0; p < panels; p++) {
        long y = p * l->out * l->plane * P, z = p * l->out * l->z_plane * P;
        NAME(unpool)(l, (REAL *)l->y + y, (REAL *)l->z + z, (REAL *)l->dz + z, (REAL *)l->dy + y);
    }
}

static void NAME(train)(const network *n, const uint8_t *images, const int64_t *labels, const int64_t *order,
                        long examples, const double *rates, long done) {
    const layer *layers = n->layers;
    for (long step = 0; examples > 0; step++, order += n->batch, examples -= n->batch) {
        long batch = examples < n->batch ? examples : n->batch, panels = (batch + P - 1) / P, last = n->n_layers - 1;
        NAME(pace) pace = NAME(pace_of)(&n->optimiser, rates[step], done + step);
        NAME(gather)(n, images, order, batch, panels);
        NAME(foresee)(n, images, order + batch, examples - batch < n->batch ? examples - batch : n->batch);
        for (long l = 0; l <= last; l++) NAME(forward)(layers + l, NAME(inputs)(n, l), panels);
        NAME(loss_gradient)(layers + last, labels, order, batch, panels);
        for (long l = last; l >= 0; l--) {
            if (layers[l].pool) NAME(unpool_all)(layers + l, panels);
            if (l) NAME(backward)(layers + l, NAME(inputs)(n, l), NAME(input_gradients)(n, l), panels);
            NAME(learn)(layers + l, NAME(inputs)(n, l), batch, panels, &n->optimiser, &pace, n->scratch);
        }
        if (n->idle) NAME(move_all)(n->optimiser.kind, &pace, 0, n->idle_w, n->idle_m, n->idle_v, n->idle);
    }
}

/* The summed cross-entropy of a panel's first `lanes` examples and how many of them are answered correctly: by the first
   of the greatest outputs, of which NaN, as in torch, is greater than any number. */
static double NAME(judge)(const layer *last, const int64_t *answers, long lanes, int64_t *right) {
    const REAL *y = last->y;
    REAL sums[P] ALIGNED, tops[P] ALIGNED, bests[P] ALIGNED;
    double total = 0, product = 1;
    for (int j = 0; j < 4; j++) {
        VEC top = LOAD(y + j * W), sum = SET1(0), best = SET1(0);
        for (long o = 1; o < last->out; o++) {
            VEC z = LOAD(y + o * P + j * W);
            best = SELECT(z <= top, best, SELECT(top != top, best, SET1((REAL)o)));
            top = SELECT(z <= top, top, SELECT(top != top, top, z));
        }
        for (long o = 0; o < last->out; o++) sum = sum + NAME(exponential)(LOAD(y + o * P + j * W) - top);
        STORE(tops + j * W, top);
        STORE(sums + j * W, sum);
        STORE(bests + j * W, best);
    }
    for (long lane = 0; lane < lanes; lane++) {
        *right += bests[lane] == (REAL)answers[lane];
        total += (double)tops[lane] - (double)y[answers[lane] * P + lane];
        product *= (double)sums[lane]; /* each from 1 to the number of classes: a logarithm now and then is enough */
        if (lane % 16 == 15 || lane == lanes - 1) {
            total += log(product);
            product = 1;
        }
    }
    return total;
}

static void NAME(evaluate)(const network *n, const uint8_t *images, const int64_t *labels, const int64_t *places,
                           long examples, double *loss, int64_t *correct) {
    double total = 0;
    int64_t right = 0;
    for (; examples > 0; places += P, examples -= P) {
        long lanes = examples < P ? examples : P;
        int64_t answers[P];
        for (long lane = 0; lane < lanes; lane++) answers[lane] = labels[places[lane]];
        NAME(gather)(n, images, places, lanes, 1);
        NAME(foresee)(n, images, places + lanes, examples - lanes < P ? examples - lanes : P);
        for (long l = 0; l < n->n_layers; l++) NAME(forward)(n->layers + l, NAME(inputs)(n, l), 1);
        total += NAME(judge)(n->layers + n->n_layers - 1, answers, lanes, &right);
    }
    *loss = total;
    *correct = right;
}
