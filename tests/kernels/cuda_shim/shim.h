// What CUDA gives a kernel, on a host and one thread: each thread of a block is a fiber, blocks come in turn.
// Included before the text of a .cu file. Everything a kernel might rely on by luck is unfriendly: blocks run
// from the last to the first, threads in changing order, and shared memory is poisoned.

#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include "values.h"

// one block at a time: what is static is the block's. A section of its own, so that it can be poisoned
#define __shared__ static __attribute__((section("shim_shared")))

static shim_dim threadIdx, blockIdx, blockDim, gridDim;

// integers only: a float atomic adds in an order of its own, and is not here on purpose
#define SHIM_ATOMICS(T)                                                                                      \
    static inline T atomicAdd(T *p, T v) { T old = *p; *p = old + v; return old; }                            \
    static inline T atomicMax(T *p, T v) { T old = *p; if (v > old) *p = v; return old; }                     \
    static inline T atomicMin(T *p, T v) { T old = *p; if (v < old) *p = v; return old; }                     \
    static inline T atomicOr(T *p, T v) { T old = *p; *p = old | v; return old; }                             \
    static inline T atomicAnd(T *p, T v) { T old = *p; *p = old & v; return old; }                            \
    static inline T atomicXor(T *p, T v) { T old = *p; *p = old ^ v; return old; }                            \
    static inline T atomicExch(T *p, T v) { T old = *p; *p = v; return old; }                                 \
    static inline T atomicCAS(T *p, T want, T v) { T old = *p; if (old == want) *p = v; return old; }
SHIM_ATOMICS(int)
SHIM_ATOMICS(unsigned)
SHIM_ATOMICS(unsigned long long)
static inline void __threadfence() {}
static inline void __threadfence_block() {}
static inline void __threadfence_system() {}

// what the compiler's checks call: the launch tells it once the grid is done
static const char *shim_fault;
extern "C" {
void __ubsan_handle_type_mismatch_v1(void *, void *) { shim_fault = "an address that is no multiple of the type's"; }
void __ubsan_handle_shift_out_of_bounds(void *, void *, void *) { shim_fault = "a shift by more than the type has"; }
void __ubsan_handle_divrem_overflow(void *, void *, void *) { shim_fault = "a division by zero"; }
void __ubsan_handle_out_of_bounds(void *, void *) { shim_fault = "a place beyond an array"; }
}

typedef long long shim_word;
// a kernel takes 64-bit words in registers, then on the stack: one that takes fewer ignores the rest
typedef void (*shim_kernel)(
    shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word,
    shim_word, shim_word, shim_word, shim_word, shim_word, shim_word, shim_word);

enum { SHIM_MOST_THREADS = 1024, SHIM_STACK = 1 << 16, SHIM_POISON = 0xBF };

struct shim_warp {
    unsigned alive;
    int generation;                 // of the collective that its threads are in
    unsigned arrived, mask;
    // who took part and what they handed over, for this collective and the one before
    unsigned present[2];
    unsigned long long slots[2][32];
};
struct shim_fiber {
    jmp_buf here;
    ucontext_t first;
    char *stack;
    bool begun, done;
    const int *waits_for;  // runs on where this is no longer `seen`
    int seen;
};
struct shim_block {
    shim_kernel kernel;
    const shim_word *args;
    shim_fiber fibers[SHIM_MOST_THREADS];
    shim_warp warps[SHIM_MOST_THREADS / 32];
    jmp_buf scheduler;
    ucontext_t scheduler_context;
    int now, alive, arrived, generation, sum;
};
static shim_block shim;
static char *shim_dynamic_shared;
extern "C" char __start_shim_shared[] __attribute__((weak));
extern "C" char __stop_shim_shared[] __attribute__((weak));

static void shim_yield() {
    if (!_setjmp(shim.fibers[shim.now].here)) _longjmp(shim.scheduler, 1);
}
static void shim_wait(const int *counter, int seen) {
    shim_fiber &self = shim.fibers[shim.now];
    self.waits_for = counter;
    self.seen = seen;
    shim_yield();
}
static void shim_release_block() {
    shim.arrived = 0;
    shim.generation++;
}
static inline int shim_sync(int value) {
    int generation = shim.generation;
    static int sums[2];
    if (shim.arrived == 0) sums[generation & 1] = 0;
    sums[generation & 1] += value;
    if (++shim.arrived == shim.alive) shim_release_block();
    else shim_wait(&shim.generation, generation);
    return sums[generation & 1];
}
static inline void __syncthreads() { shim_sync(0); }
static inline int __syncthreads_count(int v) { return shim_sync(v != 0); }
static inline int __syncthreads_or(int v) { return shim_sync(v != 0) != 0; }

