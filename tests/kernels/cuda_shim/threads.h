// What CUDA gives a kernel, on a host and with a thread of its own for each of the kernel's, all alive at once: a
// checker of races sees them as a GPU may run them. Included before the text of a .cu file; a program. Only what
// orders memory in CUDA orders it here: atomics and shuffles do not. Fences do, about atomics: what a thread did before
// an atomic that is behind a fence of its own is done for whom a fence follows on an atomic of his block there. What a
// thread does between its fence and its atomic is taken for done, too.

#pragma once
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include "values.h"

// g++ does not follow what a call returns into memory, so there is none
#undef __device__
#define __device__ inline __attribute__((always_inline))

// where the text's `__shared__` variables are in a block's memory, see threads.py; more than one has on a GPU
#define SHIM_STATIC (48 << 10)
#define SHIM_STATICS 8

typedef long long shim_word;
// see shim.h
typedef void (*shim_kernel)(
    shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word,
    shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word);

// lanes that meet for a shuffle
struct shim_warp {
    unsigned long long slots[32];
    int arrived, generation, ended;
};
struct shim_block {
    pthread_barrier_t barrier;
    shim_warp *warps;
    char *shared, *statics;
    int counted, ended;
    // where the latest atomics of the block were
    unsigned latest;
    void *places[4];
};
struct shim_thread {
    pthread_t handle;
    shim_block *block;
    shim_dim at, within;
};

static shim_dim blockDim, gridDim;
static shim_kernel shim_what;
static shim_word shim_args[16];
static thread_local shim_dim threadIdx, blockIdx;
static thread_local shim_block *shim_here;
static thread_local char *shim_dynamic_shared;

extern "C" void __tsan_acquire(void *);
extern "C" void __tsan_release(void *);
static thread_local bool shim_fenced;
static inline void shim_begin_atomic(void *p) {
    if (shim_fenced) __tsan_release(p);
    unsigned place = __atomic_fetch_add(&shim_here->latest, 1, __ATOMIC_RELAXED) % 4;
    __atomic_store_n(&shim_here->places[place], p, __ATOMIC_RELAXED);
}
static inline void __threadfence() {
    for (int i = 0; i < 4; i++) {
        void *p = __atomic_load_n(&shim_here->places[i], __ATOMIC_RELAXED);
        if (p) __tsan_acquire(p);
    }
    shim_fenced = true;
}
static inline void __threadfence_system() { __threadfence(); }

#define SHIM_ATOMIC(NAME, T, CALL)                                                                            \
    static inline T NAME(T *p, T v) {                                                                         \
        shim_begin_atomic(p);                                                                                 \
        return CALL(p, v, __ATOMIC_RELAXED);                                                                  \
    }
#define SHIM_ATOMICS(T)                                                                                       \
    SHIM_ATOMIC(atomicAdd, T, __atomic_fetch_add)                                                             \
    SHIM_ATOMIC(atomicOr, T, __atomic_fetch_or)                                                               \
    SHIM_ATOMIC(atomicAnd, T, __atomic_fetch_and)                                                             \
    SHIM_ATOMIC(atomicExch, T, __atomic_exchange_n)                                                           \
    static inline T atomicCAS(T *p, T want, T v) {                                                            \
        shim_begin_atomic(p);                                                                                 \
        __atomic_compare_exchange_n(p, &want, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                  \
        return want;                                                                                          \
    }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)
