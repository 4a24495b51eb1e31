/* Outputs alone: of sparse layers whose weights no longer change, for examples as they lie in memory. kernels.c includes
   this file for each float instance.

   Two ways, as one weight can meet many examples or one example many weights. Many: a vector holds one unit's values of W
   examples, as in kernels.h; examples are turned round on their way in and out. Few: a vector holds W units of one example,
   and what they read is gathered. A convolution meets W neighbouring positions of one image with each weight. */

typedef VEC NAME(loose) __attribute__((aligned(4), may_alias)); /* a vector that may begin anywhere */
#define LOADU(p) (*(const NAME(loose) *)(p))
#define STOREU(p, x) (*(NAME(loose) *)(p) = (x))

#define MEET(V) /* y = w x + bias for V vectors of examples: two chains of sums, as one would wait for itself */           \
    static INLINE void NAME(meet_##V)(const stage *s, const REAL *x, REAL *y) {                                            \
        for (long o = 0; o < s->out; o++, y += V * W) {                                                                    \
            VEC a[V], b[V];                                                                                                \
            for (int j = 0; j < V; j++) a[j] = SET1(s->bias[o]), b[j] = SET1(0);                                           \
            long k = s->begin[o], end = s->begin[o + 1];                                                                   \
            for (; k + 1 < end; k += 2) {                                                                                  \
                const REAL *even = x + (long)s->column[k] * (V * W), *odd = x + (long)s->column[k + 1] * (V * W);          \
                VEC u = SET1(s->w[k]), v = SET1(s->w[k + 1]);                                                              \
                for (int j = 0; j < V; j++) a[j] = FMA(u, LOAD(even + j * W), a[j]), b[j] = FMA(v, LOAD(odd + j * W), b[j]);\
            }                                                                                                              \
            if (k < end) {                                                                                                 \
                const REAL *even = x + (long)s->column[k] * (V * W);                                                       \
                VEC u = SET1(s->w[k]);                                                                                     \
                for (int j = 0; j < V; j++) a[j] = FMA(u, LOAD(even + j * W), a[j]);                                       \
            }                                                                                                              \
            for (int j = 0; j < V; j++) {                                                                                  \
                VEC z = a[j] + b[j];                                                                                       \
                STORE(y + j * W, s->relu ? SELECT(z < SET1(0), SET1(0), z) : z);                                           \
            }                                                                                                              \
        }                                                                                                                  \
    }
MEET(1)
MEET(2)
MEET(4)

/* W rows of W numbers become W columns: rows that lie W / 2 apart exchange halves, then rows W / 4 apart quarters, ... */
#define EVEN(l, d) ((l) & (d) ? (l) - (d) + W : (l))
#define ODD(l, d) ((l) & (d) ? (l) + W : (l) + (d))
#define EXCHANGE(d)                                                                                                        \
    if (W > d)                                                                                                             \
        for (int i = 0; i < W; i++)                                                                                        \
            if (!(i & (d))) {                                                                                              \
                VEC one = a[i], other = a[i + (d) % W];                                                                    \
                a[i] = SHUFFLE(IVEC, one, other, LANES(EVEN, (d) % W));                                                    \
                a[i + (d) % W] = SHUFFLE(IVEC, one, other, LANES(ODD, (d) % W));                                           \
            }
static INLINE void NAME(turn)(VEC *a) { EXCHANGE(8) EXCHANGE(4) EXCHANGE(2) EXCHANGE(1) }

/* x[example][unit] -> to[unit][lane], lanes in vectors of W; a lane beyond the last example repeats it. */
static void NAME(turn_in)(const REAL *x, long units, long examples, long lanes, REAL *to) {
    for (long lane = 0; lane < lanes; lane += W) {
        const REAL *rows[W];
        for (long r = 0; r < W; r++) rows[r] = x + (lane + r < examples ? lane + r : examples - 1) * units;
        long i = 0;
        for (; i + W <= units; i += W) {
            VEC a[W];
            for (int r = 0; r < W; r++) a[r] = LOADU(rows[r] + i);
            NAME(turn)(a);
            for (int r = 0; r < W; r++) STORE(to + (i + r) * lanes + lane, a[r]);
        }
        for (; i < units; i++)
            for (int r = 0; r < W; r++) to[i * lanes + lane + r] = rows[r][i];
    }
}

