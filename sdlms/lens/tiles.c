/* What the fast unembedding does beside its product: one pass over each tile of bfloat16 logits
   while it is in the processor's cache, the choice of candidates, and their logits in float32.

   Whatever is computed does not depend on the number of threads: a piece of work is a token or a
   row, and is summed in one order. NaN and infinities pass as they do in torch. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "threads.h"
#include "vectors.h"

#define BLOCK 32          /* columns */
#define MOST_COLUMNS 2048 /* of a tile */
#define AHEAD 4           /* rows of weights */
#define LEAST_EXPONENT -87.0f

typedef int32_t ints __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* ------------------------------------------------------------------------------------ a tile */

typedef struct {
    const uint16_t *logits; /* [row, column], bfloat16; rows are tokens by states, final one last */
    const float *asked;     /* [row, asked] */
    float *counts;          /* [row, asked], of logits that are larger; added to */
    float *maxima;          /* [row, block of all tiles], from this tile's first block on */
    float *sums;            /* [3, row]: largest probability in the tile; expected logit; that by
                               the final state's probabilities */
    int64_t n_rows, n_columns, n_states, n_asked, n_blocks;
    float step; /* added to all logits */
} Tile;

static inline floats evens(words both) { return (floats)(both << 16); }
static inline floats odds(words both) { return (floats)(both & 0xffff0000u); }

/* exp(x) of x <= 0 to 1e-7 of itself; 0 below LEAST_EXPONENT. After Cephes' expf: x = n log 2 + r,
   and a polynomial of r. Adding 1.5 * 2^23 rounds to an integer, which the last bits then hold. */
static inline floats exponential(floats x) {
    floats shifted = x * 1.44269504f + 12582912.0f;
    floats n = shifted - 12582912.0f;
    floats r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    words power = ((words)shifted + (127u - 0x4b400000u)) << 23;
    floats value = p * (floats)power; /* not by adding to the exponent: NaN must stay */
    return (floats)((ints)value & ~(x < LEAST_EXPONENT));
}

/* bfloat16 as an integer of the same order, and back. */
static inline int16_t ordered(int16_t x) { return (int16_t)(x ^ ((x >> 15) & 0x7fff)); }

/* The maxima of a row's blocks; returns that of all. Integers: a maximum of floats is not
   associative, and would be done one by one. NaN is not looked for. */
static float block_maxima(const uint16_t *logits, long n, float step, float *maxima) {
    int16_t best = INT16_MIN;
    for (long b = 0; b < n / BLOCK; b++) {
        const int16_t *block = (const int16_t *)logits + b * BLOCK;
        int16_t most = INT16_MIN;
        for (int i = 0; i < BLOCK; i++) {
            int16_t key = ordered(block[i]);
            most = key > most ? key : most;
        }
        maxima[b] = bfloat16_to_float((uint16_t)ordered(most)) + step;
        best = most > best ? most : best;
    }
    return bfloat16_to_float((uint16_t)ordered(best)) + step;
}

/* A block that has NaN has it as its maximum. */
static void mark_nan(const uint16_t *logits, long n, float *maxima) {
    for (long i = 0; i < n; i++)
        if ((logits[i] & 0x7fff) > 0x7f80) maxima[i / BLOCK] = NAN;
}

static void count_larger(const Tile *t, long row) {
    const uint16_t *logits = t->logits + row * t->n_columns;
    for (long a = 0; a < t->n_asked; a++) {
        float asked = t->asked[row * t->n_asked + a];
        ints counts = {0};
        for (long i = 0; i < t->n_columns; i += 2 * LANES) {
            words both = *(const words *)(logits + i);
            counts -= (evens(both) + t->step > asked) + (odds(both) + t->step > asked);
        }
        int32_t count = 0;
        for (int i = 0; i < LANES; i++) count += counts[i];
        t->counts[row * t->n_asked + a] += (float)count;
    }
}

/* Sums over a row. `finals` holds exp of the token's final state, which comes first and fills it;
   returns the sum of exp. */
static float row_sums(const Tile *t, long row, float *finals, float final_total) {
    const uint16_t *logits = t->logits + row * t->n_columns;
    long n = t->n_columns;
    float *maxima = t->maxima + row * t->n_blocks;
    float largest = block_maxima(logits, n, t->step, maxima);
    int is_final = final_total == 0;
    floats totals[2] = {{0}}, expected[2] = {{0}}, crossed[2] = {{0}};
    for (long i = 0; i < n; i += 2 * LANES) {
        words both = *(const words *)(logits + i);
        floats values[2] = {evens(both) + t->step, odds(both) + t->step};
        for (int half = 0; half < 2; half++) {
            floats below = values[half] - largest, e = exponential(below);
            floats *final = (floats *)(finals + i + half * LANES);
            totals[half] += e;
            expected[half] += e * below;
            if (is_final) *final = e;
            else crossed[half] += *final * values[half];
        }
    }
    float sum = total(totals[0] + totals[1]);
    if (isnan(sum)) mark_nan(logits, n, maxima);
    t->sums[row] = 1 / sum;
    float mean = largest + total(expected[0] + expected[1]) / sum;
    t->sums[t->n_rows + row] = mean;
    t->sums[2 * t->n_rows + row] =
        is_final ? mean : total(crossed[0] + crossed[1]) / final_total;
    return sum;
}