static void shim_release_warp(shim_warp &warp) {
    warp.present[warp.generation & 1] = warp.arrived;
    warp.arrived = 0;
    warp.generation++;
}
// hand over a value and wait for the lanes of the mask; returns what all of them handed over
static inline const unsigned long long *shim_exchange(
    unsigned mask, unsigned long long value, unsigned *present = nullptr) {
    shim_warp &warp = shim.warps[shim.now / 32];
    int lane = shim.now % 32, generation = warp.generation;
    if (!(mask >> lane & 1)) {
        fprintf(stderr, "cuda_shim: lane %d is not in the mask %#x of its own warp intrinsic\n", lane, mask);
        abort();
    }
    warp.slots[generation & 1][lane] = value;
    warp.arrived |= 1u << lane;
    warp.mask = mask;
    if (warp.arrived == (mask & warp.alive)) shim_release_warp(warp);
    else shim_wait(&warp.generation, generation);
    if (present) *present = warp.present[generation & 1];
    return warp.slots[generation & 1];
}
static inline void __syncwarp(unsigned mask = 0xffffffffu) { shim_exchange(mask, 0); }
template <typename T> static inline T shim_from(unsigned mask, T v, int lane) {
    unsigned long long word = 0, got;
    memcpy(&word, &v, sizeof(T));
    unsigned present;
    const unsigned long long *slots = shim_exchange(mask, word, &present);
    // a lane that takes no part hands over rubbish
    got = present >> (lane & 31) & 1 ? slots[lane & 31] : 0xBFBFBFBFBFBFBFBFull;
    memcpy(&v, &got, sizeof(T));
    return v;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T v, int lane, int width = 32) {
    int self = shim.now % 32;
    return shim_from(mask, v, (self & ~(width - 1)) + (lane & (width - 1)));
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T v, int step, int width = 32) {
    int self = shim.now % 32, other = self ^ step;
    return shim_from(mask, v, (other & ~(width - 1)) > self ? self : other);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T v, unsigned step, int width = 32) {
    int self = shim.now % 32, other = self - (int)step;
    return shim_from(mask, v, other < (self & ~(width - 1)) ? self : other);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T v, unsigned step, int width = 32) {
    int self = shim.now % 32, other = self + (int)step;
    return shim_from(mask, v, other > (self | (width - 1)) ? self : other);
}
static inline unsigned __ballot_sync(unsigned mask, int v) {
    unsigned bits = 0, present;
    const unsigned long long *slots = shim_exchange(mask, v != 0, &present);
    for (int lane = 0; lane < 32; lane++)
        if (present >> lane & 1) bits |= (unsigned)(slots[lane] != 0) << lane;
    return bits;
}
static inline int __any_sync(unsigned mask, int v) { return __ballot_sync(mask, v) != 0; }
static inline int __all_sync(unsigned mask, int v) { return __ballot_sync(mask, !v) == 0; }
#define SHIM_REDUCTION(NAME, T, START, STEP)                                                                  \
    static inline T NAME(unsigned mask, T v) {                                                                \
        unsigned present;                                                                                     \
        const unsigned long long *slots = shim_exchange(mask, (unsigned long long)v, &present);               \
        T all = START;                                                                                        \
        for (int lane = 0; lane < 32; lane++)                                                                 \
            if (present >> lane & 1) { T one = (T)slots[lane]; all = STEP; }                                  \
        return all;                                                                                           \
    }
