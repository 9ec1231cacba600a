/* Products of one vector with a matrix, of which only the rows that are wanted are read.

   Numbers are float32, or bfloat16 where BFLOAT16 is defined; sums are float32. A decoded token is
   bound by the bytes of the weights, so that everything here serves one aim: every core reads one
   row at a time, front to back, without waiting. Several rows at once are slower (more streams than
   the core's prefetcher follows). Rows that do not lie side by side are fetched AHEAD rows early. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "threads.h"
#include "vectors.h"

#define AHEAD 4  /* rows */
#define PIECES 2 /* of rows, per thread; of columns there are as many as threads */
#define BYTES_OF_A_THREAD (1L << 20) /* for less, to wake another one costs more than it brings */

/* A block of WIDTH numbers is unpacked into vectors of floats. Of bfloat16 a block's even numbers
   come first, then its odd ones: a word of 32 bits holds one of each, and a shift or a mask unpacks
   it (of a little-endian machine). Sums and factors are kept in that order until the end. */
#ifdef BFLOAT16
typedef uint16_t number;
#define WIDTH (2 * LANES)
#define PLACE(i) ((i) / 2 + (i) % 2 * LANES)
static inline float to_float(number x) { return bfloat16_to_float(x); }
static inline number to_number(float value) { return float_to_bfloat16(value); }
#else
typedef float number;
#define WIDTH LANES
#define PLACE(i) (i)
static inline float to_float(number x) { return x; }
static inline number to_number(float value) { return value; }
#endif

static int useful_threads(int n_threads, long n_rows, long n_columns) {
    long n_bytes = n_rows * n_columns * (long)sizeof(number);
    long most = pool_run ? (n_bytes + BYTES_OF_A_THREAD - 1) / BYTES_OF_A_THREAD : 1;
    if (most < 1) return 1;
    return most < n_threads ? (int)most : n_threads;
}

/* -------------------------------------------------------------------- every row: dot products */

typedef struct {
    const number *matrix, *bias;
    const float *factors; /* [column], in the order of blocks */
    number *out;
    long n_rows, n_columns, n_pieces;
} Dots;

static float dot(const number *row, const float *x, long n) {
    floats sums[2][2] = {{{0}}};
    long i = 0;
    for (; i + 2 * WIDTH <= n; i += 2 * WIDTH)
        for (int s = 0; s < 2; s++) {
            const float *f = x + i + s * WIDTH;
#ifdef BFLOAT16
            words both = *(const words *)(row + i + s * WIDTH);
            sums[s][0] += *(const floats *)f * (floats)(both << 16);
            sums[s][1] += *(const floats *)(f + LANES) * (floats)(both & 0xffff0000u);
#else
            sums[s][0] += *(const floats *)f * *(const floats *)(row + i + s * WIDTH);
#endif
        }
    float sum = total((sums[0][0] + sums[1][0]) + (sums[0][1] + sums[1][1]));
    long blocked = n - n % WIDTH;
    for (; i < n; i++) {
        long at = i < blocked ? i / WIDTH * WIDTH + PLACE(i % WIDTH) : i;
        sum += x[at] * to_float(row[i]);
    }
    return sum;
}

static void dots(const void *job, long number) {
    const Dots *j = job;
    long last = share(j->n_rows, number + 1, j->n_pieces);
    for (long row = share(j->n_rows, number, j->n_pieces); row < last; row++) {
        float sum = dot(j->matrix + row * j->n_columns, j->factors, j->n_columns);
        j->out[row] = to_number(j->bias ? sum + to_float(j->bias[row]) : sum);
    }
}

/* out[row] = sum over columns of matrix[row, column] x[column], + bias[row]. scratch: [column]. */
void all_dots(const number *matrix, const number *x, const number *bias, number *out,
              float *scratch, long n_rows, long n_columns, int n_threads) {
    long blocked = n_columns - n_columns % WIDTH;
    for (long first = 0; first < blocked; first += WIDTH)
        for (long i = 0; i < WIDTH; i++) scratch[first + PLACE(i)] = to_float(x[first + i]);
    for (long i = blocked; i < n_columns; i++) scratch[i] = to_float(x[i]);
    n_threads = useful_threads(n_threads, n_rows, n_columns);
    long n_pieces = n_threads > 1 ? PIECES * n_threads : 1;
    Dots job = {matrix, bias, scratch, out, n_rows, n_columns, n_pieces};
    on_threads(dots, &job, n_pieces, n_threads);
}

/* ----------------------------------------------------------------- some rows: a weighted sum */

typedef struct {
    const number *matrix, *x, *bias;
    const int64_t *rows; /* [listed] */
    float *sums;         /* [column], in the order of blocks */
    number *out;
    long n_listed, n_columns, n_pieces;
} Sum;

/* Columns from `first`, where a block begins, to `last`, where one begins or the row ends. */
static void add_rows(const Sum *j, long first, long last, float *sums) {
    long n = j->n_columns, blocked = last - (last - first) % WIDTH;
    memset(sums + first, 0, (size_t)(last - first) * sizeof *sums);
    for (long here = 0; here < j->n_listed; here++) {
        long later = here + AHEAD < j->n_listed ? here + AHEAD : here;
        const number *row = j->matrix + j->rows[here] * n;
        const number *next = j->matrix + j->rows[later] * n;
        float x = to_float(j->x[j->rows[here]]);
        for (long i = first; i < blocked; i += WIDTH) {
            __builtin_prefetch(next + i, 0, 2); /* into the second-level cache */
#ifdef BFLOAT16
            words both = *(const words *)(row + i);
            *(floats *)(sums + i) += x * (floats)(both << 16);
            *(floats *)(sums + i + LANES) += x * (floats)(both & 0xffff0000u);
#else
            *(floats *)(sums + i) += x * *(const floats *)(row + i);
#endif
        }
        for (long i = blocked; i < last; i++) sums[i] += x * to_float(row[i]);
    }
}

