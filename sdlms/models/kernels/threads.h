/* Work shared among the threads of the OpenMP library that torch has loaded: a second pool would
   fight with it. Kernels are compiled without -fopenmp and given the addresses (`set_pool`). */

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define MOST_TURNS 20000 /* of waiting awake, about 0.2 ms */

static void (*pool_run)(void (*)(void *), void *, unsigned, unsigned); /* GOMP_parallel */
static int (*pool_size)(void);                                         /* omp_get_num_threads */

void set_pool(void *run, void *size) {
    memcpy(&pool_run, &run, sizeof run);
    memcpy(&pool_size, &size, sizeof size);
}

static inline long share(long n, long part, long n_parts) { return n * part / n_parts; }

/* Pieces of work are taken by whoever is awake: a thread that sleeps needs 0.1 ms to wake up on a
   virtual machine, by which time the first has done a third of the work. What a piece computes does
   not depend on who takes it. */
typedef struct {
    void (*piece)(const void *job, long number);
    const void *job;
    long n_pieces;
    atomic_long next;
    atomic_int n_done; /* threads */
} Work;

static inline void wait_awake(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Under OMP_WAIT_POLICY=PASSIVE whoever comes to the end of a team first falls asleep, and has to be
   woken: so all come at once. The wait is bounded, for the others may have lost their core. */
static void take_pieces(void *data) {
    Work *w = data;
    long number;
    while ((number = atomic_fetch_add(&w->next, 1)) < w->n_pieces) w->piece(w->job, number);
    int n_threads = pool_size();
    atomic_fetch_add(&w->n_done, 1);
    for (int turn = 0; turn < MOST_TURNS && atomic_load(&w->n_done) < n_threads; turn++)
        wait_awake();
}

static void on_threads(void (*piece)(const void *, long), const void *job, long n_pieces,
                       int n_threads) {
    Work work = {piece, job, n_pieces, 0, 0};
    if (n_threads > 1 && pool_run) pool_run(take_pieces, &work, (unsigned)n_threads, 0);
    else for (long number = 0; number < n_pieces; number++) piece(job, number);
}