static void measure_token(const void *job, long token) {
    const Tile *t = job;
    float finals[MOST_COLUMNS];
    long last = (token + 1) * t->n_states - 1;
    float final_total = row_sums(t, last, finals, 0);
    for (long row = token * t->n_states; row < last; row++) row_sums(t, row, finals, final_total);
    for (long row = token * t->n_states; row <= last; row++) count_larger(t, row);
}

void measure_tile(const Tile *t, int n_threads) {
    on_threads(measure_token, t, t->n_rows / t->n_states, n_threads);
}

/* ----------------------------------------------------------------------------- the candidates */

typedef struct {
    const uint16_t *logits; /* [tile, row, column] */
    const float *maxima;    /* [row, block] */
    const float *steps;     /* [tile] */
    const int64_t *rows;    /* [wanted] */
    float *values;          /* [wanted, top] */
    int64_t *columns;       /* [wanted, top], tile after tile */
    uint64_t *scratch;      /* [piece, scratch] */
    int64_t n_tiles, n_rows, n_columns, n_wanted, n_top, n_pieces, n_scratch;
} Largest;

/* Floats as integers of the same order; NaN above all. */
static inline uint32_t key_of(float value) {
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    uint32_t flipped = word ^ ((word >> 31) ? 0xffffffffu : 0x80000000u);
    return (word & 0x7fffffffu) > 0x7f800000u ? 0xffffffffu : flipped;
}

static inline float value_of(uint32_t key) {
    uint32_t word = key ^ ((key >> 31) ? 0x80000000u : 0xffffffffu);
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static long count_from(const uint32_t *keys, long n, uint32_t least) {
    uint32_t count = 0;
    for (long i = 0; i < n; i++) count += keys[i] >= least;
    return count;
}

/* Places of the `keep` largest keys, of equal ones the first. The least of them is found bit by bit
   with a pass over the keys for each, until no more than these are at or above it. */
static uint32_t choose(const uint32_t *keys, long n, long keep, uint32_t *places) {
    uint32_t least = 0;
    for (int bit = 31; bit >= 0; bit--) {
        uint32_t higher = least | 1u << bit;
        long count = count_from(keys, n, higher);
        if (count >= keep) least = higher;
        if (count == keep) break;
    }
    long n_equal = keep - (least == UINT32_MAX ? 0 : count_from(keys, n, least + 1));
    for (long i = 0, n_kept = 0; i < n && n_kept < keep; i++) { /* without a branch on the keys */
        int equal = keys[i] == least && n_equal > 0;
        places[n_kept] = (uint32_t)i;
        n_kept += keys[i] > least || equal;
        n_equal -= equal;
    }
    return least;
}

/* A key above its column's complement: of equal logits the first column counts as larger. */
static inline uint64_t candidate(uint32_t key, long column) {
    return (uint64_t)key << 32 | (uint32_t)~column;
}

/* Falling, by merging longer and longer runs; `other` is as long. */
static void sort(uint64_t *values, uint64_t *other, long n) {
    for (long run = 1; run < n; run *= 2) {
        for (long first = 0; first < n; first += 2 * run) {
            long middle = first + run < n ? first + run : n;
            long last = middle + run < n ? middle + run : n;
            for (long a = first, b = middle, to = first; to < last; to++) {
                int left = b >= last || (a < middle && values[a] >= values[b]);
                other[to] = values[left ? a : b];
                a += left;
                b += !left;
            }
        }
        memcpy(values, other, (size_t)n * sizeof *values);
    }
}

/* The n largest logits of a row are in the n blocks of the largest maxima, none of them below the
   least of these. */
static void choose_row(const Largest *j, long wanted, uint64_t *found) {
    long row = j->rows[wanted], per_tile = j->n_columns / BLOCK, n_blocks = j->n_tiles * per_tile;
    long n_chosen = j->n_top < n_blocks ? j->n_top : n_blocks, n_found = 0;
    uint64_t *sorted = found + BLOCK * j->n_top;
    const uint16_t **starts = (const uint16_t **)sorted; /* of blocks, before there are any */
    uint32_t *blocks = (uint32_t *)(sorted + j->n_top), *places = blocks + j->n_top;
    uint32_t *keys = places + j->n_top; /* of the blocks, then of what is found in them */
    for (long b = 0; b < n_blocks; b++) keys[b] = key_of(j->maxima[row * n_blocks + b]);
    uint32_t least = choose(keys, n_blocks, n_chosen, blocks);
    if (n_chosen < j->n_top) least = 0;
    for (long c = 0, tile = 0; c < n_chosen; c++) {
        while (blocks[c] >= (tile + 1) * per_tile) tile++;
        starts[c] = j->logits + (tile * j->n_rows + row) * j->n_columns
                    + (blocks[c] - tile * per_tile) * BLOCK;
        __builtin_prefetch(starts[c]);
    }
    for (long c = 0, tile = 0; c < n_chosen; c++) {
        while (blocks[c] >= (tile + 1) * per_tile) tile++;
        const uint16_t *logits = starts[c];
        float step = j->steps[tile];
        uint32_t in_block[BLOCK];
        for (int i = 0; i < BLOCK; i++) in_block[i] = key_of(bfloat16_to_float(logits[i]) + step);
        for (int i = 0; i < BLOCK; i++) {
            found[n_found] = candidate(in_block[i], (long)blocks[c] * BLOCK + i);
            n_found += in_block[i] >= least;
        }
    }
    for (long i = 0; i < n_found; i++) keys[i] = (uint32_t)(found[i] >> 32);
    choose(keys, n_found, j->n_top, places);
    for (long c = 0; c < j->n_top; c++) sorted[c] = found[places[c]];
    sort(sorted, found, j->n_top);
    for (long c = 0; c < j->n_top; c++) {
        j->columns[wanted * j->n_top + c] = (uint32_t)~sorted[c];
        j->values[wanted * j->n_top + c] = value_of((uint32_t)(sorted[c] >> 32));
    }
}

static void choose_rows(const void *job, long piece) {
    const Largest *j = job;
    uint64_t *scratch = j->scratch + piece * j->n_scratch;
    long last = share(j->n_wanted, piece + 1, j->n_pieces);
    for (long w = share(j->n_wanted, piece, j->n_pieces); w < last; w++) choose_row(j, w, scratch);
}

void choose_largest(const Largest *j, int n_threads) {
    on_threads(choose_rows, j, j->n_pieces, n_threads);
}

/* ----------------------------------------------------------------------------- their logits */

typedef struct {
    const void *weight;  /* [token, input], float32 or bfloat16 */
    const float *inputs; /* [group, state, input] */
    const int64_t *ids;  /* [group, wanted] */
    float *out;          /* [group, state, wanted] */
    int64_t n_groups, n_states, n_inputs, n_wanted;
    int32_t is_bfloat16;
} Dots;

static float dot_float32(const float *row, const float *next, const float *x, long n) {
    floats sums[4] = {{0}};
    long i = 0;
    for (; i + 4 * LANES <= n; i += 4 * LANES)
        for (int s = 0; s < 4; s++) {
            long at = i + s * LANES;
            __builtin_prefetch(next + at);
            sums[s] += *(const floats *)(row + at) * *(const floats *)(x + at);
        }
    float sum = total((sums[0] + sums[1]) + (sums[2] + sums[3]));
    for (; i < n; i++) sum += row[i] * x[i];
    return sum;
}

static float dot_bfloat16(const uint16_t *row, const uint16_t *next, const float *x, long n) {
    float sums[2 * LANES] = {0}, sum = 0;
    long i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        __builtin_prefetch(next + i);
        for (int k = 0; k < 2 * LANES; k++) sums[k] += bfloat16_to_float(row[i + k]) * x[i + k];
    }
    for (int k = 0; k < 2 * LANES; k++) sum += sums[k];
    for (; i < n; i++) sum += bfloat16_to_float(row[i]) * x[i];
    return sum;
}

