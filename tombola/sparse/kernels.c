/* Fully connected and convolutional layers at the cost of their living weights: outputs, and the gradients of inputs,
   weights and bias.

   Plain C with GNU vector extensions, no Python and no torch in it: kernels.py describes a layer as the structs below and
   calls the functions at the end. walk.h holds the arithmetic; it is compiled once for each instruction set and number
   type, and the caller names the instance it wants.

   In memory of its own a map lies as [channel][plane][row][column][abreast][W]: W examples make a vector, and `abreast`
   vectors, of other examples, lie beside each other at each position, so that short rows make long walks too. Rows and
   columns have a border of zeros where windows hang over the edge. Where a window moves by s positions each channel has
   s planes a direction, of every s-th row or column: within them it moves by one. So whatever a weight meets is at a
   fixed distance from the position that is computed, and one walk serves all strides, dilations and groups. */

#include "../vectors.h"

#define VERSION 2 /* the same as in kernels.py: it changes with any meaning of what follows */

#define MOST 16 /* vectors of the largest tile: neighbouring positions of a row that a weight meets at once */

/* The weights from `begin` to `end` are those of one channel written. */
typedef struct {
    int32_t row, begin, end;
} segment;

/* Living weights in the order in which they are met: in blocks of the channels that they read, so that what a tile reads
   stays in the first cache; within a block by the channel that they write. The first block names all of those. */
typedef struct {
    int32_t blocks, count;
    int64_t reach;             /* numbers from the first position of a window to its last */
    const int32_t *block;      /* the first segment of each block, and the end */
    const segment *segments;
    const int32_t *offset;     /* numbers from the position that is computed to what a weight meets */
    const int32_t *place;      /* where each weight is in the dense layer's */
} list;

typedef struct {
    int32_t begin, length;
} run;

enum { STREWN, MET, STRAIGHT }; /* some are met by no window; all are met; they follow each other in one plane */

/* How a map lies in memory of our own. */
typedef struct {
    int32_t channels, planes;    /* planes of each channel */
    int32_t places, n_gaps;      /* rows times columns of torch's map */
    int64_t plane, pitch, first; /* numbers from plane to plane, from row to row, to the first position computed */
    int64_t rows, across;        /* that are computed, and vectors in each */
    const int32_t *place;        /* where torch's places are in a channel's planes; -1: no window meets them */
    const uint8_t *order;        /* of each W of torch's places, how they lie: one of the following */
    const run *gaps;             /* positions of a channel's planes that are border */
} map;

typedef struct {
    int64_t abreast; /* vectors beside each other at a position */
    map in, out;
    list forward, backward;
} layer;

#define ARITHMETIC "sparse/walk.h"
#define LOOSE(real) , aligned(sizeof(real))
#include "../instances.h"

/* ---- what Python calls ---------------------------------------------------------------------------------------------- */

/* The best instruction set that this processor has. */
int sparse_best(void) { return best_set(); }

/* What the caller's descriptions must amount to: a library of another version is no library. */
int64_t sparse_layout(void) { return VERSION * 1000 + (int64_t)sizeof(layer); }

/* Numbers in a vector of the instance. */
int sparse_width(int set, int wide) { return width_of(set, wide); }

/* Outputs of the panels of examples from `begin` to `end`. `w` are the living weights in the order of l->forward; x_last
   and y_last: channels are innermost in x, in y. `room` holds one panel's inputs and outputs. */
void sparse_forward(int set, int wide, const layer *l, const void *x, int x_last, void *y, int y_last, const void *w,
                    const void *bias, int64_t examples, int64_t begin, int64_t end, void *room) {
#define CALL(kind) forward_##kind(l, x, x_last, y, y_last, w, bias, examples, begin, end, room)
    EACH(CALL)
#undef CALL
}

/* The gradients of the inputs, of the living weights in the order of l->backward, and of the bias; each may be NULL and is
   then not made; dw and db are added to. `room` holds two panels of inputs, one of outputs, and a vector for each output. */
void sparse_backward(int set, int wide, const layer *l, const void *x, int x_last, const void *dy, int dy_last, void *dx,
                     const void *w, void *dw, void *db, int64_t examples, int64_t begin, int64_t end, void *room) {
#define CALL(kind) backward_##kind(l, x, x_last, dy, dy_last, dx, w, dw, db, examples, begin, end, room)
    EACH(CALL)
#undef CALL
}

/* Whether all that is not 0 of a dense weight's numbers is where `alive` has a bit, 64 of them to a word. */
int sparse_whole(int set, int wide, const void *dense, int64_t count, const uint64_t *alive) {
    int whole = 0;
#define CALL(kind) whole = whole_##kind(dense, count, alive)
    EACH(CALL)
#undef CALL
    return whole;
}

/* w[k] = dense[place[k]]. */
void sparse_gather(int wide, const void *dense, const int32_t *place, int64_t count, void *w) {
    if (wide)
        for (int64_t k = 0; k < count; k++) ((double *)w)[k] = ((const double *)dense)[place[k]];
    else
        for (int64_t k = 0; k < count; k++) ((float *)w)[k] = ((const float *)dense)[place[k]];
}

/* dense[place[k]] = the sum of what the threads found, `apart` numbers from one's to the next's, in their order. */
void sparse_scatter(int wide, const void *sums, int64_t threads, int64_t apart, const int32_t *place, int64_t count,
                    void *dense) {
#define SCATTER(real)                                                                                                  \
    for (int64_t k = 0; k < count; k++) {                                                                              \
        real sum = ((const real *)sums)[k];                                                                            \
        for (int64_t t = 1; t < threads; t++) sum += ((const real *)sums)[t * apart + k];                              \
        ((real *)dense)[place[k]] = sum;                                                                               \
    }
    if (wide) {
        SCATTER(double)
    } else {
        SCATTER(float)
    }
#undef SCATTER
}
