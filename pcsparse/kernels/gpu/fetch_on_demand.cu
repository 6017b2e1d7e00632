// Convolution without tiles. Eight threads own an output row, whose pairs they follow one after the other; the
// weights of all offsets lie in shared memory. No product is made that no pair asks for, nothing is scattered.
//
// Of the eight, CO lie side by side over output channels, VECTOR of them each, and 8 / CO over input channels,
// two of them a step. Weights are staged in the order in which the eight read them, 128 bytes at once: all
// banks, whatever offsets other rows are at. Sums over input channels meet at the end of a row, in one order.

typedef long long i64;
typedef unsigned long long u64;

#ifdef __CUDACC__
// elsewhere whoever compiles this has them; in PTX, as cupy compiles with -ftz=true whatever it is asked for, which
// makes zeros of the least numbers of a bfloat16
__device__ static float fused(float a, float b, float c) {
    float value;
    asm("fma.rn.f32 %0, %1, %2, %3;" : "=f"(value) : "f"(a), "f"(b), "f"(c));
    return value;
}
__device__ static float sum_of(float a, float b) {
    float value;
    asm("add.rn.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
    return value;
}
__device__ static float product_of(float a, float b) {
    float value;
    asm("mul.rn.f32 %0, %1, %2;" : "=f"(value) : "f"(a), "f"(b));
    return value;
}
__device__ static float half_to_float(unsigned short bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}
__device__ static unsigned short float_to_half(float value) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}
// shared memory by its own address of 32 bits, which the compiler would make anew for every pair
typedef unsigned shared_place;
__device__ static shared_place place_in_shared(const void *from) { return (unsigned)__cvta_generic_to_shared(from); }
__device__ static uint4 read_shared(shared_place place) {
    uint4 word;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "r"(place));
    return word;
}
#endif

static const int LANES = 8, LISTED = 32;
// flags beside the sizes
static const i64 RELU = 1, FULL = 2, WHOLE = 4, SOLID = 8;
// 16-byte words of a step: eight for each of two input channels
static const int STEP = 2 * LANES, STEP_BYTES = 16 * STEP;

struct Half {
    unsigned short bits;
    __device__ static float wide(unsigned short bits) { return half_to_float(bits); }
    __device__ static unsigned short narrow(float value) { return float_to_half(value); }
};
struct Brain {
    unsigned short bits;
    __device__ static float wide(unsigned short bits) { return __uint_as_float((unsigned)bits << 16); }
    __device__ static unsigned short narrow(float value) {
        unsigned word = __float_as_uint(value);
        // a NaN stays one
        if ((word & 0x7fffffffu) > 0x7f800000u) return (unsigned short)(word >> 16 | 64u);
        return (unsigned short)((word + 0x7fffu + (word >> 16 & 1u)) >> 16);
    }
};

template <typename T> __device__ static float widened(T value) { return T::wide(value.bits); }
__device__ static float widened(float value) { return value; }
template <typename T> __device__ static void narrowed(T &to, float value) { to.bits = T::narrow(value); }
__device__ static void narrowed(float &to, float value) { to = value; }

// what one 16-byte word holds
template <typename T> struct Word {
    static const int VECTOR = 8;
    __device__ static void add(float *sums, uint4 word, float factor) {
        unsigned twos[4] = {word.x, word.y, word.z, word.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            sums[2 * i] = fused(factor, T::wide((unsigned short)(twos[i] & 0xffffu)), sums[2 * i]);
            sums[2 * i + 1] = fused(factor, T::wide((unsigned short)(twos[i] >> 16)), sums[2 * i + 1]);
        }
    }
    __device__ static void two(const T *from, float &first, float &second) {
        unsigned word = __ldg((const unsigned *)from);
        first = T::wide((unsigned short)(word & 0xffffu));
        second = T::wide((unsigned short)(word >> 16));
    }
};
template <> struct Word<float> {
    static const int VECTOR = 4;
    __device__ static void add(float *sums, uint4 word, float factor) {
        sums[0] = fused(factor, __uint_as_float(word.x), sums[0]);
        sums[1] = fused(factor, __uint_as_float(word.y), sums[1]);
        sums[2] = fused(factor, __uint_as_float(word.z), sums[2]);
        sums[3] = fused(factor, __uint_as_float(word.w), sums[3]);
    }
    __device__ static void two(const float *from, float &first, float &second) {
        float2 both = __ldg((const float2 *)from);
        first = both.x;
        second = both.y;
    }
};