/* A thread sums its own columns of every row: the sums are the same for any number of threads. */
static void weighted_sum(const void *job, long number) {
    const Sum *j = job;
    long n = j->n_columns, n_blocks = n / WIDTH;
    long first = share(n_blocks, number, j->n_pieces) * WIDTH;
    long last = number + 1 < j->n_pieces ? share(n_blocks, number + 1, j->n_pieces) * WIDTH : n;
    add_rows(j, first, last, j->sums);
    for (long i = first; i < last; i++) {
        long at = i < n_blocks * WIDTH ? i / WIDTH * WIDTH + PLACE(i % WIDTH) : i;
        float bias = j->bias ? to_float(j->bias[i]) : 0;
        j->out[i] = to_number(bias + j->sums[at]);
    }
}

typedef struct {
    const number *matrix, *x, *bias; /* [row, column], [row], [column] or NULL */
    const float *weights;            /* [row] or NULL */
    number *out;                     /* [column] */
    float *scratch;                  /* [row + column] */
    int64_t *chosen;                 /* [row] */
    int64_t n_rows, n_columns;
    int32_t n_threads;
} Product;

static void sum_of(const Product *p, const int64_t *rows, long n_listed) {
    int n_threads = useful_threads(p->n_threads, n_listed, p->n_columns);
    Sum job = {p->matrix, p->x, p->bias, rows, p->scratch + p->n_rows, p->out, n_listed,
               p->n_columns, n_threads};
    on_threads(weighted_sum, &job, n_threads, n_threads);
}

/* out = sum over listed rows i of x[i] matrix[i], + bias. -1, and nothing done, where a row does
   not exist. */
long listed_rows(const Product *p, const int64_t *rows, long n_listed) {
    for (long i = 0; i < n_listed; i++)
        if (rows[i] < 0 || rows[i] >= p->n_rows) return -1;
    sum_of(p, rows, n_listed);
    return n_listed;
}

/* ---------------------------------------------------------------------------- choosing rows */

static inline float score(const Product *p, long i) { /* NaN stays NaN */
    float size = fabsf(to_float(p->x[i]));
    return p->weights ? size * p->weights[i] : size;
}

/* The same over rows with abs(x) weight > least. NaN counts as larger than anything, so that it
   reaches the output. Returns how many. */
long rows_above(const Product *p, float least) {
    long n_kept = 0;
    for (long i = 0; i < p->n_rows; i++) {
        p->chosen[n_kept] = i;
        n_kept += !(score(p, i) <= least);
    }
    sum_of(p, p->chosen, n_kept);
    return n_kept;
}

/* Keys are scores >= 0 as integers, which have the same order; NaN is above infinity. */
static uint32_t make_keys(const Product *p, uint32_t *keys) {
    uint32_t any = 0;
    for (long i = 0; i < p->n_rows; i++) {
        float value = score(p, i);
        uint32_t key;
        memcpy(&key, &value, sizeof key);
        keys[i] = key & 0x7fffffffu; /* the NaN of 0 * infinity has a sign */
        any |= keys[i];
    }
    return any;
}

static long count_from(const uint32_t *keys, long n, uint32_t least) {
    uint32_t count = 0;
    for (long i = 0; i < n; i++) count += keys[i] >= least;
    return count;
}

/* The largest key with `keep` keys at or above it: found bit by bit, with one pass over the keys for
   each. A pass is a comparison of vectors, much cheaper than the counts of a radix sort; and most
   often it is known before the last bit which are kept. Where it never is, keys are equal, and of
   those equal to the result only `n_ties` are wanted. */
static uint32_t least_kept(const uint32_t *keys, long n, uint32_t any, long keep, long *n_ties) {
    uint32_t least = 0;
    *n_ties = n;
    for (int bit = 30; bit >= 0 && keep < n; bit--) {
        uint32_t higher = least | 1u << bit;
        long count = any >> bit ? count_from(keys, n, higher) : 0;
        if (count >= keep) least = higher;
        if (count == keep) return least;
    }
    if (keep < n) *n_ties = keep - count_from(keys, n, least + 1);
    return least;
}

static long choose(const uint32_t *keys, long first, long last, uint32_t least, int64_t *chosen) {
    long n_kept = 0;
    for (long i = first; i < last; i++) { /* without a branch: it could not be predicted */
        chosen[n_kept] = i;
        n_kept += keys[i] >= least;
    }
    return n_kept;
}

/* The same over the `keep` rows of largest abs(x) weight, 1 <= keep <= n_rows; of equal ones the
   first. */
long largest_rows(const Product *p, long keep) {
    uint32_t *keys = (uint32_t *)p->scratch;
    long n = p->n_rows, n_ties, n_first = 0;
    uint32_t any = make_keys(p, keys);
    uint32_t least = least_kept(keys, n, any, keep, &n_ties);
    if (n_ties == n) n_first = n;
    else while (n_ties > 0) n_ties -= keys[n_first++] == least; /* as far as equal ones are kept */
    long n_kept = choose(keys, 0, n_first, least, p->chosen);
    n_kept += choose(keys, n_first, n, least + 1, p->chosen + n_kept);
    sum_of(p, p->chosen, n_kept);
    return n_kept;
}
