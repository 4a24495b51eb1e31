/* Sparse layers through the kernels, each buffer exactly as large as tombola/sparse makes it and allocated on its own, so
   that the address sanitizer sees whatever is read or written beside one. Memory that is to be written before it is read
   holds NaN, which would come out.

     sparse CASES RESULTS

   CASES is what tests/test_sparse_kernels.py writes: numbers, then arrays, of one layer after another. RESULTS gets the
   outputs and the gradients of inputs, weights and bias of each, after two numbers of 32 bits: whether the gradient, and
   whether the weight, is 0 wherever no weight lives. */

#include "../../tombola/sparse/kernels.c"

#include <stdio.h>
#include <stdlib.h>

const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0"; } /* it wants rights that a container may lack */

static FILE *cases, *results;
static void *kept[100];
static int n_kept;

static void *vectors(size_t size, int filling) {
    void *at = NULL;
    if (posix_memalign(&at, 64, size ? size : 1)) exit(2);
    return kept[n_kept++] = memset(at, filling, size);
}

static void *array(size_t size) {
    void *at = vectors(size, 0);
    if (size && fread(at, size, 1, cases) != 1) exit(3);
    return at;
}

static int64_t next(void) {
    int64_t value;
    if (fread(&value, sizeof value, 1, cases) != 1) exit(4);
    return value;
}

static map map_of_case(void) {
    map m;
    m.channels = next(), m.planes = next(), m.places = next(), m.n_gaps = next();
    m.plane = next(), m.pitch = next(), m.first = next(), m.rows = next(), m.across = next();
    size_t vectors_of_places = next();
    m.place = array(4 * m.places), m.order = array(vectors_of_places), m.gaps = array(sizeof(run) * m.n_gaps);
    return m;
}

static list list_of_case(void) {
    list l;
    l.blocks = next(), l.count = next(), l.reach = next();
    int64_t n_segments = next();
    l.block = array(4 * (l.blocks + 1)), l.segments = array(sizeof(segment) * n_segments);
    l.offset = array(4 * l.count), l.place = array(4 * l.count);
    return l;
}

static void one_case(void) {
    int set = next(), wide = next(), last = next();
    int64_t examples = next(), dense = next();
    size_t real = wide ? 8 : 4, width = sparse_width(set, wide);
    layer l;
    l.abreast = next(), l.in = map_of_case(), l.out = map_of_case(), l.forward = list_of_case(), l.backward = list_of_case();
    size_t inputs = examples * l.in.channels * l.in.places, outputs = examples * l.out.channels * l.out.places;
    void *x = array(real * inputs), *weight = array(real * dense), *bias = array(real * l.out.channels);
    void *dy = array(real * outputs), *alive = array(8 * ((dense + 63) / 64)), *y = vectors(real * outputs, 255), *dx = vectors(real * inputs, 255);
    size_t ours = l.in.channels * l.in.planes * l.in.plane, theirs = l.out.channels * l.out.plane, count = l.forward.count;
    size_t padded = (count + width - 1) / width * width;
    void *w = vectors(real * count, 255), *dw = vectors(real * 2 * padded, 0), *db = vectors(real * l.out.channels, 0);
    int64_t panels = (examples + l.abreast * width - 1) / (l.abreast * width);
    sparse_gather(wide, weight, l.forward.place, count, w);
    sparse_forward(set, wide, &l, x, last, y, last, w, bias, examples, 0, panels, vectors(real * (ours + theirs), 255));
    sparse_gather(wide, weight, l.backward.place, count, w);
    void *room = vectors(real * (2 * ours + theirs + l.out.channels * width), 255);
    for (int64_t half = 0; half < 2; half++) /* as two threads share the panels */
        sparse_backward(set, wide, &l, x, last, dy, last, dx, w, (char *)dw + half * real * padded, db, examples,
                        half ? panels / 2 : 0, half ? panels : panels / 2, room);
    void *gradient = vectors(real * dense, 0);
    sparse_scatter(wide, dw, 2, padded, l.backward.place, count, gradient);
    int32_t whole[2] = {sparse_whole(set, wide, gradient, dense, alive), sparse_whole(set, wide, weight, dense, alive)};
    fwrite(whole, sizeof whole, 1, results);
    fwrite(y, real, outputs, results), fwrite(dx, real, inputs, results);
    fwrite(gradient, real, dense, results), fwrite(db, real, l.out.channels, results);
    while (n_kept) free(kept[--n_kept]);
}

int main(int n, char **names) {
    if (n != 3 || !(cases = fopen(names[1], "rb")) || !(results = fopen(names[2], "wb"))) return 5;
    for (int64_t left = next(); left > 0; left--) one_case();
    return fclose(results) != 0;
}