static inline unsigned atomicMax(unsigned *p, unsigned v) {
    shim_begin_atomic(p);
    unsigned seen = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (seen < v && !__atomic_compare_exchange_n(p, &seen, v, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {}
    return seen;
}

// A volatile load races with writes, and not with atomics; a volatile store with both. g++ calls these for them.
#define SHIM_VOLATILE(BYTES, BITS, T)                                                                         \
    extern "C" T __tsan_atomic##BITS##_load(const volatile T *, int);                                         \
    extern "C" void __tsan_write##BYTES(void *);                                                              \
    extern "C" void __tsan_volatile_read##BYTES(void *p) { __tsan_atomic##BITS##_load((T *)p, __ATOMIC_RELAXED); }  \
    extern "C" void __tsan_volatile_write##BYTES(void *p) { __tsan_write##BYTES(p); }
SHIM_VOLATILE(4, 32, int)
SHIM_VOLATILE(8, 64, long long)

// whether all threads of the block have ended: nobody ends between the two
static inline bool shim_meet_block() {
    pthread_barrier_wait(&shim_here->barrier);
    int ended = __atomic_load_n(&shim_here->ended, __ATOMIC_RELAXED);
    pthread_barrier_wait(&shim_here->barrier);
    return ended == (int)blockDim.x;
}
static inline void __syncthreads() { shim_meet_block(); }
static inline int __syncthreads_count(int v) {
    __atomic_fetch_add(&shim_here->counted, v != 0, __ATOMIC_RELAXED);
    __syncthreads();
    int all = __atomic_load_n(&shim_here->counted, __ATOMIC_RELAXED);
    __syncthreads();
    __atomic_store_n(&shim_here->counted, 0, __ATOMIC_RELAXED);
    __syncthreads();
    return all;
}
// returns when all 32 lanes are here
static inline void shim_meet(shim_warp &warp, int order) {
    int seen = __atomic_load_n(&warp.generation, __ATOMIC_RELAXED);
    if (__atomic_fetch_add(&warp.arrived, 1, order) == 31) {
        __atomic_store_n(&warp.arrived, 0, __ATOMIC_RELAXED);
        __atomic_fetch_add(&warp.generation, 1, order);
    } else {
        for (;;) {
            int ended = __atomic_load_n(&warp.ended, __ATOMIC_RELAXED);
            if (__atomic_load_n(&warp.generation, order == __ATOMIC_RELAXED ? order : __ATOMIC_ACQUIRE) != seen) break;
            if (ended) {
                fprintf(stderr, "cuda_shim: a lane waits for others that have ended\n");
                _exit(3);
            }
            sched_yield();
        }
    }
}
static inline shim_warp &shim_warp_of(unsigned mask) {
    if (mask != 0xffffffffu) abort();
    return shim_here->warps[threadIdx.x / 32];
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) { shim_meet(shim_warp_of(mask), __ATOMIC_ACQ_REL); }
// every lane's word, or one lane's
static inline void shim_exchange(unsigned mask, unsigned long long word, unsigned long long *all, int only = -1) {
    shim_warp &warp = shim_warp_of(mask);
    __atomic_store_n(&warp.slots[threadIdx.x % 32], word, __ATOMIC_RELAXED);
    shim_meet(warp, __ATOMIC_RELAXED);
    for (int lane = 0; lane < 32; lane++)
        if (only < 0 || lane == only) all[only < 0 ? lane : 0] = __atomic_load_n(&warp.slots[lane], __ATOMIC_RELAXED);
    // nobody hands over the next one before
    shim_meet(warp, __ATOMIC_RELAXED);
}
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int lane) {
    unsigned long long word = 0;
    memcpy(&word, &v, sizeof(T));
    shim_exchange(mask, word, &word, lane & 31);
    memcpy(&v, &word, sizeof(T));
    return v;
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int step) {
    return __shfl_sync(mask, v, (int)(threadIdx.x % 32) ^ step);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T v, int step) {
    int lane = (int)(threadIdx.x % 32);
    return __shfl_sync(mask, v, lane < step ? lane : lane - step);
}
static inline unsigned __ballot_sync(unsigned mask, int v) {
    unsigned long long all[32];
    unsigned bits = 0;
    shim_exchange(mask, v != 0, all);
    for (int lane = 0; lane < 32; lane++) bits |= (unsigned)all[lane] << lane;
    return bits;
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned v) {
    unsigned long long all[32];
    shim_exchange(mask, v, all);
    for (int lane = 0; lane < 32; lane++) v = max(v, (unsigned)all[lane]);
    return v;
}

static void *shim_run_thread(void *given) {
    const shim_thread &thread = *(const shim_thread *)given;
    threadIdx = thread.within, blockIdx = thread.at;
    shim_here = thread.block, shim_dynamic_shared = thread.block->shared;
    const shim_word *a = shim_args;
    shim_what(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    __atomic_fetch_add(&shim_here->warps[threadIdx.x / 32].ended, 1, __ATOMIC_RELAXED);
    // the block does not wait for a thread that has ended
    __atomic_fetch_add(&shim_here->ended, 1, __ATOMIC_RELAXED);
    while (!shim_meet_block()) {}
    return nullptr;
}

// the memory of a launch is one file, which is read before and written after; a word is "i" and a number, or "p"
// and a place in that memory
int main(int argc, char **argv) {
    // seconds, after which it is a dead-lock; also where nobody is left to wait for it
    alarm(120);
    const char *path = argv[1];
    shim_what = (shim_kernel)dlsym(nullptr, argv[2]);
    int blocks = atoi(argv[3]), threads = atoi(argv[4]);
    size_t shared = (size_t)atoll(argv[5]);
    FILE *file = fopen(path, "rb");
    if (!shim_what || !file || threads % 32) return 2;
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *memory = (char *)aligned_alloc(256, size + 256 - size % 256);
    if (fread(memory, 1, size, file) != size) return 2;
    fclose(file);
    for (int i = 6; i < argc; i++)
        shim_args[i - 6] = *argv[i] == 'i' ? atoll(argv[i] + 1) : (shim_word)(memory + atoll(argv[i] + 1));
    gridDim = {(unsigned)blocks, 1, 1}, blockDim = {(unsigned)threads, 1, 1};
    shim_block *all = new shim_block[blocks]();
    shim_thread *run = new shim_thread[blocks * threads];
    for (int b = 0; b < blocks; b++) {
        pthread_barrier_init(&all[b].barrier, nullptr, (unsigned)threads);
        all[b].warps = new shim_warp[threads / 32]();
        all[b].shared = (char *)aligned_alloc(256, (shared / 256 + 1) * 256);
        memset(all[b].shared, 0xBF, shared);
        all[b].statics = (char *)aligned_alloc(256, SHIM_STATICS * SHIM_STATIC + 256);
        memset(all[b].statics, 0xBF, SHIM_STATICS * SHIM_STATIC);
    }
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 1 << 18);
    for (int t = 0; t < blocks * threads; t++) {
        run[t].block = all + t / threads;
        run[t].at = {(unsigned)(t / threads), 0, 0}, run[t].within = {(unsigned)(t % threads), 0, 0};
        if (pthread_create(&run[t].handle, &small, shim_run_thread, run + t)) return 2;
    }
    for (int t = 0; t < blocks * threads; t++) pthread_join(run[t].handle, nullptr);
    file = fopen(path, "wb");
    return !file || fwrite(memory, 1, size, file) != size || fclose(file) ? 2 : 0;
}