// neighbouring channels that a thread reads and writes at once
template <typename T, int N> struct alignas(sizeof(T) * N) Run { T values[N]; };

struct Sizes {
    int k, c_in, c_out;
    i64 flags;
    __device__ explicit Sizes(i64 packed)
        : k((int)(packed & 0xffff)), c_in((int)(packed >> 16 & 0xffff)), c_out((int)(packed >> 32 & 0xffff)),
          flags(packed >> 48) {}
};

// weights of VECTOR output channels from `channel` on at one input channel; zero beyond the last of either
template <typename T>
__device__ static uint4 weights_at(const T *weight, const Sizes &size, int c, int channel, i64 step_in, i64 step_out) {
    const int VECTOR = Word<T>::VECTOR;
    union {
        uint4 word;
        T values[VECTOR];
    } staged;
    staged.word.x = staged.word.y = staged.word.z = staged.word.w = 0;
    if (c >= size.c_in || channel >= size.c_out) return staged.word;
    const T *from = weight + c * step_in + channel * step_out;
    if (size.flags & SOLID) return __ldg((const uint4 *)from);
#pragma unroll
    for (int v = 0; v < VECTOR; v++)
        if (channel + v < size.c_out) staged.values[v] = from[v * step_out];
    return staged.word;
}

// (k, steps, two channels, lanes over input channels, lanes over output channels): 16 bytes each
template <typename T, int CO>
__device__ static void stage(uint4 *staged, const T *weight, const Sizes &size, int steps, int first, i64 step_k,
                             i64 step_in, i64 step_out) {
    for (int place = threadIdx.x; place < size.k * steps * STEP; place += blockDim.x) {
        int lane = place % LANES, second = place / LANES % 2, row = place / STEP;
        int offset = row / steps, step = row - offset * steps;
        int c = (step * (LANES / CO) + lane / CO) * 2 + second;
        int channel = first + lane % CO * Word<T>::VECTOR;
        staged[place] = weights_at(weight + offset * step_k, size, c, channel, step_in, step_out);
    }
}

// two input channels of a row, of which `left` are there: both where the row is FULL_ROW
template <typename T, bool FULL_ROW>
__device__ static void fetch_two(const T *from, int left, float &one, float &two) {
    if (FULL_ROW) {
        Word<T>::two(from, one, two);
        return;
    }
    one = left > 0 ? widened(from[0]) : 0.0f;
    two = left > 1 ? widened(from[1]) : 0.0f;
}

// what a thread has to know of its share of a row, whichever row it is
struct Share {
    const char *feats;
    shared_place staged;
    unsigned row_bytes, offset_bytes;
    int left, steps;
};

// sums over the input channels of this thread, of all pairs of its row; STEPS is 0 where it is not known here
template <typename T, int CO, bool FULL_ROW, int STEPS>
__device__ static void follow(float *sums, const int2 *pairs, unsigned count, const Share &share) {
    const int steps = STEPS ? STEPS : share.steps;
    for (unsigned i = 0; i < count; i++) {
        int2 here = __ldg((const int2 *)((const char *)pairs + (u64)i * sizeof(int2)));
        const T *row = (const T *)(share.feats + (u64)(unsigned)here.x * share.row_bytes);
        shared_place weights = share.staged + here.y * share.offset_bytes;
#pragma unroll
        for (int step = 0; step < steps; step++) {
            float one, two;
            fetch_two<T, FULL_ROW>(row + step * (STEP / CO), share.left - step * (STEP / CO), one, two);
            Word<T>::add(sums, read_shared(weights + step * STEP_BYTES), one);
            Word<T>::add(sums, read_shared(weights + step * STEP_BYTES + STEP_BYTES / 2), two);
        }
    }
}

// adds what lanes over input channels have, and shares the sums among them: `first_of` says which are whose
template <typename T, int CO> __device__ static void meet(float *sums) {
#pragma unroll
    for (int step = LANES / 2, n = Word<T>::VECTOR / 2; step >= CO; step /= 2, n /= 2) {
        bool upper = threadIdx.x & step;
#pragma unroll
        for (int v = 0; v < n; v++) {
            float kept = upper ? sums[v + n] : sums[v], given = upper ? sums[v] : sums[v + n];
            sums[v] = sum_of(kept, __shfl_xor_sync(0xffffffffu, given, step));
        }
    }
}
template <typename T, int CO> __device__ static int first_of(int lane) {
    int first = lane % CO * Word<T>::VECTOR;
#pragma unroll
    for (int step = LANES / 2, n = Word<T>::VECTOR / 2; step >= CO; step /= 2, n /= 2)
        if (lane & step) first += n;
    return first;
}