SHIM_REDUCTION(__reduce_add_sync, unsigned, 0, all + one)
SHIM_REDUCTION(__reduce_max_sync, unsigned, 0, max(all, one))
SHIM_REDUCTION(__reduce_min_sync, unsigned, 0xffffffffu, min(all, one))
SHIM_REDUCTION(__reduce_or_sync, unsigned, 0, all | one)
SHIM_REDUCTION(__reduce_and_sync, unsigned, 0xffffffffu, all & one)
template <typename T> static inline unsigned __match_any_sync(unsigned mask, T v) {
    unsigned long long word = 0;
    memcpy(&word, &v, sizeof(T));
    unsigned bits = 0, present;
    const unsigned long long *slots = shim_exchange(mask, word, &present);
    for (int lane = 0; lane < 32; lane++)
        if (present >> lane & 1) bits |= (unsigned)(slots[lane] == word) << lane;
    return bits;
}

static void shim_run_thread() {
    const shim_word *a = shim.args;
    shim.kernel(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11], a[12], a[13], a[14],
                a[15]);
    shim.fibers[shim.now].done = true;
    // what is left of the warp and of the block does not wait for a thread that has ended
    shim_warp &warp = shim.warps[shim.now / 32];
    warp.alive &= ~(1u << shim.now % 32);
    if (warp.arrived && warp.arrived == (warp.mask & warp.alive)) shim_release_warp(warp);
    if (--shim.alive > 0 && shim.arrived == shim.alive) shim_release_block();
}
static void shim_fiber_main() {
    for (;;) {
        shim_run_thread();
        shim_yield();
    }
}
static void shim_resume(int thread) {
    shim_fiber &fiber = shim.fibers[thread];
    shim.now = thread;
    threadIdx.x = (unsigned)thread;
    if (_setjmp(shim.scheduler)) return;
    if (fiber.begun) _longjmp(fiber.here, 1);
    fiber.begun = true;
    if (!fiber.stack) fiber.stack = (char *)malloc(SHIM_STACK);
    getcontext(&fiber.first);
    fiber.first.uc_stack.ss_sp = fiber.stack;
    fiber.first.uc_stack.ss_size = SHIM_STACK;
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, shim_fiber_main, 0);
    swapcontext(&shim.scheduler_context, &fiber.first);
}
// whether the block came to its end: it does not where threads wait for each other in different places
static bool shim_run_block(int threads) {
    shim.alive = threads;
    shim.arrived = 0;
    for (int w = 0; w * 32 < threads; w++) {
        int lanes = threads - w * 32;
        shim.warps[w].alive = lanes >= 32 ? 0xffffffffu : (1u << lanes) - 1;
        shim.warps[w].arrived = 0;
    }
    for (int t = 0; t < threads; t++) {
        shim.fibers[t].done = false;
        shim.fibers[t].waits_for = nullptr;
    }
    for (int round = 0; shim.alive > 0; round++) {
        bool moved = false;
        for (int n = 0; n < threads; n++) {
            int t = round % 2 ? n : threads - 1 - n;
            shim_fiber &fiber = shim.fibers[t];
            if (fiber.done || (fiber.waits_for && *fiber.waits_for == fiber.seen)) continue;
            fiber.waits_for = nullptr;
            moved = true;
            shim_resume(t);
        }
        if (!moved) return false;
    }
    return true;
}
// nullptr, or what went wrong
extern "C" const char *shim_launch(void *kernel, long long blocks, int threads, long long shared, const shim_word *args) {
    shim.kernel = (shim_kernel)kernel;
    shim.args = args;
    shim_fault = nullptr;
    gridDim = {(unsigned)blocks, 1, 1};
    blockDim = {(unsigned)threads, 1, 1};
    threadIdx = {0, 0, 0};
    free(shim_dynamic_shared);
    shim_dynamic_shared = (char *)aligned_alloc(256, (size_t)(shared / 256 + 1) * 256);
    for (long long block = blocks - 1; block >= 0; block--) {
        blockIdx = {(unsigned)block, 0, 0};
        memset(shim_dynamic_shared, SHIM_POISON, (size_t)shared);
        if (__start_shim_shared)
            memset(__start_shim_shared, SHIM_POISON, (size_t)(__stop_shim_shared - __start_shim_shared));
        if (!shim_run_block(threads)) {
            // their stacks are lost: the next launch makes new ones
            for (int t = 0; t < SHIM_MOST_THREADS; t++) shim.fibers[t].begun = false, shim.fibers[t].stack = nullptr;
            return "threads of a block that wait for each other in different places";
        }
    }
    return shim_fault;
}
