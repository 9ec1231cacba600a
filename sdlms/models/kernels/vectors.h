/* Vectors of floats as wide as the processor has them, by the extensions that gcc and clang share.

   No -ffast-math: with gcc < 13 it makes the whole process flush denormals, and NaN would be lost.
   Vectors are explicit instead. */

#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float floats __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
/* Two bfloat16 each: a shift or a mask unpacks one (of a little-endian machine). */
typedef uint32_t words __attribute__((vector_size(4 * LANES), aligned(2), may_alias));

static inline float bfloat16_to_float(uint16_t x) {
    uint32_t word = (uint32_t)x << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

static inline uint16_t float_to_bfloat16(float value) { /* to nearest, ties to even, as torch does */
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    if (value != value) return 0x7fc0;
    return (uint16_t)((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

static inline float total(floats sums) {
    float parts[LANES];
    memcpy(parts, &sums, sizeof parts);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++) parts[i] += parts[i + half];
    return parts[0];
}
