/* Training and evaluating a small network under a mask, at the cost of its living weights.

   Plain C with GNU vector extensions, no Python and no torch in it: engine/native.py describes a network as the structs
   below and calls the functions at the end. arithmetic.h is compiled once for each instruction set and number type, and the
   caller names the instance it wants. */

#include "../vectors.h"

#define ALIGNED __attribute__((aligned(64)))
#define PREFETCH(at) __builtin_prefetch(at, 1, 3)

#define VERSION 4 /* the same as in kernels.py: it changes with any meaning of what follows */

#define NEAR 96 /* rows of inputs that stay in the first cache while all outputs pass over them */

#define CHUNK 64 /* a multiple of every W */

#define LINE 64 /* bytes that come from memory together */

#define BAND 32 /* positions of a map that are taken together, at least, where weights meet all of them */

enum { DENSE, SPARSE };
enum { SGD, MOMENTUM, NESTEROV, ADAM, ADAMW };

typedef struct {
    int32_t row, begin, end;
} segment;

typedef struct {
    int32_t kind, relu, in, out; /* numbers of units, or of channels */
    int32_t stride; /* dense: numbers from one row of w to the next, a multiple of W */
    int32_t count;  /* sparse: living weights */
    int32_t n_segments, n_t_segments;
    int32_t size;          /* of a convolution's window; 0: a fully connected layer, whose map is one position */
    int32_t height, width; /* of the map without its border */
    int32_t pitch, plane;  /* positions in a row of the map and in all of it, border included */
    int32_t corner, inner; /* positions: of the first window, of the first that is not border */
    int32_t pool;          /* 0: no pooling follows, else the size of its windows */
    int32_t z_pitch, z_plane, z_inner, padding; /* the same of the pooled map */
    void *w, *m, *v, *bias, *bias_m, *bias_v;
    const uint16_t *alive;                  /* dense: a bit for each weight, W to a number; NULL where all live */
    const int32_t *row, *column;            /* sparse: where each weight is, padded to a multiple of W */
    const segment *segments;                /* runs of weights of one row, and near columns */
    const int32_t *t_column, *t_place;      /* the same of the transposed matrix; t_place is each weight's place in w */
    const segment *t_segments;
    void *t_w, *y, *dy, *xt, *g, *z, *dz; /* g: a convolution's gradients, as w; z: pooled outputs */
} layer;

typedef struct {
    int32_t kind, padding;
    int64_t done_before; /* steps that m and v have seen before step 0 */
    double decay, momentum, beta1, beta2, eps;
} optimiser;

typedef struct {
    int32_t n_layers, inputs, pixels, batch, rows;
    int32_t unit; /* whether each image is divided by its length, instead of scaled and shifted */
    const layer *layers;
    const int32_t *pixel, *row; /* which pixel each input is, and in which of the `rows` rows of x it goes */
    const float *scale, *shift;
    uint8_t *bytes;
    void *x, *scratch;
    int64_t idle; /* weights that live but cannot influence the output: decay and old momentum move them */
    void *idle_w, *idle_m, *idle_v;
    optimiser optimiser;
} network;

/* A panel of images to be evaluated on again and again. */
typedef struct {
    int32_t active, examples; /* active: inputs that are not 0 in all of them */
    int64_t size;             /* bytes from `words` on in which all arrays lie */
    const void *words;        /* [active][2][W]: see packed.h */
    const int64_t *labels;
    const int32_t *input;          /* which input each active one is */
    const int32_t *place, *column; /* of a sparse layer, each weight that meets an active input, and which one */
    const segment *segments;       /* one for each row, by length: the processor then foresees the end of the run */
} pack;

#define AHEAD (1 << 19) /* bytes that may come to the second cache before they are needed */
#define TILE 4 /* rows of maps, of which all outputs are made before the next */
#define SOON 4 /* outputs between the one whose place in memory is asked for and the one that is made */
#define FEW 2 /* so many examples are not worth turning round */

/* A fully connected layer that is only asked for its outputs: its living weights by rows, and, for single examples, slices
   of W rows of like length, padded with weights of 0. */
typedef struct {
    int32_t in, out, relu, n_slices;
    int64_t room; /* numbers of all stages' largest result */
    const int32_t *begin, *column;        /* of row o the weights begin[o] to begin[o + 1] */
    const int32_t *slice, *slice_column;  /* how many weights each row of a slice has; where the stage before put what they meet */
    const int32_t *order;                 /* which row each of the slices' is */
    const float *w, *bias, *slice_w, *slice_bias;
} stage;