static void dot_group(const void *job, long group) {
    const Dots *j = job;
    long n = j->n_inputs;
    const int64_t *ids = j->ids + group * j->n_wanted;
    for (long w = 0; w < j->n_wanted; w++) {
        long here = ids[w] * n, next = ids[w + AHEAD < j->n_wanted ? w + AHEAD : w] * n;
        for (long state = group * j->n_states; state < (group + 1) * j->n_states; state++) {
            const float *x = j->inputs + state * n;
            const float *row = (const float *)j->weight + here;
            const uint16_t *half = (const uint16_t *)j->weight + here;
            j->out[state * j->n_wanted + w] =
                j->is_bfloat16
                    ? dot_bfloat16(half, (const uint16_t *)j->weight + next, x, n)
                    : dot_float32(row, (const float *)j->weight + next, x, n);
        }
    }
}

void some_dots(const Dots *j, int n_threads) { on_threads(dot_group, j, j->n_groups, n_threads); }

/* ------------------------------------------------------------------------------- the inputs */

typedef struct {
    const float *inputs;    /* [row, input] */
    const int32_t *digits;  /* [rounding, input] */
    uint16_t *out;          /* [rounding, row, padded], bfloat16; only inputs are written */
    int64_t n_roundings, n_rows, n_inputs, n_padded;
} Rounding;

typedef uint32_t __attribute__((may_alias)) word;

static void round_row(const void *job, long row) {
    const Rounding *j = job;
    for (long number = 0; number < j->n_roundings; number++) {
        const word *x = (const word *)(j->inputs + row * j->n_inputs);
        const word *digits = (const word *)j->digits + number * j->n_inputs;
        uint16_t *out = j->out + (number * j->n_rows + row) * j->n_padded;
        for (long i = 0; i < j->n_inputs; i++) out[i] = (uint16_t)((x[i] + digits[i]) >> 16);
    }
}

void round_inputs(const Rounding *j, int n_threads) {
    on_threads(round_row, j, j->n_rows, n_threads);
}