// N values of a row, or of a vector over channels; as many of them as there are
template <typename T, int N> __device__ static void read(float *values, const T *from, int there, bool at_once) {
    if (at_once) {
        Run<T, N> run = *(const Run<T, N> *)from;
#pragma unroll
        for (int v = 0; v < N; v++) values[v] = widened(run.values[v]);
        return;
    }
#pragma unroll
    for (int v = 0; v < N; v++) values[v] = v < there ? widened(from[v]) : 0.0f;
}

// `first` is the first output channel of a thread, `there` how many there are from it on
template <typename T> struct Ending {
    T *out;
    const T *bias, *residual, *through;
    const unsigned char *mask;
    const float *scale, *shift;
    int first, there, c_out;
    bool at_once, relu;
};

// what is done to sums before they are rounded, and the writing
template <typename T, int N>
__device__ static void finish(float *sums, const Ending<T> &ending, unsigned row) {
    u64 at = (u64)row * (unsigned)ending.c_out + (unsigned)ending.first;
    int there = ending.there;
    bool at_once = ending.at_once;
    float other[N], factor[N];
    if (ending.bias) {
        read<T, N>(other, ending.bias + ending.first, there, at_once);
#pragma unroll
        for (int v = 0; v < N; v++) sums[v] = sum_of(sums[v], other[v]);
    }
    if (ending.mask && !ending.mask[row]) {
        read<T, N>(sums, ending.through + at, there, at_once);
        if (ending.scale) {
            read<float, N>(factor, ending.scale + ending.first, there, false);
#pragma unroll
            for (int v = 0; v < N; v++) sums[v] = product_of(sums[v], factor[v]);
        }
        if (ending.shift) {
            read<float, N>(factor, ending.shift + ending.first, there, false);
#pragma unroll
            for (int v = 0; v < N; v++) sums[v] = sum_of(sums[v], factor[v]);
        }
    }
    if (ending.residual) {
        read<T, N>(other, ending.residual + at, there, at_once);
#pragma unroll
        for (int v = 0; v < N; v++) sums[v] = sum_of(sums[v], other[v]);
    }
    Run<T, N> run;
#pragma unroll
    for (int v = 0; v < N; v++)
        // a NaN stays; by bits, as a comparison takes the least numbers for zeros
        narrowed(run.values[v], ending.relu && __float_as_uint(sums[v]) - 0x80000001u < 0x7f800000u ? 0.0f : sums[v]);
    T *out = ending.out + at;
    if (at_once)
        *(Run<T, N> *)out = run;
    else
#pragma unroll
        for (int v = 0; v < N; v++)
            if (v < there) out[v] = run.values[v];
}

// entries (tiles, 32 * k): input row and offset of all pairs of 32 rows, one row's after another's; heads (tiles,
// 32): a row, or -1, and where its pairs begin among them, with their number in the upper half
template <typename T, int CO, bool FULL_ROW, int STEPS>
__device__ static void fetch_rows(const int2 *entries, const int2 *heads, const Share &share, const Ending<T> &ending,
                                  unsigned n_out, unsigned room, unsigned block, unsigned blocks) {
    const int VECTOR = Word<T>::VECTOR, OWN = VECTOR * CO / LANES;
    unsigned groups = blockDim.x / LANES, end = (n_out + LISTED - 1) / LISTED * LISTED;
    // rows of a warp are four of a tile: all of them have a head, or none
    for (unsigned place = block * groups + threadIdx.x / LANES; place < end; place += blocks * groups) {
        float sums[VECTOR];
#pragma unroll
        for (int v = 0; v < VECTOR; v++) sums[v] = 0.0f;
        int2 head = __ldg(heads + place);
        const int2 *pairs = entries + (u64)(place / LISTED) * room + (head.y & 0xffff);
        follow<T, CO, FULL_ROW, STEPS>(sums, pairs, (unsigned)head.y >> 16, share);
        // all threads of a warp: they hand over their sums
        meet<T, CO>(sums);
        if (head.x >= 0 && ending.there > 0) finish<T, OWN>(sums, ending, (unsigned)head.x);
    }
}

