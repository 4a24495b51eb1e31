/* Random networks through the kernels, each buffer exactly as large as engine/native.py and cash/sparsification.py make it and
   allocated on its own, so that the address sanitizer sees whatever is read or written beside one; and the results against
   the plainest loops.

     fuzz SEED CASES                 all instruction sets of this processor, float and double, CASES of each
     fuzz SEED CASES SET WIDE CASE   one case alone: SET 0, 1, 2 and WIDE 0, 1 as a failure names them

   Prints the number of cases and exits with 0, or prints the first case that differs and exits with 1. */

#include "../../tombola/engine/kernels.c"

#include <float.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; } /* it wants rights that a container may lack */

static const char *const SETS[] = {"portable", "avx2", "avx512"};
static const char *const KINDS[] = {"sgd", "momentum", "nesterov", "adam", "adamw"};

enum { MOST_LAYERS = 5, MOST = 16 /* the widest vector: arrays are padded to it */ };

/* ---- the case at hand ------------------------------------------------------------------------------------------------ */

static int set, wide; /* which instance: the float or the double kernels of an instruction set */
static long width, panel;
static char told[1000];
static unsigned long long seed, number;

static void fail(const char *format, ...) {
    va_list rest;
    va_start(rest, format);
    printf("seed %llu, set %d (%s), wide %d, case %llu: ", seed, set, SETS[set], wide, number);
    vprintf(format, rest);
    printf("\n%s\n", told);
    va_end(rest);
    exit(1);
}

static uint64_t state;

