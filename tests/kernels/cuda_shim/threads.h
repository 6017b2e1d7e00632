// What CUDA gives a kernel, on a host and with a thread of its own for each of the kernel's, all alive at once: a
// checker of races sees them as a GPU may run them. Included before the text of a .cu file; a program. Only what
// orders memory in CUDA orders it here: atomics and shuffles do not.

#pragma once
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>

#include "values.h"

// g++ does not follow what a call returns into memory, so there is none
#undef __device__
#define __device__ inline __attribute__((always_inline))

typedef long long shim_word;
// see shim.h
typedef void (*shim_kernel)(
    shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word,
    shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word);

// lanes that meet for a shuffle
struct shim_warp {
    unsigned long long slots[32];
    int arrived, generation;
};
struct shim_block {
    pthread_barrier_t barrier;
    shim_warp *warps;
    char *shared;
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

#define SHIM_ATOMICS(T)                                                                                      \
    static inline T atomicAdd(T *p, T v) { return __atomic_fetch_add(p, v, __ATOMIC_RELAXED); }               \
    static inline T atomicOr(T *p, T v) { return __atomic_fetch_or(p, v, __ATOMIC_RELAXED); }                 \
    static inline T atomicAnd(T *p, T v) { return __atomic_fetch_and(p, v, __ATOMIC_RELAXED); }               \
    static inline T atomicExch(T *p, T v) { return __atomic_exchange_n(p, v, __ATOMIC_RELAXED); }             \
    static inline T atomicCAS(T *p, T want, T v) {                                                            \
        __atomic_compare_exchange_n(p, &want, v, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                  \
        return want;                                                                                          \
    }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)

static inline void __syncthreads() { pthread_barrier_wait(&shim_here->barrier); }
// returns when all 32 lanes are here
static inline void shim_meet(shim_warp &warp, int order) {
    int seen = __atomic_load_n(&warp.generation, __ATOMIC_RELAXED);
    if (__atomic_fetch_add(&warp.arrived, 1, order) == 31) {
        __atomic_store_n(&warp.arrived, 0, __ATOMIC_RELAXED);
        __atomic_fetch_add(&warp.generation, 1, order);
    } else {
        while (__atomic_load_n(&warp.generation, order == __ATOMIC_RELAXED ? order : __ATOMIC_ACQUIRE) == seen)
            sched_yield();
    }
}
static inline shim_warp &shim_warp_of(unsigned mask) {
    if (mask != 0xffffffffu) abort();
    return shim_here->warps[threadIdx.x / 32];
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) { shim_meet(shim_warp_of(mask), __ATOMIC_ACQ_REL); }
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int lane) {
    shim_warp &warp = shim_warp_of(mask);
    unsigned long long word = 0;
    memcpy(&word, &v, sizeof(T));
    __atomic_store_n(&warp.slots[threadIdx.x % 32], word, __ATOMIC_RELAXED);
    shim_meet(warp, __ATOMIC_RELAXED);
    word = __atomic_load_n(&warp.slots[lane & 31], __ATOMIC_RELAXED);
    // nobody hands over the next one before
    shim_meet(warp, __ATOMIC_RELAXED);
    memcpy(&v, &word, sizeof(T));
    return v;
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int step) {
    return __shfl_sync(mask, v, (int)(threadIdx.x % 32) ^ step);
}

static void *shim_run_thread(void *given) {
    const shim_thread &thread = *(const shim_thread *)given;
    threadIdx = thread.within, blockIdx = thread.at;
    shim_here = thread.block, shim_dynamic_shared = thread.block->shared;
    const shim_word *a = shim_args;
    shim_what(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]);
    return nullptr;
}

// the memory of a launch is one file, which is read before and written after; a word is "i" and a number, or "p"
// and a place in that memory
int main(int argc, char **argv) {
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
    shim_block *all = new shim_block[blocks];
    shim_thread *run = new shim_thread[blocks * threads];
    for (int b = 0; b < blocks; b++) {
        pthread_barrier_init(&all[b].barrier, nullptr, (unsigned)threads);
        all[b].warps = new shim_warp[threads / 32]();
        all[b].shared = (char *)aligned_alloc(256, (shared / 256 + 1) * 256);
        memset(all[b].shared, 0xBF, shared);
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
