/* Evaluating on packed images; kernels.c includes this file after kernels.h, with the same names, for each float instance.

   A pack is a panel of images of which most leave the same pixels at zero: these are left out. What the rest adds to an
   image of zeros is scale times a byte, and bytes are held as the upper halves of floats, which hold them exactly, two
   vectors to a vector of words: half the memory of floats, and one instruction makes a float of either half. */

#define UPPER(words) ((VEC)((words) & ONES * -65536))
#define LOWER(words) ((VEC)((words) << 16))

/* The first layer's answer to an image of zero bytes, x = shift; a sparse layer's weights times scale, for bytes. */
static void NAME(ground)(const network *n, REAL *ground) {
    const layer *l = n->layers;
    const REAL *w = l->w, *bias = l->bias;
    for (long o = 0; o < l->out; o++) ground[o] = bias[o];
    if (l->kind == DENSE)
        for (long o = 0; o < l->out; o++) {
            REAL sum = 0;
            for (long i = 0; i < l->in; i++) sum += w[o * l->stride + i] * n->shift[i];
            ground[o] += sum;
        }
    else
        for (long k = 0; k < l->count; k++) {
            ground[l->row[k]] += w[k] * n->shift[l->column[k]];
            ((REAL *)l->t_w)[k] = w[k] * n->scale[l->column[k]]; /* nobody turns the first layer's weights round */
        }
}

/* y[row] = ground[row] + sum_k w[place[k]] bytes[column[k]], with a ReLU or without. Rows have few weights: two chains of
   sums, as in sparse_product, would not pay. Meanwhile the next pack comes from memory. */
static INLINE void NAME(packed_rows)(const pack *p, const pack *next, long rows, const REAL *w, const REAL *ground, int relu,
                                     REAL *y) {
    const int32_t *column = p->column, *place = p->place;
    const IVEC *words = p->words;
    const char *ahead = next->words, *all = ahead + next->size;
    long share = next->size / (rows + 1) + LINE;
    for (const segment *s = p->segments, *end = s + rows; s < end; s++) {
        for (const char *stop = all - ahead < share ? all : ahead + share; ahead < stop; ahead += LINE)
            __builtin_prefetch(ahead, 0, 2);
        VEC a = SET1(ground[s->row]), b = a, c = a, d = a;
        for (long k = s->begin, stop = s->end; k < stop; k++) {
            const IVEC *from = words + 2 * (long)column[k];
            VEC u = SET1(w[place[k]]);
            a = FMA(u, UPPER(from[0]), a);
            b = FMA(u, LOWER(from[0]), b);
            c = FMA(u, UPPER(from[1]), c);
            d = FMA(u, LOWER(from[1]), d);
        }
        REAL *to = y + (long)s->row * P;
        STORE(to, relu ? SELECT(a < SET1(0), SET1(0), a) : a);
        STORE(to + W, relu ? SELECT(b < SET1(0), SET1(0), b) : b);
        STORE(to + 2 * W, relu ? SELECT(c < SET1(0), SET1(0), c) : c);
        STORE(to + 3 * W, relu ? SELECT(d < SET1(0), SET1(0), d) : d);
    }
}

static void NAME(packed_sparse)(const pack *p, const pack *next, const layer *l, const REAL *ground, REAL *y) {
    if (l->relu) NAME(packed_rows)(p, next, l->out, l->t_w, ground, 1, y);
    else NAME(packed_rows)(p, next, l->out, l->t_w, ground, 0, y);
}

/* As `product`, with the columns list[0], list[1], ... of a alone. */
TIMES(one_listed, 1, 1, 0)
TIMES(many_listed, ROWS, 1, 0)

static void NAME(product_listed)(const REAL *a, long rs, const int32_t *list, const REAL *x, REAL *y, long rows,
                                 long n) {
    for (long k = 0; k < n; k += NEAR) {
        long span = n - k < NEAR ? n - k : NEAR, r = 0;
        for (; r + ROWS <= rows; r += ROWS)
            NAME(times_many_listed)(a + r * rs, rs, 0, list + k, 0, x + k * P, y + r * P, P, span);
        for (; r < rows; r++) NAME(times_one_listed)(a + r * rs, rs, 0, list + k, 0, x + k * P, y + r * P, P, span);
    }
}

static void NAME(packed_dense)(const pack *p, const layer *l, const float *scale, const REAL *ground, REAL *x, REAL *y) {
    const IVEC *words = p->words;
    for (long i = 0; i < p->active; i++, words += 2) {
        VEC s = SET1(scale[p->input[i]]);
        STORE(x + i * P, s * UPPER(words[0]));
        STORE(x + i * P + W, s * LOWER(words[0]));
        STORE(x + i * P + 2 * W, s * UPPER(words[1]));
        STORE(x + i * P + 3 * W, s * LOWER(words[1]));
    }
    for (long o = 0; o < l->out; o++)
        for (int j = 0; j < 4; j++) STORE(y + o * P + j * W, SET1(ground[o]));
    NAME(product_listed)(l->w, l->stride, p->input, x, y, l->out, p->active);
    if (l->relu) NAME(positive)(y, (long)l->out * P);
}

/* What `evaluate` measures, up to rounding. */
static void NAME(evaluate_packed)(const network *n, const pack *packs, long n_packs, double *loss, int64_t *correct) {
    const layer *l = n->layers;
    REAL *ground = n->scratch;
    double total = 0;
    int64_t right = 0;
    NAME(ground)(n, ground);
    for (const pack *p = packs, *last = packs + n_packs - 1; p <= last; p++) {
        if (l->kind == DENSE) NAME(packed_dense)(p, l, n->scale, ground, n->x, l->y);
        else NAME(packed_sparse)(p, p < last ? p + 1 : p, l, ground, l->y);
        for (long next = 1; next < n->n_layers; next++) NAME(forward)(l + next, l[next - 1].y, 1);
        total += NAME(judge)(l + n->n_layers - 1, p->labels, p->examples, &right);
    }
    *loss = total;
    *correct = right;
}