static uint64_t draw(void) { /* splitmix64 */
    uint64_t z = state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static long between(long low, long high) { return low + (long)(draw() % (uint64_t)(high - low + 1)); }

static double real(double low, double high) { return low + (high - low) * (double)(draw() >> 11) * 0x1p-53; }

static int chance(double of) { return real(0, 1) < of; }

/* A size, often one at which a loop over vectors or panels ends in an odd way. */
static long size_up_to(long most) {
    long size = between(1, most);
    if (chance(0.15)) size = 1;
    else if (chance(0.3)) size = width * between(1, 5) + between(-1, 1);
    else if (chance(0.2)) size = panel * between(1, 2) + between(-1, 1);
    return size < 1 ? 1 : size > most ? most : size;
}

/* ---- memory: freed after the case ------------------------------------------------------------------------------------ */

static void *kept[4000];
static int n_kept;

static void *keep(void *at) {
    if (!at || n_kept == (int)(sizeof kept / sizeof *kept)) {
        printf("out of memory\n");
        exit(2);
    }
    return kept[n_kept++] = at;
}

static void free_all(void) {
    while (n_kept) free(kept[--n_kept]);
}

static void *exact(size_t size) { return keep(calloc(size ? size : 1, 1)); }

static void *vectors(size_t size, int filling) { /* begins where a vector may be loaded from */
    void *at = NULL;
    if (posix_memalign(&at, 64, size ? size : 1)) at = NULL;
    return memset(keep(at), filling, size);
}

static size_t bytes_of(long reals) { return (size_t)reals * (wide ? 8 : 4); }
static void *zeros(long reals) { return vectors(bytes_of(reals), 0); }
static void *garbage(long reals) { return vectors(bytes_of(reals), 0xff); } /* NaN: to be written before it is read */
static long padded(long size) { return size < 1 ? MOST : (size + MOST - 1) / MOST * MOST; }

static double get(const void *reals, long at) { return wide ? ((const double *)reals)[at] : (double)((const float *)reals)[at]; }

static void put(void *reals, long at, double value) {
    if (wide) ((double *)reals)[at] = value;
    else ((float *)reals)[at] = (float)value;
}

static double rounded(double value) { return wide ? value : (double)(float)value; }

/* ---- the plain network ----------------------------------------------------------------------------------------------- */

typedef struct {
    long n; /* numbers */
    double *w, *m, *v, *before;
    long *slot; /* where the kernels hold each number; -1: nowhere, it is pruned */
    long n_held; /* in the kernels' arrays, with the padding */
    void *held[3]; /* theirs of w, m and v */
} parameter;

/* A fully connected layer is a convolution whose window and map are one position. Where nothing is pooled, h is copied. */
typedef struct {
    long in, out; /* units, or channels */
    long size, height, width, side; /* of the window, the map, and the windows that are pooled */
    parameter weight, bias; /* weight: [output][input][row][column] */
    double *z, *h, *p; /* [example][channel][row][column]: before the ReLU, after it, and what is pooled from that */
    double *dz, *dp; /* the loss's gradients in z and in p */
    long *met; /* of one example: products that are not 0 in each z */
} plain;

static plain plains[MOST_LAYERS];
static int n_convolutions;
static parameter idle;
static layer layers[MOST_LAYERS];
static network net;
static double *inputs; /* [example][input]: of the pixels that are read */
static uint8_t *images;
static int64_t *labels;
static long n_images;

static parameter parameter_of(long n) {
    parameter p = {.n = n};
    p.w = exact(sizeof(double) * n), p.m = exact(sizeof(double) * n), p.v = exact(sizeof(double) * n);
    p.before = exact(sizeof(double) * n), p.slot = exact(sizeof(long) * n);
    return p;
}

/* Random numbers, the same for both; `spread` is that of the weights. */
static void fill(parameter *p, long n_held, double spread, int carried) {
    p->n_held = n_held;
    for (int a = 0; a < 3; a++) p->held[a] = zeros(n_held);
    for (long k = 0; k < p->n; k++) {
        if (p->slot[k] < 0) continue;
        p->w[k] = p->before[k] = rounded(real(-spread, spread));
        if (carried) p->m[k] = rounded(real(-0.05, 0.05)), p->v[k] = rounded(real(1e-4, 1e-2));
        put(p->held[0], p->slot[k], p->w[k]);
        put(p->held[1], p->slot[k], p->m[k]);
        put(p->held[2], p->slot[k], p->v[k]);
    }
}

static void move_plain(const optimiser *o, double rate, double count, double g, double *w, double *m, double *v) {
    if (o->kind == ADAMW) *w *= 1 - rate * o->decay;
    else g += o->decay * *w;
    if (o->kind == ADAM || o->kind == ADAMW) {
        *m = o->beta1 * *m + (1 - o->beta1) * g;
        *v = o->beta2 * *v + (1 - o->beta2) * g * g;
        double first = *m / (1 - pow(o->beta1, count)), second = *v / (1 - pow(o->beta2, count));
        *w -= rate * first / (sqrt(second) + o->eps);
        return;
    }
    if (o->kind != SGD) {
        *m = o->momentum * *m + g;
        g = o->kind == NESTEROV ? g + o->momentum * *m : *m;
    }
    *w -= rate * g;
}

static long maps_of(const plain *l) { return l->out * l->height * l->width; }
static long pooled_of(const plain *l) { return l->out * (l->height / l->side) * (l->width / l->side); }
static long weights_into_one(const plain *l) { return l->in * l->size * l->size; }
static long read_by(int n) { return n ? pooled_of(plains + n - 1) : net.inputs; }

/* Each product of living weight k and number `from` of the inputs that belongs to number `to` of the outputs. */
#define EACH_PRODUCT(l, ...)                                                                                           \
    for (long o = 0, k = 0; o < (l)->out; o++)                                                                         \
        for (long i = 0; i < (l)->in; i++)                                                                             \
            for (long a = 0; a < (l)->size; a++)                                                                       \
                for (long b = 0; b < (l)->size; b++, k++) {                                                            \
                    if ((l)->weight.slot[k] < 0) continue;                                                             \
                    for (long row = 0; row < (l)->height; row++)                                                       \
                        for (long column = 0; column < (l)->width; column++) {                                         \
                            long r = row + a - (l)->size / 2, c = column + b - (l)->size / 2;                          \
                            if (r < 0 || r >= (l)->height || c < 0 || c >= (l)->width) continue;                       \
                            long to = (o * (l)->height + row) * (l)->width + column;                                   \
                            long from = (i * (l)->height + r) * (l)->width + c;                                        \
                            __VA_ARGS__                                                                                \
                        }                                                                                              \
                }

/* Number `at` of all that are pooled: its window begins at number `first` of what they are pooled from. */
#define EACH_WINDOW(l, ...)                                                                                            \
    for (long channel = 0, at = 0; channel < (l)->out; channel++)                                                      \
        for (long r = 0; r < (l)->height / (l)->side; r++)                                                             \
            for (long c = 0; c < (l)->width / (l)->side; c++, at++) {                                                  \
                long first = (channel * (l)->height + r * (l)->side) * (l)->width + c * (l)->side;                     \
                __VA_ARGS__                                                                                            \
            }

/* The first of the greatest numbers in a window of h. */
static long greatest(const plain *l, const double *h, long first) {
    long most = first;
    for (long a = 0; a < l->side; a++)
        for (long b = 0; b < l->side; b++)
            if (h[first + a * l->width + b] > h[most]) most = first + a * l->width + b;
    return most;
}

/* Whether rounding may decide which number of a window is the greatest. Equal ones are equal in the kernels as well: they
   are sums of the same numbers in the same order. */
static int undecided(const plain *l, const double *h, long first, double margin) {
    double most = h[greatest(l, h, first)];
    for (long a = 0; a < l->side; a++)
        for (long b = 0; b < l->side; b++) {
            double one = h[first + a * l->width + b];
            if (one < most && one > most - margin) return 1;
        }
    return 0;
}

/* From bytes to the outputs; whether a ReLU's input is so near 0, or a window's greatest so near another, that rounding
   may decide what they give. */
static int forward_plain(const int64_t *places, long examples, double margin) {
    int near = 0;
    for (long e = 0; e < examples; e++)
        for (long i = 0; i < net.inputs; i++) {
            float product = (float)images[places[e] * net.pixels + net.pixel[i]] * net.scale[i];
            inputs[e * net.inputs + i] = (double)(float)(product + net.shift[i]);
        }
    for (int n = 0; n < net.n_layers; n++) {
        const plain *l = plains + n;
        for (long e = 0; e < examples; e++) {
            const double *x = (n ? plains[n - 1].p : inputs) + e * read_by(n);
            double *z = l->z + e * maps_of(l), *h = l->h + e * maps_of(l), *p = l->p + e * pooled_of(l);
            for (long at = 0; at < maps_of(l); at++) z[at] = l->bias.w[at / (l->height * l->width)], l->met[at] = 0;
            EACH_PRODUCT(l, {
                double product = l->weight.w[k] * x[from];
                z[to] += product;
                l->met[to] += product != 0;
            })
            for (long at = 0; at < maps_of(l); at++) {
                if (layers[n].relu && l->met[at] && fabs(z[at]) < margin) near = 1;
                h[at] = layers[n].relu && z[at] < 0 ? 0 : z[at];
            }
            EACH_WINDOW(l, {
                if (undecided(l, h, first, margin)) near = 1;
                p[at] = h[greatest(l, h, first)];
            })
        }
    }
    return near;
}

static void step_plain(const int64_t *places, long examples, double rate, double count) {
    const plain *last = plains + net.n_layers - 1;
    for (long e = 0; e < examples; e++) {
        const double *z = last->z + e * last->out;
        double top = z[0], sum = 0;
        for (long o = 1; o < last->out; o++) top = z[o] > top ? z[o] : top;
        for (long o = 0; o < last->out; o++) sum += exp(z[o] - top);
        for (long o = 0; o < last->out; o++)
            last->dp[e * last->out + o] = (exp(z[o] - top) / sum - (labels[places[e]] == o)) / (double)examples;
    }
    for (int n = net.n_layers - 1; n >= 0; n--) {
        plain *l = plains + n, *before = n ? l - 1 : NULL;
        double *g = exact(sizeof *g * l->weight.n), *of_bias = exact(sizeof *of_bias * l->out);
        if (n) memset(before->dp, 0, sizeof(double) * examples * read_by(n));
        for (long e = 0; e < examples; e++) {
            const double *x = (n ? before->p : inputs) + e * read_by(n), *h = l->h + e * maps_of(l);
            double *dz = l->dz + e * maps_of(l), *dp = l->dp + e * pooled_of(l);
            memset(dz, 0, sizeof(double) * maps_of(l));
            EACH_WINDOW(l, {
                long most = greatest(l, h, first);
                if (!layers[n].relu || h[most] > 0) dz[most] = dp[at];
            })
            if (n) EACH_PRODUCT(l, { before->dp[e * read_by(n) + from] += dz[to] * l->weight.w[k]; })
            EACH_PRODUCT(l, { g[k] += dz[to] * x[from]; })
            for (long at = 0; at < maps_of(l); at++) of_bias[at / (l->height * l->width)] += dz[at];
        }
        for (long k = 0; k < l->weight.n; k++)
            if (l->weight.slot[k] >= 0)
                move_plain(&net.optimiser, rate, count, g[k], l->weight.w + k, l->weight.m + k, l->weight.v + k);
        for (long o = 0; o < l->out; o++)
            move_plain(&net.optimiser, rate, count, of_bias[o], l->bias.w + o, l->bias.m + o, l->bias.v + o);
    }
    for (long k = 0; k < idle.n; k++) move_plain(&net.optimiser, rate, count, 0, idle.w + k, idle.m + k, idle.v + k);
}

/* ---- the same network as engine/native.py describes it ---------------------------------------------------------------- */

typedef struct {
    long tile, length, row, column, from;
} entry;

#define COMPARE(field)                                                                                                 \
    if (a->field != b->field) return a->field < b->field ? -1 : 1;
static int compare(const void *left, const void *right) {
    const entry *a = left, *b = right;
    COMPARE(tile) COMPARE(length) COMPARE(row) COMPARE(column) return 0;
}

/* Sorts the weights as `native._arranged` does; their runs. */
static segment *arrange(entry *entries, long count, long rows, long columns, long tile, long *n_segments) {
    long tiles = columns / tile + 1, n = 0;
    long *lengths = exact(sizeof(long) * rows * tiles);
    for (long k = 0; k < count; k++) {
        entries[k].tile = entries[k].column / tile;
        lengths[entries[k].tile * rows + entries[k].row]++;
    }
    for (long k = 0; k < count; k++) entries[k].length = lengths[entries[k].tile * rows + entries[k].row];
    if (count) qsort(entries, count, sizeof *entries, compare);
    for (int round = 0;; round++) { /* first count them, then write them */
        segment *segments = round ? exact(sizeof *segments * n) : NULL;
        n = 0;
        for (long k = 0, end; k < count; k = end, n++) {
            for (end = k; end < count && entries[end].tile == entries[k].tile && entries[end].row == entries[k].row;) end++;
            if (round) segments[n] = (segment){(int32_t)entries[k].row, (int32_t)k, (int32_t)end};
        }
        *n_segments = n;
        if (round) return segments;
    }
}

static int32_t *widened(const entry *entries, long count, int which) {
    int32_t *wider = vectors(sizeof *wider * padded(count), 0);
    for (long k = 0; k < count; k++)
        wider[k] = (int32_t)(which == 'r' ? entries[k].row : which == 'c' ? entries[k].column : entries[k].from);
    return wider;
}

/* Maps in the kernels' hands: nothing may be written beside the positions that are written at all. */
typedef struct {
    void *at;
    long maps, plane, pitch, inner, height, across;
} map;

static map all_maps[5 * MOST_LAYERS];
static int n_maps;

/* Where number `at` of [map][row][column] is held. */
static long held_at(long at, long height, long across, long plane, long pitch, long inner) {
    return at / (height * across) * plane + inner + at / across % height * pitch + at % across;
}

static int inside(const map *m, long position) {
    long at = position - m->inner;
    return at >= 0 && at / m->pitch < m->height && at % m->pitch < m->across;
}

/* Maps as they are before the first step, `height` x `across` positions to be written of each: zeros around garbage. */
static void *map_of(long maps, long plane, long pitch, long inner, long height, long across) {
    map m = {zeros(maps * plane * panel), maps, plane, pitch, inner, height, across};
    for (long at = 0; at < maps * plane; at++)
        if (inside(&m, at % plane)) memset((char *)m.at + bytes_of(at * panel), 0xff, bytes_of(panel));
    all_maps[n_maps++] = m;
    return m.at;
}

static void same_borders(void) {
    for (const map *m = all_maps; m < all_maps + n_maps; m++)
        for (long at = 0; at < m->maps * m->plane; at++)
            for (long lane = 0; !inside(m, at % m->plane) && lane < panel; lane++)
                if (get(m->at, at * panel + lane) != 0)
                    fail("map %ld of %ld, position %ld is beside its image and has become %g", at / m->plane, m->maps,
                         at % m->plane, get(m->at, at * panel + lane));
}


/* As `native._distances`: from a window's first position, by column. */
static void distances(const layer *one, const plain *l, int32_t **before, int32_t **after) {
    long area = l->size * l->size;
    *before = exact(sizeof **before * l->in * area), *after = exact(sizeof **after * l->out * area);
    for (long q = 0; q < area; q++) {
        long position = q / l->size * one->pitch + q % l->size;
        for (long i = 0; i < l->in; i++) (*before)[i * area + q] = (int32_t)(i * one->plane + position);
        for (long o = 0; o < l->out; o++) (*after)[o * area + area - 1 - q] = (int32_t)(o * one->plane + position);
    }
}

static void describe_sparse(layer *one, plain *l, long count, double spread, int carried) {
    parameter *p = &l->weight;
    entry *entries = exact(sizeof *entries * count);
    long columns = weights_into_one(l), area = l->size * l->size;
    long k = 0, n, tile = between(1, columns + 1);
    for (long at = 0; at < p->n; at++)
        if (p->slot[at] >= 0) entries[k++] = (entry){.row = at / columns, .column = at % columns};
    one->segments = arrange(entries, count, l->out, columns, tile, &n);
    one->n_segments = (int32_t)n;
    for (k = 0; k < count; k++) p->slot[entries[k].row * columns + entries[k].column] = k;
    one->kind = SPARSE, one->count = (int32_t)count;
    int32_t *row = widened(entries, count, 'r'), *column = widened(entries, count, 'c');
    for (k = 0; k < count; k++) { /* rows are inputs, columns the weights from one input to all outputs */
        long input = entries[k].column / area, in_window = entries[k].column % area;
        entries[k] = (entry){.row = input, .column = entries[k].row * area + in_window, .from = k};
    }
    one->t_segments = arrange(entries, count, l->in, l->out * area, between(1, l->out * area + 1), &n);
    one->n_t_segments = (int32_t)n;
    int32_t *t_column = widened(entries, count, 'c');
    if (one->size) {
        int32_t *before, *after;
        distances(one, l, &before, &after);
        for (k = 0; k < count; k++) column[k] = before[column[k]], t_column[k] = after[t_column[k]];
        one->g = garbage(padded(count));
    }
    one->row = row, one->column = column;
    one->t_column = t_column, one->t_place = widened(entries, count, 'f');
    one->t_w = garbage(padded(count));
    fill(p, padded(count), spread, carried);
}

static void describe_dense(layer *one, plain *l, long count, double spread, int carried) {
    parameter *p = &l->weight;
    long columns = weights_into_one(l), area = l->size * l->size;
    one->kind = DENSE, one->stride = (int32_t)((columns + width - 1) / width * width);
    for (long at = 0; at < p->n; at++)
        if (p->slot[at] >= 0) p->slot[at] = at / columns * one->stride + at % columns;
    if (count < p->n || chance(0.1)) {
        uint16_t *bits = exact(sizeof *bits * (l->out * one->stride / width));
        for (long at = 0; at < p->n; at++)
            if (p->slot[at] >= 0) bits[p->slot[at] / width] |= (uint16_t)(1u << p->slot[at] % width);
        one->alive = bits;
    }
    if (one->size) {
        int32_t *before, *after, *place = exact(sizeof *place * l->out * area);
        distances(one, l, &before, &after);
        for (long at = 0; at < l->out * area; at++) place[at] = (int32_t)(at / area * one->stride + at % area);
        one->column = before, one->t_column = after, one->t_place = place;
        one->g = garbage(l->out * one->stride);
    } else
        one->xt = zeros((long)net.batch * one->stride);
    fill(p, l->out * one->stride, spread, carried);
}

/* As `native._lay_out`; and the maps themselves. */
static void describe_maps(int n, long border, long panels) {
    plain *l = plains + n;
    layer *one = layers + n;
    one->height = (int32_t)l->height, one->width = (int32_t)l->width;
    one->pitch = one->plane = 1;
    long maps = panels * l->out, height = l->height, across = l->width;
    if (n < n_convolutions) {
        long reach = border - l->size / 2, around = n + 1 < n_convolutions ? border : 0;
        one->size = (int32_t)l->size;
        one->pitch = (int32_t)(l->width + 2 * border), one->plane = (int32_t)(l->height + 2 * border) * one->pitch;
        one->corner = (int32_t)reach * one->pitch + (int32_t)reach;
        one->inner = (int32_t)border * one->pitch + (int32_t)border;
        if (one->pool) {
            height = l->height / l->side, across = l->width / l->side;
            one->z_pitch = (int32_t)(across + 2 * around);
            one->z_plane = (int32_t)(height + 2 * around) * one->z_pitch;
            one->z_inner = (int32_t)around * one->z_pitch + (int32_t)around;
            one->z = map_of(maps, one->z_plane, one->z_pitch, one->z_inner, height, across);
            one->dz = map_of(maps, one->z_plane, one->z_pitch, one->z_inner, height, across);
            height *= l->side, across *= l->side; /* no gradient comes to the rows that are left over */
        }
    }
    one->y = map_of(maps, one->plane, one->pitch, one->inner, l->height, l->width);
    one->dy = map_of(maps, one->plane, one->pitch, one->inner, height, across);
}

static void describe_layer(int n, long border, int carried, long panels) {
    plain *l = plains + n;
    layer *one = layers + n;
    long columns = weights_into_one(l), area = l->size * l->size;
    one->relu = n < net.n_layers - 1, one->in = (int32_t)l->in, one->out = (int32_t)l->out;
    describe_maps(n, border, panels);
    l->weight = parameter_of(l->out * columns), l->bias = parameter_of(l->out);
    parameter *p = &l->weight;
    long density = between(0, 3), count = 0; /* none, few, half, all */
    if (n_convolutions && density == 0 && chance(0.7)) density = 2; /* else hardly any gradient gets through all layers */
    double share = density == 3 ? 1 : density == 2 ? 0.5 : density == 1 ? 2.0 / (double)(columns + 1) : 0;
    int holes = chance(0.5);
    for (long at = 0; at < p->n; at++) p->slot[at] = chance(share) ? 0 : -1;
    for (long o = 0; holes && o < l->out; o++) /* empty outputs and inputs */
        if (chance(0.2))
            for (long at = 0; at < columns; at++) p->slot[o * columns + at] = -1;
    for (long i = 0; holes && i < l->in; i++)
        if (chance(0.2))
            for (long o = 0; o < l->out; o++)
                for (long q = 0; q < area; q++) p->slot[o * columns + i * area + q] = -1;
    for (long at = 0; at < p->n; at++) count += p->slot[at] >= 0;
    double spread = 1.7 / sqrt(1 + share * (double)columns);
    if (p->n && chance(0.5)) describe_dense(one, l, count, spread, carried);
    else describe_sparse(one, l, count, spread, carried);
    one->w = p->held[0], one->m = p->held[1], one->v = p->held[2];
    for (long o = 0; o < l->out; o++) l->bias.slot[o] = o;
    fill(&l->bias, padded(l->out), chance(0.2) ? 0 : 0.3, carried);
    one->bias = l->bias.held[0], one->bias_m = l->bias.held[1], one->bias_v = l->bias.held[2];
    size_t most = sizeof(double) * (net.batch > n_images ? net.batch : n_images);
    l->z = exact(most * maps_of(l)), l->h = exact(most * maps_of(l)), l->dz = exact(most * maps_of(l));
    l->p = exact(most * pooled_of(l)), l->dp = exact(most * pooled_of(l));
    l->met = exact(sizeof *l->met * maps_of(l));
    snprintf(told + strlen(told), sizeof told - strlen(told), "; %s layer %ld -> %ld, %ld weights",
             one->kind == DENSE ? "dense" : "sparse", l->in, l->out, count);
    if (one->size)
        snprintf(told + strlen(told), sizeof told - strlen(told), ", window %ld on %ld x %ld, pool %d", l->size, l->height,
                 l->width, one->pool);
}

/* How many layers, and of what size; the weights come later. */
static void draw_layers(void) {
    n_convolutions = chance(0.5) ? (int)between(1, 3) : 0;
    net.n_layers = (int32_t)(n_convolutions ? n_convolutions + between(1, 2) : between(1, 3));
    memset(plains, 0, sizeof plains), memset(layers, 0, sizeof layers);
    long in = chance(0.03) ? 0 : between(1, chance(0.5) ? 3 : 9), height = between(1, 9), across = between(1, 9);
    if (chance(0.15)) height = between(1, 4), across = between(BAND - 1, BAND + 9);
    for (int n = 0; n < n_convolutions; n++) {
        long least = height < across ? height : across, pool = between(n + 1 == n_convolutions, 3);
        if (pool > least) pool = least;
        plains[n] = (plain){.in = in, .out = chance(0.03) ? 0 : between(1, 9), .size = 1 + 2 * between(0, 2)};
        plains[n].height = height, plains[n].width = across, plains[n].side = pool ? pool : 1;
        layers[n].pool = (int32_t)pool;
        height /= plains[n].side, across /= plains[n].side, in = plains[n].out;
    }
    if (n_convolutions) in *= height * across;
    else in = chance(0.03) ? 0 : chance(0.06) ? between(90, 210) : size_up_to(70);
    for (int n = n_convolutions; n < net.n_layers; in = plains[n++].out) {
        long out = chance(0.03) ? 0 : chance(0.03) ? between(90, 110) : size_up_to(40);
        if (n == net.n_layers - 1) out = between(1, 11);
        plains[n] = (plain){.in = in, .out = out, .size = 1, .height = 1, .width = 1, .side = 1};
    }
}

/* Examples of a network of convolutions: as many as fit into `products` of an input and a weight, and the fewer its maps
   have numbers the likelier it is that none of them is too near 0. */
static long most_examples(double products, double numbers) {
    double of_one = 1, maps = 1;
    for (int n = 0; n < net.n_layers; n++) {
        of_one += (double)(maps_of(plains + n) * weights_into_one(plains + n));
        if (n < n_convolutions) maps += (double)maps_of(plains + n);
    }
    double most = fmin(products / of_one, numbers / maps);
    return most < 1 ? 1 : most < (double)(3 * panel) ? (long)most : 3 * panel;
}

static void describe(void) {
    long most_outputs = 0, border = 0;
    memset(&net, 0, sizeof net), n_maps = 0;
    draw_layers();
    const plain *of_first = plains;
    long pixels_of_input = of_first->height * of_first->width, most = n_convolutions ? most_examples(4e5, 1e4) : 140;
    net.batch = (int32_t)size_up_to(most);
    net.inputs = (int32_t)(of_first->in * pixels_of_input);
    do net.pixels = (int32_t)(net.inputs + between(1, chance(0.5) ? 2 : 40));
    while (net.pixels % 16 == 0);
    if (n_convolutions) net.pixels = (int32_t)((of_first->in + between(of_first->in == 0, 2)) * pixels_of_input);
    long panels = (net.batch + panel - 1) / panel;

    n_images = between(1, most < 150 ? most : 150);
    images = exact((size_t)n_images * net.pixels);
    labels = exact(sizeof *labels * n_images);
    double drawn = real(0, 0.6);
    for (long at = 0; at < n_images * net.pixels; at++)
        if (chance(drawn)) images[at] = (uint8_t)between(0, 255);
    for (long at = 0; at < n_images; at++) labels[at] = between(0, plains[net.n_layers - 1].out - 1);
    int32_t *pixel = exact(sizeof *pixel * net.inputs), *row = exact(sizeof *row * net.inputs);
    float *scale = exact(sizeof *scale * net.inputs), *shift = exact(sizeof *shift * net.inputs);
    for (long at = 0, i = 0; i < net.inputs; at += pixels_of_input) /* some pixels or whole channels, in order */
        if (between(1, (net.pixels - at) / pixels_of_input) <= (net.inputs - i) / pixels_of_input)
            for (long q = 0; q < pixels_of_input; q++) pixel[i++] = (int32_t)(at + q);
    for (long i = 0; i < net.inputs; i++) {
        int another = i % pixels_of_input == 0;
        scale[i] = another ? (float)real(0.001, 0.01) : scale[i - 1];
        shift[i] = another ? (float)real(-1, 0) : shift[i - 1];
    }
    net.pixel = pixel, net.row = row, net.scale = scale, net.shift = shift;
    net.bytes = vectors((size_t)net.pixels * panel, 0xff);
    inputs = exact(sizeof(double) * (net.batch > n_images ? net.batch : n_images) * net.inputs);

    optimiser *o = &net.optimiser;
    int carried = chance(0.3);
    o->kind = (int32_t)between(SGD, ADAMW);
    o->decay = chance(0.5) ? 0 : real(0, 0.05);
    if (o->kind == MOMENTUM || o->kind == NESTEROV) o->momentum = real(0.1, 0.95);
    if (o->kind == ADAM || o->kind == ADAMW) {
        o->beta1 = real(0.5, 0.95), o->beta2 = real(0.9, 0.999);
        /* Where a gradient is nothing but rounding, Adam with a small eps makes a whole step of it. */
        o->eps = wide ? 1e-6 : 1e-2;
    }
    o->done_before = carried ? between(1, 50) : 0;
    snprintf(told, sizeof told, "%s, decay %g, batch %d, %ld images of %d pixels", KINDS[o->kind], o->decay, net.batch,
             n_images, net.pixels);
    for (int n = 0; n < n_convolutions; n++) border = plains[n].size / 2 > border ? plains[n].size / 2 : border;
    for (int n = 0; n < net.n_layers; n++) {
        describe_layer(n, border, carried, panels);
        most_outputs = plains[n].out > most_outputs ? plains[n].out : most_outputs;
    }
    const layer *first = layers;
    net.layers = layers, net.rows = first->in * first->plane;
    for (long i = 0; i < net.inputs; i++)
        row[i] = (int32_t)held_at(i, first->height, first->width, first->plane, first->pitch, first->inner);
    net.x = map_of(panels * first->in, first->plane, first->pitch, first->inner, first->height, first->width);
    net.scratch = garbage(padded(most_outputs));
    idle = parameter_of(chance(0.5) ? 0 : between(1, 40));
    for (long k = 0; k < idle.n; k++) idle.slot[k] = k;
    net.idle = padded(idle.n);
    fill(&idle, net.idle, 0.5, carried);
    net.idle_w = idle.held[0], net.idle_m = idle.held[1], net.idle_v = idle.held[2];
}

/* ---- the comparisons --------------------------------------------------------------------------------------------------- */

static int is_adam(void) { return net.optimiser.kind == ADAM || net.optimiser.kind == ADAMW; }

/* The kernels' numbers may be off by a small part of the largest change of any number in the same array, and by what
   rounding does to gradients of size 1: a wrong sum, a lost example or a weight that is not a part of it is off by far
   more. In float, `part` stands for the error of a gradient in which much cancels. Adam divides gradients by their own
   size, and the smaller of them are less exact. */
static void same_parameter(const parameter *p, const char *name, int n, double moved) {
    static const char *const WHICH[] = {"w", "m", "v"};
    double part = wide ? (is_adam() ? 1e-8 : 1e-10) : 1e-4, epsilon = wide ? DBL_EPSILON : FLT_EPSILON;
    if (is_adam()) moved /= net.optimiser.eps; /* by which it divides a gradient that is nothing but rounding */
    char *used = exact(p->n_held);
    for (int a = 0; a < 3; a++) {
        const double *wanted = a == 0 ? p->w : a == 1 ? p->m : p->v;
        double most = 0;
        for (long k = 0; k < p->n; k++) {
            double change = fabs(wanted[k] - (a ? 0 : p->before[k]));
            most = change > most ? change : most;
        }
        for (long k = 0; k < p->n; k++) {
            if (p->slot[k] < 0) continue;
            used[p->slot[k]] = 1;
            double found = get(p->held[a], p->slot[k]);
            double allowed = part * most + 16 * epsilon * (fabs(wanted[k]) + (a == 0 ? moved : 1));
            if (!(fabs(found - wanted[k]) <= allowed))
                fail("%s %d, %s[%ld] is %.17g and should be %.17g, give or take %.3g", name, n, WHICH[a], k, found,
                     wanted[k], allowed);
        }
        for (long at = 0; at < p->n_held; at++)
            if (!used[at] && get(p->held[a], at) != 0)
                fail("%s %d, %s: padding or a pruned weight at %ld has become %g", name, n, WHICH[a], at,
                     get(p->held[a], at));
    }
}

static void same_parameters(double moved) {
    for (int n = 0; n < net.n_layers; n++) {
        same_parameter(&plains[n].weight, "layer", n, moved);
        same_parameter(&plains[n].bias, "bias of layer", n, moved);
    }
    same_parameter(&idle, "idle", 0, moved);
}

static void take_back(parameter *p) {
    for (long k = 0; k < p->n; k++)
        if (p->slot[k] >= 0) p->w[k] = get(p->held[0], p->slot[k]);
}

static void same_evaluation(const char *name, const int64_t *places, long examples, double loss, int64_t correct) {
    const plain *last = plains + net.n_layers - 1;
    double wanted = 0, margin = wide ? 1e-11 : 1e-4;
    long surely = 0, perhaps = 0;
    forward_plain(places, examples, 0);
    for (long e = 0; e < examples; e++) {
        const double *z = last->z + e * last->out, own = z[labels[places[e]]];
        double top = z[0], sum = 0, rival = -HUGE_VAL;
        for (long o = 0; o < last->out; o++) {
            top = z[o] > top ? z[o] : top;
            if (o != labels[places[e]] && z[o] > rival) rival = z[o];
        }
        for (long o = 0; o < last->out; o++) sum += exp(z[o] - top);
        wanted += log(sum) + top - own;
        surely += own > rival + margin;
        perhaps += own > rival - margin;
    }
    if (!(fabs(loss - wanted) <= (wide ? 1e-11 : 5e-6) * (double)examples * (1 + wanted / (double)examples)))
        fail("%s: the loss of %ld examples is %.17g and should be %.17g", name, examples, loss, wanted);
    if (correct < surely || correct > perhaps)
        fail("%s: %ld of %ld examples correct, and it should be %ld to %ld", name, (long)correct, examples, surely, perhaps);
}

/* A panel's bytes in a buffer of just their size. */
static void check_turn(const int64_t *places, long examples) {
    uint8_t *turned = keep(malloc((size_t)net.pixels * panel));
    turn_panel(images, places, examples, net.pixels, turned, panel);
    for (long p = 0; p < net.pixels; p++)
        for (long lane = 0; lane < panel; lane++)
            if (turned[p * panel + lane] != images[places[lane < examples ? lane : examples - 1] * net.pixels + p])
                fail("turn: pixel %ld of lane %ld", p, lane);
}

/* The first layer's weights that meet an input with a position; native.py shortens the arrays. */
static void sift(pack *p, const int32_t *position) {
    const layer *l = layers;
    segment *segments = exact(sizeof *segments * l->out);
    int32_t *place = exact(sizeof *place * l->count), *column = exact(sizeof *column * l->count);
    int32_t *scratch = exact(sizeof *scratch * (2 * l->count + l->n_segments + 2 * l->out));
    long wanted = 0, at = 0, count = tombola_sift(l, position, segments, place, column, scratch);
    int32_t *places = exact(sizeof *places * count), *columns = exact(sizeof *columns * count);
    memcpy(places, place, sizeof *places * count);
    memcpy(columns, column, sizeof *columns * count);
    char *seen = exact(l->count), *met = exact(l->out);
    for (long k = 0; k < l->count; k++) wanted += position[l->column[k]] >= 0;
    if (count != wanted) fail("sift: %ld weights left, and it should be %ld", count, wanted);
    for (long s = 0; s < l->out; s++) {
        long length = segments[s].end - segments[s].begin, before = s ? segments[s - 1].end - segments[s - 1].begin : 0;
        if (segments[s].begin != at || length < before) fail("sift: segment %ld does not follow", s);
        if (met[segments[s].row]++) fail("sift: row %ld comes twice", (long)segments[s].row);
        for (; at < segments[s].end; at++) {
            long k = places[at];
            if (seen[k]++ || l->row[k] != segments[s].row || columns[at] != position[l->column[k]] || columns[at] < 0)
                fail("sift: weight %ld", k);
            if (at > segments[s].begin && columns[at] <= columns[at - 1]) fail("sift: the order of weight %ld", k);
        }
    }
    if (at != count) fail("sift: the segments cover %ld of %ld weights", at, count);
    p->segments = segments, p->place = places, p->column = columns;
}

static pack packed(const int64_t *places, long examples) {
    int32_t *position = exact(sizeof *position * net.inputs), *used = exact(sizeof *used * net.inputs);
    size_t row = sizeof(uint32_t) * 2 * width;
    uint32_t *all = vectors(row * net.inputs, 0xff);
    long active = tombola_pack(&net, width, images, places, examples, position, used, all), met = 0;
    for (long i = 0; i < net.inputs; i++) {
        int some = 0;
        for (long e = 0; e < examples; e++) some |= images[places[e] * net.pixels + net.pixel[i]];
        if (position[i] != (some ? met : -1)) fail("pack: input %ld is at %ld", i, (long)position[i]);
        if (some && used[met++] != i) fail("pack: input %ld is not used", i);
    }
    if (active != met) fail("pack: %ld inputs, and it should be %ld", active, met);
    int32_t *input = exact(sizeof *input * active);
    uint32_t *words = vectors(row * active, 0);
    memcpy(input, used, sizeof *input * active);
    memcpy(words, all, row * active);
    for (long at = 0; at < active * panel; at++) {
        long lane = at % panel, vector = lane / width;
        uint32_t word = words[at / panel * 2 * width + vector / 2 * width + lane % width];
        word = vector % 2 ? word << 16 : word & 0xffff0000;
        float held;
        memcpy(&held, &word, sizeof held);
        if (held != images[places[lane < examples ? lane : examples - 1] * net.pixels + net.pixel[input[at / panel]]])
            fail("pack: input %ld of lane %ld is %g", (long)input[at / panel], lane, (double)held);
    }
    int64_t *answers = exact(sizeof *answers * examples);
    for (long e = 0; e < examples; e++) answers[e] = labels[places[e]];
    pack p = {.active = (int32_t)active, .examples = (int32_t)examples, .size = (int64_t)row * active, .words = words, .labels = answers, .input = input};
    if (layers->kind == SPARSE) sift(&p, position);
    return p;
}

static void check_evaluation(void) {
    long examples = between(1, n_images);
    int64_t *places = exact(sizeof *places * examples), correct = -1;
    double loss = -1;
    for (long e = 0; e < examples; e++) places[e] = between(0, n_images - 1);
    tombola_evaluate(set, wide, &net, images, labels, places, examples, &loss, &correct);
    same_evaluation("evaluate", places, examples, loss, correct);
    check_turn(places, examples < panel ? examples : panel);
    if (n_convolutions || wide) return;

    long n_packs = (examples + panel - 1) / panel;
    pack *packs = exact(sizeof *packs * n_packs);
    for (long p = 0; p < n_packs; p++)
        packs[p] = packed(places + p * panel, examples - p * panel < panel ? examples - p * panel : panel);
    tombola_evaluate_packed(set, &net, packs, n_packs, &loss, &correct);
    same_evaluation("evaluate_packed", places, examples, loss, correct);
}

/* Pooling alone, of small integers, of which many are equal, and in some networks of NaN. */
static void check_pool(const layer *one, const plain *l) {
    long numbers = maps_of(l), pooled = pooled_of(l);
    double *h = exact(sizeof *h * numbers * panel), some_nan = chance(0.3) ? 0.1 : 0;
    long *y_at = exact(sizeof *y_at * numbers), *z_at = exact(sizeof *z_at * pooled);
    for (long at = 0; at < numbers; at++)
        y_at[at] = held_at(at, l->height, l->width, one->plane, one->pitch, one->inner) * panel;
    for (long at = 0; at < pooled; at++)
        z_at[at] = held_at(at, l->height / l->side, l->width / l->side, one->z_plane, one->z_pitch, one->z_inner) * panel;
    for (long lane = 0; lane < panel; lane++) {
        for (long at = 0; at < numbers; at++) {
            h[lane * numbers + at] = chance(some_nan) ? NAN : (double)between(0, 2);
            put(one->y, y_at[at] + lane, h[lane * numbers + at]);
        }
        for (long at = 0; at < pooled; at++) put(one->dz, z_at[at] + lane, (double)between(1, 9));
    }
#define CALL(x) (pool_##x(one, one->y, one->z), unpool_##x(one, one->y, one->z, one->dz, one->dy))
    EACH(CALL)
#undef CALL
    for (long lane = 0; lane < panel; lane++)
        EACH_WINDOW(l, {
            long most = greatest(l, h + lane * numbers, first), nans = 0;
            double z = get(one->z, z_at[at] + lane), dz = get(one->dz, z_at[at] + lane), sum = 0;
            for (long q = 0; q < l->side * l->side; q++) {
                long place = first + q / l->side * l->width + q % l->side;
                double d = get(one->dy, y_at[place] + lane);
                nans += isnan(h[lane * numbers + place]);
                sum += d;
                if (some_nan == 0 && d != (place == most ? dz : 0)) fail("unpool: number %ld of lane %ld", place, lane);
            }
            if (sum != dz) fail("unpool: window %ld of lane %ld gets %g of a gradient of %g", at, lane, sum, dz);
            if (nans ? !isnan(z) : z != h[lane * numbers + most]) fail("pool: window %ld of lane %ld is %g", at, lane, z);
        })
}

/* ---- outputs alone, as cash/sparsification.py asks for them: float, and never a gradient ------------------------------ */

static void *array(size_t size) { return vectors((size + 63) / 64 * 64, 0); } /* as `kernels.together` pads it */

static float *anywhere(long n) { /* so many numbers and not one more; they seldom begin where a vector may */
    long off = between(0, 3);
    return (float *)exact(sizeof(float) * (size_t)(n + off)) + off;
}

static float *random_floats(long n) {
    float *at = anywhere(n);
    for (long k = 0; k < n; k++) at[k] = (float)real(-1, 1);
    return at;
}

static float *unwritten(long n) { return memset(anywhere(n), 0xff, sizeof(float) * (size_t)n); }

/* Rows of weights of which some live, the pruned ones 0; now and then one row has more than all others. */
static float *thinned(long rows, long columns) {
    long kind = between(0, 3);
    double share = kind == 3 ? 1 : kind == 2 ? 0.3 : kind == 1 ? 2.0 / (double)(columns + 1) : 0;
    float spread = (float)(1 / sqrt(1 + share * (double)columns)), *w = exact(sizeof *w * (size_t)(rows * columns));
    for (long k = 0; k < rows * columns; k++)
        if (chance(share)) w[k] = spread * (float)real(-1, 1);
    long whole = rows && chance(0.3) ? between(0, rows - 1) : rows;
    for (long i = 0; whole < rows && i < columns; i++) w[whole * columns + i] = (float)real(0.1, 1) / (float)columns;
    return w;
}

/* How many weights each row has, and the rows by that, most first. */
static int32_t *by_length(const float *w, long rows, long columns, long *counts) {
    int32_t *order = array(sizeof *order * (size_t)rows);
    for (long o = 0; o < rows; o++) {
        for (long i = 0; i < columns; i++) counts[o] += w[o * columns + i] != 0;
        long at = o;
        for (; at && counts[order[at - 1]] < counts[o]; at--) order[at] = order[at - 1];
        order[at] = (int32_t)o;
    }
    return order;
}

static void same_outputs(const char *name, const float *found, const double *wanted, long n) {
    double most = 1;
    for (long k = 0; k < n; k++) most = fabs(wanted[k]) > most ? fabs(wanted[k]) : most;
    for (long k = 0; k < n; k++)
        if (!(fabs(found[k] - wanted[k]) <= 1e-5 * most))
            fail("%s: output %ld is %.9g and should be %.9g", name, k, (double)found[k], wanted[k]);
}

/* A layer as `kernel_packing.stages_of` describes it; `place` is where the one before puts its outputs, and then where
   this one does. */
static stage stage_of(const float *w, const float *bias, long in, long out, long *place) {
    long *counts = exact(sizeof *counts * (size_t)out), slices = (out + width - 1) / width, count = 0, in_slices = 0;
    int32_t *order = by_length(w, out, in, counts), *slice = array(sizeof *slice * (size_t)slices);
    for (long o = 0; o < out; o++) count += counts[o];
    for (long t = 0; t < slices; t++) in_slices += width * (slice[t] = (int32_t)counts[order[t * width]]);
    int32_t *begin = array(sizeof *begin * (size_t)(out + 1)), *column = array(sizeof *column * (size_t)count);
    int32_t *slice_column = array(sizeof *column * (size_t)in_slices);
    float *values = array(sizeof *values * (size_t)count), *biases = array(sizeof *biases * (size_t)out);
    float *slice_w = array(sizeof *values * (size_t)in_slices), *slice_bias = array(sizeof *biases * (size_t)(slices * width));
    for (long o = 0, k = 0; o < out; o++) {
        for (long i = 0; i < in; i++)
            if (w[o * in + i] != 0) column[k] = (int32_t)i, values[k++] = w[o * in + i];
        begin[o + 1] = (int32_t)k, biases[o] = bias[o];
    }
    for (long t = 0, first = 0; t < slices; first += width * slice[t++])
        for (long lane = 0; lane < width && t * width + lane < out; lane++) {
            long o = order[t * width + lane];
            slice_bias[t * width + lane] = bias[o];
            for (long k = begin[o]; k < begin[o + 1]; k++) {
                long at = first + (k - begin[o]) * width + lane;
                slice_w[at] = values[k], slice_column[at] = (int32_t)place[column[k]];
            }
        }
    for (long o = 0; o < out; o++) place[order[o]] = o;
    return (stage){.in = (int32_t)in, .out = (int32_t)out, .relu = chance(0.5), .n_slices = (int32_t)slices, .begin = begin,
                   .column = column, .slice = slice, .slice_column = slice_column, .order = order, .w = values,
                   .bias = biases, .slice_w = slice_w, .slice_bias = slice_bias};
}

static void check_infer(void) {
    long n = between(1, 4), examples = chance(0.3) ? between(0, 3) : size_up_to(2 * panel + 3), most = 0, room;
    long sizes[5];
    stage *stages = exact(sizeof *stages * (size_t)n);
    for (int l = 0; l <= n; l++) most = fmax(most, sizes[l] = chance(0.02) ? 0 : size_up_to(70));
    long *place = exact(sizeof *place * (size_t)most);
    for (long i = 0; i < sizes[0]; i++) place[i] = i;
    room = sizes[0];
    snprintf(told, sizeof told, "outputs of %ld examples, %ld", examples, sizes[0]);
    float *x = random_floats(examples * sizes[0]);
    double *from = exact(sizeof *from * (size_t)(examples * most)), *to = exact(sizeof *to * (size_t)(examples * most));
    for (long k = 0; k < examples * sizes[0]; k++) from[k] = x[k];
    for (int l = 0; l < n; l++) {
        long in = sizes[l], out = sizes[l + 1];
        float *w = thinned(out, in), *bias = random_floats(out);
        stages[l] = stage_of(w, bias, in, out, place);
        room = fmax(room, (out + width - 1) / width * width);
        snprintf(told + strlen(told), sizeof told - strlen(told), " -> %ld (%d weights)", out, stages[l].begin[out]);
        for (long e = 0; e < examples; e++)
            for (long o = 0; o < out; o++) {
                double z = bias[o];
                for (long i = 0; i < in; i++) z += (double)w[o * in + i] * from[e * in + i];
                to[e * out + o] = stages[l].relu && z < 0 ? 0 : z;
            }
        double *read = from;
        from = to, to = read;
    }
    for (int l = 0; l < n; l++) stages[l].room = room * panel;
    float *y = unwritten(examples * sizes[n]);
    tombola_infer(set, stages, n, x, examples, y, garbage(2 * room * panel));
    same_outputs("infer", y, from, examples * sizes[n]);
}

typedef struct { /* of a convolution, down and across */
    long size, window, padding, dilation, out;
} side;

static side side_of(long stride, long most) {
    side s = {.window = between(1, 5), .padding = between(0, 3), .dilation = chance(0.6) ? 1 : between(1, 3)};
    long reach = s.dilation * (s.window - 1) + 1, least = reach - 2 * s.padding;
    if (least < 1) least = 1;
    s.size = chance(0.2) || least > most ? least : between(least, most);
    s.out = (s.size + 2 * s.padding - reach) / stride + 1;
    return s;
}

/* As `kernel_packing.convolution_of` describes it, but for how much is laid out at once: bands of any height, any number
   abreast. */
static void check_slide(void) {
    long stride = between(1, 3), in = between(1, 4), out = chance(0.2) ? between(10, 20) : between(1, 9);
    side down = side_of(stride, 14), across = side_of(stride, chance(0.5) ? 40 : 9);
    long sums = stride == 1 && chance(0.6); /* are moved, and not inputs */
    if (sums) across.window = 3, across.padding = across.dilation = 1, across.out = across.size;
    long area = down.window * across.window, columns = in * area, abreast = between(1, 8), band = between(1, down.out);
    if (chance(0.2)) { /* whole vectors in a row: then there is no tile */
        long more = (across.out + MOST - 1) / MOST * MOST - across.out;
        across.out += more, across.size += more * stride, abreast = 1;
    }
    long apart = across.out + (sums && abreast > 1), pitch = (abreast * apart + MOST - 1) / MOST * MOST;
    while (sums && (pitch / MOST & (pitch / MOST - 1))) pitch += MOST;
    if (sums && pitch > 8 * width) sums = 0, apart = across.out, pitch = (abreast * apart + MOST - 1) / MOST * MOST;
    long map_size = down.out * across.out, n_moved = 0, shifts = sums ? 1 : across.window, groups = sums ? 3 : 1;
    long rows = band + (down.window - 1) * down.dilation / stride;
    float *w = thinned(out, columns), *bias = random_floats(out);
    long *counts = exact(sizeof *counts * (size_t)out), *place = exact(sizeof *place * (size_t)(in * shifts));
    int32_t *order = by_length(w, out, columns, counts), *begin = array(sizeof *begin * (size_t)(out * groups + 1));
    int32_t *keep = array(sizeof *keep * (size_t)(shifts * pitch));
    for (long k = 0; k < out * columns; k++)
        if (w[k] != 0) place[k % columns / area * shifts + k % across.window % shifts] = 1;
    moved *all = exact(sizeof *all * (size_t)(in * shifts)), *moves;
    for (long key = 0; key < in * shifts; key++) {
        if (!place[key]) continue;
        long move = sums ? 0 : key % shifts * across.dilation - across.padding, right = across.size - 1 - move;
        long first = move < 0 ? (-move + stride - 1) / stride : 0, last = right < 0 ? 0 : right / stride + 1;
        if (first > across.out) first = across.out;
        if (last > across.out) last = across.out;
        if (last < first) last = first;
        int whole = abreast == 1 && stride == 1 && -move <= across.size && move + pitch <= 2 * across.size;
        for (long at = first; at < last; at++) keep[key % shifts * pitch + at] = -1;
        all[n_moved] = (moved){(int32_t)(key / shifts), (int32_t)move, (int32_t)first, (int32_t)last,
                               whole ? (int32_t)(key % shifts * pitch) : -1, 0};
        place[key] = n_moved++;
    }
    moves = memcpy(exact(sizeof *moves * (size_t)n_moved), all, sizeof *moves * (size_t)n_moved);
    long line = (n_moved ? n_moved : 1) * pitch + MOST, count = 0;
    for (long o = 0; o < out; o++) count += counts[o];
    int32_t *offset = array(sizeof *offset * (size_t)count);
    float *values = array(sizeof *values * (size_t)count), *biases = array(sizeof *biases * (size_t)out);
    for (long o = 0, k = 0; o < out; o++) {
        for (long group = 0; group < groups; group++) {
            for (long q = 0; q < columns; q++) {
                float value = w[order[o] * columns + q];
                long low = q % area / across.window * down.dilation;
                if (value == 0 || (sums && q % 3 != (group == 0 ? 1 : group == 1 ? 0 : 2))) continue;
                long at = place[q / area * shifts + q % across.window % shifts] * pitch;
                offset[k] = (int32_t)(at + (low % stride * rows + low / stride) * line), values[k++] = value;
            }
            begin[o * groups + group + 1] = (int32_t)k;
        }
        biases[o] = bias[order[o]];
    }
    convolution c = {.in = (int32_t)in, .height = (int32_t)down.size, .width = (int32_t)across.size, .out = (int32_t)out,
                     .out_height = (int32_t)down.out, .out_width = (int32_t)across.out, .stride = (int32_t)stride,
                     .padding = (int32_t)down.padding, .relu = chance(0.5), .n_moved = (int32_t)n_moved,
                     .abreast = (int32_t)abreast, .apart = (int32_t)apart, .pitch = (int32_t)pitch, .groups = (int32_t)groups,
                     .band = (int32_t)band, .rows = (int32_t)rows, .line = line, .moved = moves, .keep = keep, .order = order,
                     .begin = begin, .offset = offset, .w = values, .bias = biases};
    long most_images = (long)fmax(1, fmin(17, 3e5 / (double)(map_size * out * columns)));
    float *room = zeros(rows * stride * line);
    for (int again = 0; again < 2; again++) { /* other images, in the room as it then is */
        long images = chance(0.05) ? 0 : between(1, most_images), size = in * down.size * across.size;
        snprintf(told, sizeof told, "convolution %ld -> %ld, %ld weights, %ld images of %ld x %ld, %ld abreast, bands of %ld; "
                 "window %ld x %ld, stride %ld, padding %ld and %ld, dilation %ld and %ld, sums %ld", in, out, count, images, down.size,
                 across.size, abreast, band, down.window, across.window, stride, down.padding, across.padding, down.dilation,
                 across.dilation, sums);
        float *x = random_floats(images * size), *y = unwritten(images * out * map_size);
        double *wanted = exact(sizeof *wanted * (size_t)(images * out * map_size)), *to = wanted;
        for (long image = 0; image < images; image++)
            for (long o = 0; o < out; o++)
                for (long row = 0; row < down.out; row++)
                    for (long column = 0; column < across.out; column++) {
                        double z = bias[o];
                        for (long q = 0; q < columns; q++) {
                            long r = row * stride + q % area / across.window * down.dilation - down.padding;
                            long at = column * stride + q % across.window * across.dilation - across.padding;
                            if (r < 0 || r >= down.size || at < 0 || at >= across.size) continue;
                            z += (double)w[o * columns + q] * x[image * size + (q / area * down.size + r) * across.size + at];
                        }
                        *to++ = c.relu && z < 0 ? 0 : z;
                    }
        tombola_slide(set, &c, x, images, y, room);
        same_outputs("slide", y, wanted, images * out * map_size);
    }
}

/* A whole case; 0 where rounding may decide what a ReLU gives, and there is nothing to compare. */
static int perform(void) {
    describe();
    long steps = between(1, 3), examples = steps * net.batch - between(0, net.batch - 1), done = between(0, 5);
    int64_t *order = exact(sizeof *order * examples);
    double *rates = exact(sizeof *rates * steps), moved = 0;
    for (long e = 0; e < examples; e++) order[e] = between(0, n_images - 1);
    for (long step = 0; step < steps; step++) {
        rates[step] = is_adam() ? real(0.001, 0.01) : real(0.01, 0.1);
        moved += 4 * rates[step];
        long batch = examples - step * net.batch < net.batch ? examples - step * net.batch : net.batch;
        if (forward_plain(order + step * net.batch, batch, wide ? 1e-12 : 2e-5)) return 0;
        double count = (double)(net.optimiser.done_before + done + step + 1);
        step_plain(order + step * net.batch, batch, rates[step], count);
    }
    tombola_train(set, wide, &net, images, labels, order, examples, rates, done);
    same_parameters(moved);
    for (int n = 0; n < net.n_layers; n++) take_back(&plains[n].weight), take_back(&plains[n].bias);
    check_evaluation();
    for (int n = 0; n < n_convolutions; n++)
        if (layers[n].pool) check_pool(layers + n, plains + n);
    same_borders();
    if (!wide) check_infer(), check_slide();
    return 1;
}

static void perform_number(void) {
    for (uint64_t again = 0; again < 100; again++) {
        state = seed * 1000003u + number * 8191u + (uint64_t)(2 * set + wide) * 131u + (again << 48);
        for (int k = 0; k < 4; k++) state ^= draw() << 7;
        int compared = perform();
        free_all();
        if (compared) return;
    }
    fail("no network to compare");
}

int main(int count, char **values) {
    if (count != 3 && count != 6) return printf("fuzz SEED CASES [SET WIDE CASE]\n"), 2;
    seed = strtoull(values[1], NULL, 10);
    unsigned long long cases = strtoull(values[2], NULL, 10), total = 0;
    for (set = 0; set <= tombola_best(); set++)
        for (wide = 0; wide < 2; wide++) {
            width = tombola_width(set, wide), panel = 4 * width;
            for (number = 0; number < cases; number++) {
                if (count == 6 && (set != atoi(values[3]) || wide != atoi(values[4]) || number != strtoull(values[5], NULL, 10)))
                    continue;
                perform_number();
                total++;
            }
        }
    printf("%llu cases, up to %s\n", total, SETS[tombola_best()]);
    return 0;
}