static void NAME(turn_out)(const REAL *from, long units, long examples, long lanes, REAL *y) {
    for (long lane = 0; lane < examples; lane += W) {
        long i = 0;
        if (lane + W <= examples)
            for (; i + W <= units; i += W) {
                VEC a[W];
                for (int r = 0; r < W; r++) a[r] = LOAD(from + (i + r) * lanes + lane);
                NAME(turn)(a);
                for (int r = 0; r < W; r++) STOREU(y + (lane + r) * units + i, a[r]);
            }
        for (; i < units; i++)
            for (long r = lane; r < lane + W && r < examples; r++) y[r * units + i] = from[i * lanes + r];
    }
}

/* One example, W rows at a time: rows of like length lie in one slice. */
static INLINE void NAME(meet_slices)(const stage *s, const REAL *x, REAL *y) {
    const int32_t *column = s->slice_column;
    const REAL *w = s->slice_w, *bias = s->slice_bias;
    for (long t = 0; t < s->n_slices; t++, bias += W, y += W) {
        VEC a = LOAD(bias), b = SET1(0);
        long k = 0, length = s->slice[t];
        for (; k + 1 < length; k += 2, column += 2 * W, w += 2 * W) {
            a = FMA(LOAD(w), GATHER(x, column), a);
            b = FMA(LOAD(w + W), GATHER(x, column + W), b);
        }
        if (k < length) {
            a = FMA(LOAD(w), GATHER(x, column), a);
            column += W, w += W;
        }
        a = a + b;
        STORE(y, s->relu ? SELECT(a < SET1(0), SET1(0), a) : a);
    }
}

/* y[example][unit] of the last stage from x[example][unit]; `room` holds two times the most units of a stage, in vectors. */
static void NAME(infer)(const stage *stages, long n, const REAL *x, long examples, REAL *y, REAL *room) {
    const stage *last = stages + n - 1;
    REAL *one = room, *other = room + last->room;
    if (examples <= FEW) {
        for (; examples--; x += stages->in, y += last->out) {
            const REAL *from = x;
            for (const stage *s = stages; s <= last; s++) {
                REAL *to = from == one ? other : one;
                NAME(meet_slices)(s, from, to);
                from = to;
            }
            for (long o = 0; o < last->out; o++) y[last->order[o]] = from[o];
        }
        return;
    }
    for (long left = examples; left > 0;) {
        int v = left > 2 * W ? 4 : left > W ? 2 : 1;
        long now = left < v * W ? left : v * W;
        REAL *from = one, *to = other;
        NAME(turn_in)(x, stages->in, now, v * W, from);
        for (const stage *s = stages; s <= last; s++) {
            if (v == 4) NAME(meet_4)(s, from, to);
            else if (v == 2) NAME(meet_2)(s, from, to);
            else NAME(meet_1)(s, from, to);
            REAL *read = from;
            from = to, to = read;
        }
        NAME(turn_out)(from, last->out, now, v * W, y);
        x += now * stages->in, y += now * last->out, left -= now;
    }
}

/* ---- convolutions ----------------------------------------------------------------------------------------------------

   A weight meets W neighbouring outputs at once, and what it reads begins where a vector may be loaded from. Of a window
   of three columns with a border of one, the sums over each column are made apart and moved by one at the end: inputs are
   laid out once, and much of what a block reads is in the first cache. For all other windows the inputs are moved: each
   channel is laid out once for every column that some weight is in. A line holds one row of all that, and several small
   images side by side. Lines of one phase of the stride follow each other, so that the line below is that of the output
   below. */

static INLINE void NAME(copy)(const REAL *from, REAL *to, long n) {
    if (n < W) {
        for (long i = 0; i < n; i++) to[i] = from[i];
        return;
    }
    for (long i = 0; i + W < n; i += W) STOREU(to + i, LOADU(from + i));
    STOREU(to + n - W, LOADU(from + n - W));
}

/* Row r of each of `images`, as the moved channel has it, into a line: zeros above and below an image. */
static void NAME(lay_row)(const convolution *c, const moved *m, const REAL *x, long images, long r, REAL *line) {
    const long area = c->height * c->width, columns = m->end - m->begin;
    const REAL *from = x + m->channel * area + r * c->width + m->begin * c->stride + m->move;
    REAL *to = line + m->begin;
    for (; images--; from += c->in * area, to += c->apart)
        if (r < 0 || r >= c->height) memset(to, 0, sizeof(REAL) * columns);
        else if (c->stride == 1) NAME(copy)(from, to, columns);
        else
            for (long k = 0; k < columns; k++) to[k] = from[k * c->stride];
}

/* Rows of one image into lines as they are; what they have from beside the image is masked. */
static INLINE void NAME(lay_rows)(const REAL *row, long width, long rows, const IVEC *keep, REAL *line, long pitch, long far) {
    for (; rows > 0; rows--, row += width, line += far)
        for (long j = 0; j < pitch; j += W) STORE(line + j, (VEC)((IVEC)LOADU(row + j) & keep[j / W]));
}