/* A channel moved by a column of the window: outputs from column `begin` to `end` have an input there. */
typedef struct {
    int32_t channel, move, begin, end;
    int32_t keep, padding; /* where in `keep` the mask of a line is, -1 where lines are not laid out as wholes */
} moved;

/* A convolution that is only asked for its outputs. */
typedef struct {
    int32_t in, height, width, out, out_height, out_width, stride, padding, relu;
    int32_t n_moved;
    int32_t abreast, apart; /* images side by side, and numbers from one to the next */
    int32_t pitch;          /* numbers from one moved channel to the next, a multiple of every W */
    int32_t groups;         /* of the weights of an output: 1, or 3 whose sums are moved: not, right, left */
    int32_t band, rows;     /* rows of outputs that are laid out for at once, and the rows of each phase that they need */
    int64_t line;           /* numbers from line to line */
    const moved *moved;
    const int32_t *keep; /* -1 where a line has an input, else 0 */
    const int32_t *order;   /* which output is next: those with most weights are first, as loops of like length follow fast */
    const int32_t *begin, *offset; /* where each group of each output in that order begins; what each weight meets first */
    const float *w, *bias;
} convolution;

/* ---- 16 rows of bytes become 16 columns ---------------------------------------------------------------------------- */

typedef uint8_t bytes16 __attribute__((vector_size(16)));

