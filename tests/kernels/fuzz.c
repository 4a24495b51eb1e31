/* Random networks through the kernels, each buffer exactly as large as engine/native.py makes it and allocated on its own,
   so that the address sanitizer sees whatever is read or written beside one; and the results against the plainest loops.

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

enum { MOST_LAYERS = 3, MOST = 16 /* the widest vector: arrays are padded to it */ };

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

typedef struct {
    long in, out;
    int dense;
    parameter weight, bias;
    double *z, *h, *dh; /* [example][unit]; dh: the loss's gradient in z */
} plain;

static plain plains[MOST_LAYERS];
static parameter idle;
static layer layers[MOST_LAYERS];
static network net;
static double *inputs; /* [example][input] */
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

/* From bytes to the outputs; whether a ReLU's input is so near 0 that rounding may decide what it gives. */
static int forward_plain(const int64_t *places, long examples, double margin) {
    int near = 0;
    for (long e = 0; e < examples; e++)
        for (long i = 0; i < net.inputs; i++) {
            float product = (float)images[places[e] * net.pixels + net.pixel[i]] * net.scale[i];
            inputs[e * net.inputs + i] = (double)(float)(product + net.shift[i]);
        }
    for (int n = 0; n < net.n_layers; n++) {
        const plain *l = plains + n;
        const double *x = n ? plains[n - 1].h : inputs;
        for (long e = 0; e < examples; e++)
            for (long o = 0; o < l->out; o++) {
                double z = l->bias.w[o];
                long read = 0;
                for (long i = 0; i < l->in; i++) {
                    z += l->weight.w[o * l->in + i] * x[e * l->in + i];
                    read += l->weight.slot[o * l->in + i] >= 0;
                }
                if (layers[n].relu && read && fabs(z) < margin) near = 1;
                l->z[e * l->out + o] = z;
                l->h[e * l->out + o] = layers[n].relu && z < 0 ? 0 : z;
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
            last->dh[e * last->out + o] = (exp(z[o] - top) / sum - (labels[places[e]] == o)) / (double)examples;
    }
    for (int n = net.n_layers - 1; n >= 0; n--) {
        plain *l = plains + n;
        const double *x = n ? plains[n - 1].h : inputs;
        for (long e = 0; n && e < examples; e++)
            for (long i = 0; i < l->in; i++) {
                double d = 0;
                for (long o = 0; o < l->out; o++) d += l->dh[e * l->out + o] * l->weight.w[o * l->in + i];
                plains[n - 1].dh[e * l->in + i] = x[e * l->in + i] > 0 ? d : 0;
            }
        for (long o = 0; o < l->out; o++) {
            double of_bias = 0;
            for (long e = 0; e < examples; e++) of_bias += l->dh[e * l->out + o];
            move_plain(&net.optimiser, rate, count, of_bias, l->bias.w + o, l->bias.m + o, l->bias.v + o);
            for (long i = 0; i < l->in; i++) {
                long k = o * l->in + i;
                double g = 0;
                if (l->weight.slot[k] < 0) continue;
                for (long e = 0; e < examples; e++) g += l->dh[e * l->out + o] * x[e * l->in + i];
                move_plain(&net.optimiser, rate, count, g, l->weight.w + k, l->weight.m + k, l->weight.v + k);
            }
        }
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

static long first_tile; /* of the first layer, where it is sparse */

static void describe_sparse(layer *one, plain *l, long count, double spread, int carried, int first) {
    parameter *p = &l->weight;
    entry *entries = exact(sizeof *entries * count);
    long k = 0, n, tile = between(1, l->in + 1);
    for (long at = 0; at < p->n; at++)
        if (p->slot[at] >= 0) entries[k++] = (entry){.row = at / l->in, .column = at % l->in};
    one->segments = arrange(entries, count, l->out, l->in, tile, &n);
    one->n_segments = (int32_t)n;
    for (k = 0; k < count; k++) p->slot[entries[k].row * l->in + entries[k].column] = k;
    if (first) first_tile = tile;
    one->kind = SPARSE, one->count = (int32_t)count;
    one->row = widened(entries, count, 'r'), one->column = widened(entries, count, 'c');
    for (k = 0; k < count; k++)
        entries[k] = (entry){.row = entries[k].column, .column = entries[k].row, .from = k};
    one->t_segments = arrange(entries, count, l->in, l->out, between(1, l->out + 1), &n);
    one->n_t_segments = (int32_t)n;
    one->t_column = widened(entries, count, 'c'), one->t_place = widened(entries, count, 'f');
    one->t_w = garbage(padded(count));
    fill(p, padded(count), spread, carried);
}

static void describe_dense(layer *one, plain *l, long count, double spread, int carried) {
    parameter *p = &l->weight;
    one->kind = DENSE, one->stride = (int32_t)((l->in + width - 1) / width * width);
    for (long at = 0; at < p->n; at++)
        if (p->slot[at] >= 0) p->slot[at] = at / l->in * one->stride + at % l->in;
    if (count < p->n || chance(0.1)) {
        uint16_t *bits = exact(sizeof *bits * (l->out * one->stride / width));
        for (long at = 0; at < p->n; at++)
            if (p->slot[at] >= 0) bits[p->slot[at] / width] |= (uint16_t)(1u << p->slot[at] % width);
        one->alive = bits;
    }
    one->xt = zeros((long)net.batch * one->stride);
    fill(p, l->out * one->stride, spread, carried);
}

static void describe_layer(int n, long in, long out, int carried, long panels) {
    plain *l = plains + n;
    layer *one = layers + n;
    *l = (plain){.in = in, .out = out, .weight = parameter_of(in * out), .bias = parameter_of(out)};
    *one = (layer){.relu = n < net.n_layers - 1, .in = (int32_t)in, .out = (int32_t)out};
    parameter *p = &l->weight;
    long density = between(0, 3), count = 0; /* none, few, half, all */
    double share = density == 3 ? 1 : density == 2 ? 0.5 : density == 1 ? 2.0 / (double)(in + 1) : 0;
    int holes = chance(0.5);
    for (long at = 0; at < p->n; at++) p->slot[at] = chance(share) ? 0 : -1;
    for (long o = 0; holes && o < out; o++) /* empty rows and columns */
        if (chance(0.2))
            for (long i = 0; i < in; i++) p->slot[o * in + i] = -1;
    for (long i = 0; holes && i < in; i++)
        if (chance(0.2))
            for (long o = 0; o < out; o++) p->slot[o * in + i] = -1;
    for (long at = 0; at < p->n; at++) count += p->slot[at] >= 0;
    double spread = 1.7 / sqrt(1 + share * (double)in);
    if (p->n && chance(0.5)) describe_dense(one, l, count, spread, carried);
    else describe_sparse(one, l, count, spread, carried, n == 0);
    one->w = p->held[0], one->m = p->held[1], one->v = p->held[2];
    for (long o = 0; o < out; o++) l->bias.slot[o] = o;
    fill(&l->bias, padded(out), chance(0.2) ? 0 : 0.3, carried);
    one->bias = l->bias.held[0], one->bias_m = l->bias.held[1], one->bias_v = l->bias.held[2];
    one->y = garbage(panels * out * panel), one->dy = garbage(panels * out * panel);
    size_t most = sizeof(double) * (net.batch > n_images ? net.batch : n_images) * out;
    l->z = exact(most), l->h = exact(most), l->dh = exact(most);
    snprintf(told + strlen(told), sizeof told - strlen(told), "; %s layer %ld -> %ld, %ld weights",
             one->kind == DENSE ? "dense" : "sparse", in, out, count);
}

static void describe(void) {
    long sizes[MOST_LAYERS + 1], most_outputs = 0;
    memset(&net, 0, sizeof net);
    net.n_layers = (int32_t)between(1, MOST_LAYERS);
    net.batch = (int32_t)size_up_to(140);
    sizes[0] = chance(0.03) ? 0 : chance(0.06) ? between(90, 210) : size_up_to(70);
    for (int n = 1; n < net.n_layers; n++) sizes[n] = chance(0.03) ? 0 : chance(0.03) ? between(90, 110) : size_up_to(40);
    sizes[net.n_layers] = between(1, 11);
    net.inputs = (int32_t)sizes[0];
    do net.pixels = (int32_t)(sizes[0] + between(1, chance(0.5) ? 2 : 40));
    while (net.pixels % 16 == 0);
    long panels = (net.batch + panel - 1) / panel > 2 ? (net.batch + panel - 1) / panel : 2;

    n_images = between(1, 150);
    images = exact((size_t)n_images * net.pixels);
    labels = exact(sizeof *labels * n_images);
    double drawn = real(0, 0.6);
    for (long at = 0; at < n_images * net.pixels; at++)
        if (chance(drawn)) images[at] = (uint8_t)between(0, 255);
    for (long at = 0; at < n_images; at++) labels[at] = between(0, sizes[net.n_layers] - 1);
    int32_t *pixel = exact(sizeof *pixel * net.inputs);
    float *scale = exact(sizeof *scale * net.inputs), *shift = exact(sizeof *shift * net.inputs);
    for (long at = 0, i = 0; i < net.inputs; at++) /* some pixels, in order */
        if (between(1, net.pixels - at) <= net.inputs - i) pixel[i++] = (int32_t)at;
    for (long i = 0; i < net.inputs; i++) scale[i] = (float)real(0.001, 0.01), shift[i] = (float)real(-1, 0);
    net.pixel = pixel, net.scale = scale, net.shift = shift;
    net.bytes = vectors((size_t)net.pixels * panel, 0xff);
    net.x = garbage(panels * net.inputs * panel);
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
    for (int n = 0; n < net.n_layers; n++) {
        describe_layer(n, sizes[n], sizes[n + 1], carried, panels);
        most_outputs = sizes[n + 1] > most_outputs ? sizes[n + 1] : most_outputs;
    }
    net.layers = layers;
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
static uint8_t *turned(const int64_t *places, long examples) {
    uint8_t *turned = keep(malloc((size_t)net.pixels * panel));
    tombola_turn(images, places, examples, net.pixels, turned, panel);
    for (long p = 0; p < net.pixels; p++)
        for (long lane = 0; lane < panel; lane++)
            if (turned[p * panel + lane] != images[places[lane < examples ? lane : examples - 1] * net.pixels + p])
                fail("turn: pixel %ld of lane %ld", p, lane);
    return turned;
}

static void sift(group *g, const int32_t *position) {
    const layer *l = layers;
    int64_t n = l->n_segments, count;
    segment *left = exact(sizeof *left * l->n_segments);
    int32_t *place = exact(sizeof *place * l->count), *column = exact(sizeof *column * l->count);
    int32_t *old = exact(sizeof *old * l->count), *scratch = exact(sizeof *scratch * 2 * l->out);
    memcpy(old, l->column, sizeof *old * l->count);
    count = tombola_sift(l->segments, &n, l->out, first_tile, old, position, left, place, column, scratch);
    segment *segments = exact(sizeof *segments * n); /* native.py shortens them */
    int32_t *places = exact(sizeof *places * count), *columns = exact(sizeof *columns * count);
    memcpy(segments, left, sizeof *segments * n);
    memcpy(places, place, sizeof *places * count);
    memcpy(columns, column, sizeof *columns * count);
    char *seen = exact(l->count);
    long wanted = 0, at = 0;
    for (long k = 0; k < l->count; k++) wanted += position[l->column[k]] >= 0;
    if (count != wanted) fail("sift: %ld weights left, and it should be %ld", (long)count, wanted);
    for (long s = 0; s < n; s++) {
        if (segments[s].begin != at || segments[s].end <= at) fail("sift: segment %ld does not follow", s);
        for (; at < segments[s].end; at++) {
            long k = places[at];
            if (seen[k]++ || l->row[k] != segments[s].row || columns[at] != position[l->column[k]] || columns[at] < 0)
                fail("sift: weight %ld", k);
            if (at > segments[s].begin && columns[at] <= columns[at - 1]) fail("sift: the order of weight %ld", k);
        }
    }
    if (at != count) fail("sift: the segments cover %ld of %ld weights", at, (long)count);
    g->count = (int32_t)count, g->n_segments = (int32_t)n;
    g->segments = segments, g->place = places, g->column = columns;
}

static group pack(const int64_t *places, long examples) {
    long n_panels = (examples + panel - 1) / panel, active = 0;
    long even = n_panels + n_panels % 2;
    uint8_t **panels = exact(sizeof *panels * n_panels);
    int32_t *position = exact(sizeof *position * net.inputs), *used = exact(sizeof *used * net.inputs);
    for (long p = 0; p < n_panels; p++)
        panels[p] = turned(places + p * panel, examples - p * panel < panel ? examples - p * panel : panel);
    for (long i = 0; i < net.inputs; i++) {
        int some = 0;
        for (long p = 0; p < n_panels; p++)
            for (long lane = 0; lane < panel; lane++) some |= panels[p][(long)net.pixel[i] * panel + lane];
        position[i] = some ? (int32_t)active : -1;
        if (some) used[active++] = (int32_t)i;
    }
    int32_t *input = exact(sizeof *input * active);
    memcpy(input, used, sizeof *input * active);
    uint8_t *bytes = exact((size_t)even * active * panel);
    for (long p = 0; p < even; p++)
        for (long i = 0; i < active; i++)
            memcpy(bytes + (p * active + i) * panel,
                   panels[p < n_panels ? p : n_panels - 1] + (long)net.pixel[input[i]] * panel, (size_t)panel);
    int64_t *answers = exact(sizeof *answers * examples);
    for (long e = 0; e < examples; e++) answers[e] = labels[places[e]];
    group g = {.active = (int32_t)active, .examples = examples, .bytes = bytes, .labels = answers, .input = input};
    if (layers->kind == SPARSE) sift(&g, position);
    return g;
}

static void check_evaluation(void) {
    long examples = between(1, n_images);
    int64_t *places = exact(sizeof *places * examples), correct = -1;
    double loss = -1;
    for (long e = 0; e < examples; e++) places[e] = between(0, n_images - 1);
    tombola_evaluate(set, wide, &net, images, labels, places, examples, &loss, &correct);
    same_evaluation("evaluate", places, examples, loss, correct);

    long size = panel * (chance(0.7) ? 2 : 4), n_groups = (examples + size - 1) / size;
    group *groups = exact(sizeof *groups * n_groups);
    for (long g = 0; g < n_groups; g++)
        groups[g] = pack(places + g * size, examples - g * size < size ? examples - g * size : size);
    tombola_evaluate_packed(set, wide, &net, groups, n_groups, &loss, &correct);
    same_evaluation("evaluate_packed", places, examples, loss, correct);
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