static INLINE void NAME(lay_zeros)(long rows, REAL *line, long pitch, long far) {
    for (; rows > 0; rows--, line += far)
        for (long j = 0; j < pitch; j += W) STORE(line + j, SET1(0));
}

/* The rows of `images` that outputs from row `first` on need. What is left and right of an image is 0 from the beginning. */
static void NAME(lay_out)(const convolution *c, const REAL *x, long images, long first, REAL *room) {
    const long width = c->width, height = c->height, pitch = c->pitch, line = c->line;
    const long above = first * c->stride - c->padding;
    for (const moved *m = c->moved, *end = m + c->n_moved; m < end; m++, room += pitch) {
        if (m->keep < 0) {
            REAL *to = room;
            for (long phase = 0; phase < c->stride; phase++)
                for (long i = 0; i < c->rows; i++, to += line) NAME(lay_row)(c, m, x, images, above + phase + i * c->stride, to);
            continue;
        }
        /* Lines of zeros, then of the image from `top` to `bottom`, then of zeros again. */
        long top = above > 0 ? 0 : -above < c->rows ? -above : c->rows;
        long bottom = height - above < top ? top : height - above < c->rows ? height - above : c->rows;
        NAME(lay_zeros)(top, room, pitch, line);
        NAME(lay_zeros)(c->rows - bottom, room + bottom * line, pitch, line);
        /* Beside the first and the last row of all there is nothing that could be read. */
        if (top < bottom && above + top == 0 && m->channel == 0 && m->move < 0)
            NAME(lay_row)(c, m, x, 1, 0, room + top++ * line);
        if (top < bottom && above + bottom == height && m->channel == c->in - 1 && m->move + pitch > width)
            NAME(lay_row)(c, m, x, 1, height - 1, room + --bottom * line);
        NAME(lay_rows)(x + ((long)m->channel * height + above + top) * width + m->move, width, bottom - top,
                       (const IVEC *)(c->keep + m->keep), room + top * line, pitch, line);
    }
}

/* The weights of a group meet R rows of C vectors of positions. */
#define ADD(S, R, C, BEGIN, END)                                                                                           \
    for (long k = BEGIN; k < END; k++) {                                                                                   \
        const REAL *at = x + offset[k];                                                                                    \
        VEC u = SET1(w[k]);                                                                                                \
        for (int r = 0; r < R; r++)                                                                                        \
            for (int j = 0; j < C; j++) S[r][j] = FMA(u, LOAD(at + r * line + j * W), S[r][j]);                            \
    }
#define BEFORE(l, d) (W - 1 + (l))
#define AFTER(l, d) ((l) + 1)

/* One output there; `width` numbers from row to row of it. If sums are moved, C vectors are a whole row. */
#define SLIDE(R, C)                                                                                                        \
    static INLINE void NAME(slide_##R##_##C)(const convolution *c, long o, const REAL *x, REAL *y, long width) {           \
        const long line = c->line;                                                                                         \
        const int32_t *offset = c->offset, *begin = c->begin + o * c->groups;                                              \
        const REAL *w = c->w;                                                                                              \
        VEC s[R][C];                                                                                                       \
        for (int r = 0; r < R; r++)                                                                                        \
            for (int j = 0; j < C; j++) s[r][j] = SET1(c->bias[o]);                                                        \
        ADD(s, R, C, begin[0], begin[1])                                                                                   \
        if (c->groups > 1) {                                                                                               \
            VEC left[R][C], right[R][C], zero = SET1(0);                                                                   \
            memset(left, 0, sizeof left);                                                                                  \
            ADD(left, R, C, begin[1], begin[2])                                                                            \
            for (int r = 0; r < R; r++)                                                                                    \
                for (int j = 0; j < C; j++)                                                                                \
                    s[r][j] += SHUFFLE(IVEC, j ? left[r][(j + C - 1) % C] : zero, left[r][j], LANES(BEFORE, 0));           \
            memset(right, 0, sizeof right);                                                                                \
            ADD(right, R, C, begin[2], begin[3])                                                                           \
            for (int r = 0; r < R; r++)                                                                                    \
                for (int j = 0; j < C; j++)                                                                                \
                    s[r][j] += SHUFFLE(IVEC, right[r][j], j + 1 < C ? right[r][(j + 1) % C] : zero, LANES(AFTER, 0));      \
        }                                                                                                                  \
        for (int r = 0; r < R; r++)                                                                                        \
            for (int j = 0; j < C; j++)                                                                                    \
                STOREU(y + r * width + j * W, c->relu ? SELECT(s[r][j] < SET1(0), SET1(0), s[r][j]) : s[r][j]);            \
    }