template <typename T, int CO>
__device__ static void fetch(const T *feats, const T *weight, const int2 *entries, const int2 *heads,
                             Ending<T> ending, i64 n_out, i64 packed, i64 step_k, i64 step_in, i64 step_out) {
    const int WIDTH = CO * Word<T>::VECTOR, CI = LANES / CO;
    extern __shared__ uint4 staged_weights[];
    Sizes size(packed);
    int outs = (size.c_out + WIDTH - 1) / WIDTH, steps = ((size.c_in + 1) / 2 + CI - 1) / CI;
    int first = (int)(blockIdx.x % outs) * WIDTH, lane = threadIdx.x % LANES, c = lane / CO * 2;
    stage<T, CO>(staged_weights, weight, size, steps, first, step_k, step_in, step_out);
    __syncthreads();
    Share share = {(const char *)(feats + c), place_in_shared(staged_weights + lane),
                   (unsigned)(size.c_in * sizeof(T)), (unsigned)(steps * STEP_BYTES), size.c_in - c, steps};
    first += first_of<T, CO>(lane);
    ending.first = first;
    ending.c_out = size.c_out;
    ending.there = size.c_out - first;
    ending.at_once = size.flags & WHOLE;
    ending.relu = size.flags & RELU;
#define ROWS(FULL_ROW, STEPS)                                                                                       \
    fetch_rows<T, CO, FULL_ROW, STEPS>(entries, heads, share, ending, (unsigned)n_out, LISTED * size.k,             \
                                       blockIdx.x / outs, gridDim.x / outs)
    if (!(size.flags & FULL)) ROWS(false, 0);
    else if (steps == 1) ROWS(true, 1);
    else if (steps == 2) ROWS(true, 2);
    else ROWS(true, 0);
#undef ROWS
}

#define FETCH(NAME, T, CO)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, 4) NAME(                                                      \
        const T *__restrict__ feats, const T *__restrict__ weight, const int2 *__restrict__ entries,                \
        const int2 *__restrict__ heads, T *out, const T *bias, const T *residual, const unsigned char *mask,        \
        const T *through, const float *scale, const float *shift, i64 n_out, i64 sizes, i64 step_k, i64 step_in,    \
        i64 step_out) {                                                                                             \
        Ending<T> ending = {out, bias, residual, through, mask, scale, shift, 0, 0, 0, false, false};               \
        fetch<T, CO>(feats, weight, entries, heads, ending, n_out, sizes, step_k, step_in, step_out);               \
    }
FETCH(fetch_half_1, Half, 1)
FETCH(fetch_half_2, Half, 2)
FETCH(fetch_half_4, Half, 4)
FETCH(fetch_half_8, Half, 8)
FETCH(fetch_brain_1, Brain, 1)
FETCH(fetch_brain_2, Brain, 2)
FETCH(fetch_brain_4, Brain, 4)
FETCH(fetch_brain_8, Brain, 8)
FETCH(fetch_float_2, float, 2)
FETCH(fetch_float_4, float, 4)
FETCH(fetch_float_8, float, 8)

// the lists of a table (k, n_out) of at most 2047 offsets; a warp lists 32 rows, and leaves the room that all
// offsets would take. Rows of many pairs come first, so that those of a warp end at about the same time
extern "C" __global__ void list_rows(const int *table, int2 *entries, int2 *heads, i64 k, i64 n_out) {
    i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x, tile = row / LISTED;
    int lane = (int)(row % LISTED), count = 0;
    if (tile * LISTED >= n_out) return;
    bool real = row < n_out;
    for (i64 o = 0; real && o < k; o++) count += table[o * n_out + row] >= 0;
    // rows that are not there come last
    int place = 0, begin = 0, key = real ? count : -1;
    for (int other = 0; other < LISTED; other++) {
        int theirs = __shfl_sync(0xffffffffu, key, other);
        if (theirs > key || (theirs == key && other < lane)) {
            place++;
            begin += theirs > 0 ? theirs : 0;
        }
    }
    heads[tile * LISTED + place] = make_int2(real ? (int)row : -1, begin | count << 16);
    int2 *to = entries + tile * LISTED * k + begin;
    for (i64 o = 0; real && o < k; o++) {
        int input = table[o * n_out + row];
        if (input >= 0) *to++ = make_int2(input, (int)o);
    }
}