static void turn(const uint8_t *const *rows, long width, uint8_t *to, long stride) {
    long i = 0;
    for (; i + 16 <= width; i += 16) {
        bytes16 a[16], b[16];
        for (int r = 0; r < 16; r++) memcpy(&a[r], rows[r] + i, 16);
        _Pragma("GCC unroll 4") for (int round = 0; round < 4; round++) { /* four perfect shuffles of 256 bytes transpose them */
            _Pragma("GCC unroll 8") for (int r = 0; r < 8; r++) {
                b[2 * r] = SHUFFLE(bytes16, a[r], a[r + 8], 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
                b[2 * r + 1] =
                    SHUFFLE(bytes16, a[r], a[r + 8], 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            }
            memcpy(a, b, sizeof a);
        }
        for (int r = 0; r < 16; r++) memcpy(to + (i + r) * stride, &a[r], stride < 16 ? 8 : 16);
    }
    for (; i < width; i++)
        for (int r = 0; r < 16 && r < stride; r++) to[i * stride + r] = rows[r][i];
}

/* A panel's bytes, [pixel][lane]: lanes beyond the last example repeat it. */
static void turn_panel(const uint8_t *images, const int64_t *places, long examples, long pixels, uint8_t *bytes,
                       long panel) {
    for (long lane = 0; lane < panel; lane += 16) {
        const uint8_t *rows[16];
        for (long r = 0; r < 16; r++)
            rows[r] = images + places[lane + r < examples ? lane + r : examples - 1] * pixels;
        turn(rows, pixels, bytes + lane, panel);
    }
}

#define ARITHMETIC "engine/arithmetic.h"
#define LOOSE(real)
#include "../instances.h"

/* ---- what Python calls ---------------------------------------------------------------------------------------------- */

/* The best instruction set that this processor has. */
int tombola_best(void) { return best_set(); }

/* What the caller's descriptions must amount to: a library of another version is no library. */
int64_t tombola_layout(void) {
    const size_t sizes[] = {sizeof(layer), sizeof(network), sizeof(pack), sizeof(stage), sizeof(convolution)};
    int64_t all = VERSION;
    for (int i = 0; i < 5; i++) all = all * 1000 + (int64_t)sizes[i];
    return all;
}

/* Numbers in a vector of the instance. */
int tombola_width(int set, int wide) { return width_of(set, wide); }

/* Numbers below the smallest normal one become 0 while a network is at work: they cost a hundred times a normal one. */
static unsigned flush(void) {
#if defined(__x86_64__)
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | 0x8040);
    return before;
#else
    return 0;
#endif
}

static void unflush(unsigned before) {
#if defined(__x86_64__)
    _mm_setcsr(before);
#else
    (void)before;
#endif
}

/* Steps on the examples `order[0], order[1], ...`, a batch each, the last one smaller where the numbers do not divide;
   `rates` holds each step's learning rate, `done` is the number of steps since the optimiser's start. */
void tombola_train(int set, int wide, const network *n, const uint8_t *images, const int64_t *labels,
                   const int64_t *order, int64_t examples, const double *rates, int64_t done) {
    unsigned before = flush();
#define CALL(x) train_##x(n, images, labels, order, examples, rates, done)
    EACH(CALL)
#undef CALL
    unflush(before);
}

/* The summed cross-entropy and the number of correct answers on the examples at `places`. */
void tombola_evaluate(int set, int wide, const network *n, const uint8_t *images, const int64_t *labels,
                      const int64_t *places, int64_t examples, double *loss, int64_t *correct) {
    unsigned before = flush();
#define CALL(x) evaluate_##x(n, images, labels, places, examples, loss, correct)
    EACH(CALL)
#undef CALL
    unflush(before);
}

/* The same for packed images and a network of floats. */
void tombola_evaluate_packed(int set, const network *n, const pack *packs, int64_t n_packs, double *loss,
                             int64_t *correct) {
    unsigned before = flush();
#define CALL(x) evaluate_packed_##x(n, packs, n_packs, loss, correct)
    INSTANCES(CALL, float)
#undef CALL
    unflush(before);
}

/* The outputs of a chain of sparse layers; `room` is two times the stages' room in vectors of four. */
void tombola_infer(int set, const stage *stages, int64_t n, const float *x, int64_t examples, float *y, float *room) {
#define CALL(kind) infer_##kind(stages, n, x, examples, y, room)
    INSTANCES(CALL, float)
#undef CALL
}

/* The outputs of a sparse convolution; `room` holds zeros, or what an earlier call for it has left there. */
void tombola_slide(int set, const convolution *c, const float *x, int64_t images, float *y, float *room) {
#define CALL(kind) slide_##kind(c, x, images, y, room)
    INSTANCES(CALL, float)
#undef CALL
}

static uint32_t bits(uint8_t byte) {
    float real = byte;
    uint32_t word;
    memcpy(&word, &real, sizeof word);
    return word;
}

/* Packs up to a panel of images for vectors of `width` floats: how many inputs are not 0 in all of them, each one's place
   among them, or -1, in `position`, which they are in `input`, and their `words`; the network's `bytes` are overwritten. */
int64_t tombola_pack(const network *n, int64_t width, const uint8_t *images, const int64_t *places, int64_t examples,
                     int32_t *position, int32_t *input, uint32_t *words) {
    int32_t active = 0;
    int64_t panel = 4 * width;
    turn_panel(images, places, examples, n->pixels, n->bytes, panel);
    for (int32_t i = 0; i < n->inputs; i++) {
        const uint8_t *from = n->bytes + n->pixel[i] * panel;
        uint64_t any = 0, eight;
        for (int64_t lane = 0; lane < panel; lane += 8) {
            memcpy(&eight, from + lane, 8);
            any |= eight;
        }
        position[i] = any ? active : -1;
        if (!any) continue;
        input[active++] = i;
        for (int half = 0; half < 2; half++, from += 2 * width, words += width)
            for (int64_t lane = 0; lane < width; lane++) words[lane] = bits(from[lane]) | bits(from[width + lane]) >> 16;
    }
    return active;
}

/* Of a sparse layer the weights whose column has a position >= 0, row by row, in an order of rows by length: their
   number; each one's place in the layer and its position; a segment for each row. `scratch` has room for two numbers a
   weight, one a segment and two a row of the layer. */
int64_t tombola_sift(const layer *l, const int32_t *position, segment *segments, int32_t *place, int32_t *column,
                     int32_t *scratch) {
    int32_t *places = scratch, *columns = places + l->count, *found = columns + l->count;
    int32_t *length = found + l->n_segments, *next = length + l->out, count = 0, longest = 0;
    memset(length, 0, sizeof *length * l->out);
    for (int32_t t = 0, at = 0; t < l->n_segments; t++) {
        int32_t begin = at;
        for (int32_t k = l->segments[t].begin; k < l->segments[t].end; k++) { /* no branch that could not be foreseen */
            places[at] = k;
            columns[at] = position[l->column[k]];
            at += columns[at] >= 0;
        }
        found[t] = at - begin;
        length[l->segments[t].row] += at - begin;
    }
    for (int32_t row = 0; row < l->out; row++)
        if (length[row] > longest) longest = length[row];
    for (int32_t wanted = 0; wanted <= longest; wanted++)
        for (int32_t row = 0; row < l->out; row++)
            if (length[row] == wanted) {
                *segments++ = (segment){row, count, count + wanted};
                next[row] = count;
                count += wanted;
            }
    for (int32_t t = 0; t < l->n_segments; places += found[t], columns += found[t], t++) {
        int32_t *to = next + l->segments[t].row;
        memcpy(place + *to, places, sizeof *place * found[t]);
        memcpy(column + *to, columns, sizeof *column * found[t]);
        *to += found[t];
    }
    return count;
}