SLIDE(1, 1)
SLIDE(1, 2)
SLIDE(1, 4)
SLIDE(1, 8)
SLIDE(2, 1)
SLIDE(2, 2)
SLIDE(2, 4)
SLIDE(4, 1)
SLIDE(4, 2)

/* Rows of a block that begins at `column` go to the images side by side that they belong to. */
static void NAME(deal)(const convolution *c, const REAL *block, long rows, long columns, long images, long column, REAL *y) {
    const long width = c->out_width, size = c->out * c->out_height * width;
    for (long at = 0; images--; at += c->apart, y += size) {
        long begin = at < column ? column : at, end = at + width < column + columns ? at + width : column + columns;
        for (long r = 0; r < rows && begin < end; r++)
            NAME(copy)(block + r * columns + begin - column, y + r * width + begin - at, end - begin);
    }
}

/* Rows `first` to `end` of a band, of one output there. */
static INLINE void NAME(slide_rows)(const convolution *c, long o, const REAL *room, long images, long first, long end,
                                    REAL *to) {
    const long across = c->pitch / W, line = c->line;
    const int straight = c->pitch == c->out_width; /* a row of the map is a row of vectors */
    for (long j = 0, v; j < across; j += v) {
        v = across - j >= 8 ? 8 : across - j >= 4 ? 4 : across - j >= 2 ? 2 : 1;
        for (long r = first, h; r < end; r += h) {
            REAL block[8 * W] ALIGNED, *at = straight ? to + r * c->out_width + j * W : block;
            long width = straight ? c->out_width : v * W;
            for (h = 8 / v; h > end - r;) h /= 2;
#define CASE(R, C)                                                                                                         \
    case R * 16 + C:                                                                                                       \
        NAME(slide_##R##_##C)(c, o, room + r * line + j * W, at, width);                                                   \
        break;
            switch (h * 16 + v) {
                CASE(1, 1) CASE(1, 2) CASE(1, 4) CASE(1, 8) CASE(2, 1)
                CASE(2, 2) CASE(2, 4) CASE(4, 1) CASE(4, 2)
            }
            if (!straight) NAME(deal)(c, block, h, v * W, images, j * W, to + r * c->out_width);
        }
    }
}

/* A band of all outputs. A few rows of one after the other: what they read is then in the first cache, which it comes to
   once for all of them. Meanwhile where outputs SOON go, and `ahead`, what is laid out next, come from memory. */
static void NAME(slide_band)(const convolution *c, const REAL *room, long images, long rows, const char *ahead,
                             const char *all, REAL *y) {
    const long map = c->out_height * c->out_width, share = (all - ahead) / (c->out * ((rows + TILE - 1) / TILE)) + LINE;
    for (long first = 0, end; first < rows; first = end) {
        end = first + TILE < rows ? first + TILE : rows;
        const long bytes = sizeof(REAL) * (end - first) * c->out_width;
        for (long o = 0; o < c->out; o++) {
            for (const char *stop = all - ahead < share ? all : ahead + share; ahead < stop; ahead += LINE)
                __builtin_prefetch(ahead, 0, 2);
            const char *soon = (const char *)(y + c->order[o + SOON < c->out ? o + SOON : o] * map + first * c->out_width);
            for (long at = 0; at < bytes; at += LINE) PREFETCH(soon + at);
            NAME(slide_rows)(c, o, room, images, first, end, y + c->order[o] * map);
        }
    }
}

static void NAME(slide)(const convolution *c, const REAL *x, long images, REAL *y, REAL *room) {
    const long width = c->out_width, height = c->out_height, size = c->in * c->height * c->width;
    for (long left = images, now; left > 0; left -= now, x += now * size, y += now * c->out * height * width) {
        now = left < c->abreast ? left : c->abreast;
        long bytes = sizeof(REAL) * size * (left - now < c->abreast ? left - now : c->abreast);
        const char *next = (const char *)(x + now * size);
        if (bytes > AHEAD) bytes = 0;
        for (long first = 0; first < height; first += c->band) {
            long rows = height - first < c->band ? height - first : c->band;
            const char *ahead = next + bytes * first / height, *all = next + bytes * (first + rows) / height;
            NAME(lay_out)(c, x, now, first, room);
            NAME(slide_band)(c, room, now, rows, ahead, all, y + first * width);
        }
    }
}

#undef LOADU
#undef STOREU
#undef MEET
#undef EVEN
#undef ODD
#undef EXCHANGE
#undef SLIDE
#undef ADD
#undef BEFORE
#undef AFTER
#undef CASE
