// Convolution without tiles. Eight threads own an output row, whose pairs they follow one after the other; the
// weights of all offsets lie in shared memory. No product is made that no pair asks for, nothing is scattered.
//
// Of the eight, CO lie side by side over output channels, VECTOR of them each, and 8 / CO over input channels,
// two of them a step. Weights are staged in the order in which the eight read them, 128 bytes at once: all
// banks, whatever offsets other rows are at. Sums over input channels meet at the end of a row, in one order.

typedef long long i64;

#ifdef __CUDACC__
// elsewhere whoever compiles this has them
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
#endif

static const int LANES = 8, LISTED = 32;
// flags beside the sizes
static const i64 RELU = 1, PAIRED = 2, WHOLE = 4, SOLID = 8;
// 16-byte words of a step: eight for each of two input channels
static const int STEP = 2 * LANES;

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
            sums[2 * i] = __fmaf_rn(factor, T::wide((unsigned short)(twos[i] & 0xffffu)), sums[2 * i]);
            sums[2 * i + 1] = __fmaf_rn(factor, T::wide((unsigned short)(twos[i] >> 16)), sums[2 * i + 1]);
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
        sums[0] = __fmaf_rn(factor, __uint_as_float(word.x), sums[0]);
        sums[1] = __fmaf_rn(factor, __uint_as_float(word.y), sums[1]);
        sums[2] = __fmaf_rn(factor, __uint_as_float(word.z), sums[2]);
        sums[3] = __fmaf_rn(factor, __uint_as_float(word.w), sums[3]);
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
        unsigned char bytes[16];
    } staged;
    staged.word.x = staged.word.y = staged.word.z = staged.word.w = 0;
    if (c >= size.c_in || channel >= size.c_out) return staged.word;
    const T *from = weight + c * step_in + channel * step_out;
    if (size.flags & SOLID) return __ldg((const uint4 *)from);
    T *values = (T *)staged.bytes;
#pragma unroll
    for (int v = 0; v < VECTOR; v++)
        if (channel + v < size.c_out) values[v] = from[v * step_out];
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

// two input channels of a row, zero beyond the last
template <typename T, bool EVEN>
__device__ static void fetch_two(const T *from, int left, float &one, float &two) {
    one = two = 0.0f;
    if (EVEN) {
        if (left > 0) Word<T>::two(from, one, two);
        return;
    }
    if (left > 0) one = widened(from[0]);
    if (left > 1) two = widened(from[1]);
}

// sums over the input channels of this thread, of all pairs of its row
template <typename T, int CO, bool EVEN>
__device__ static void follow(float *sums, const T *feats, const int2 *pair, const int2 *behind,
                              const uint4 *staged, int c_in, int steps) {
    int lane = threadIdx.x % LANES, first = lane / CO * 2;
    feats += first;
    staged += lane;
    for (; pair < behind; pair++) {
        int2 here = __ldg(pair);
        const T *row = feats + (i64)here.x * c_in;
        const uint4 *weights = staged + here.y * steps * STEP;
        int left = c_in - first;
        for (int step = 0; step < steps; step++, left -= STEP / CO, row += STEP / CO, weights += STEP) {
            float one, two;
            fetch_two<T, EVEN>(row, left, one, two);
            Word<T>::add(sums, weights[0], one);
            Word<T>::add(sums, weights[LANES], two);
        }
    }
}

// adds what lanes over input channels have, and shares the sums among them: how far mine are from the first
template <typename T, int CO> __device__ static int meet(float *sums) {
    int first = 0;
#pragma unroll
    for (int step = LANES / 2, n = Word<T>::VECTOR / 2; step >= CO; step /= 2, n /= 2) {
        bool upper = threadIdx.x & step;
#pragma unroll
        for (int v = 0; v < n; v++) {
            float kept = upper ? sums[v + n] : sums[v], given = upper ? sums[v] : sums[v + n];
            sums[v] = __fadd_rn(kept, __shfl_xor_sync(0xffffffffu, given, step));
        }
        if (upper) first += n;
    }
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

template <typename T> struct Ending {
    const T *bias, *residual, *through;
    const unsigned char *mask;
    const float *scale, *shift;
};

// what is done to sums before they are rounded, and the writing; `at` is the place of the first of them
template <typename T, int N>
__device__ static void finish(float *sums, T *out, const Ending<T> &ending, const Sizes &size, i64 row, int channel) {
    int there = size.c_out - channel;
    if (there <= 0) return;
    bool at_once = size.flags & WHOLE;
    i64 at = row * size.c_out + channel;
    float other[N], factor[N];
    if (ending.bias) {
        read<T, N>(other, ending.bias + channel, there, at_once);
#pragma unroll
        for (int v = 0; v < N; v++) sums[v] = __fadd_rn(sums[v], other[v]);
    }
    if (ending.mask && !ending.mask[row]) {
        read<T, N>(sums, ending.through + at, there, at_once);
        if (ending.scale) {
            read<float, N>(factor, ending.scale + channel, there, false);
#pragma unroll
            for (int v = 0; v < N; v++) sums[v] = __fmul_rn(sums[v], factor[v]);
        }
        if (ending.shift) {
            read<float, N>(factor, ending.shift + channel, there, false);
#pragma unroll
            for (int v = 0; v < N; v++) sums[v] = __fadd_rn(sums[v], factor[v]);
        }
    }
    if (ending.residual) {
        read<T, N>(other, ending.residual + at, there, at_once);
#pragma unroll
        for (int v = 0; v < N; v++) sums[v] = __fadd_rn(sums[v], other[v]);
    }
    Run<T, N> run;
#pragma unroll
    for (int v = 0; v < N; v++)
        // a NaN stays
        narrowed(run.values[v], size.flags & RELU && sums[v] < 0.0f ? 0.0f : sums[v]);
    if (at_once)
        *(Run<T, N> *)(out + at) = run;
    else
#pragma unroll
        for (int v = 0; v < N; v++)
            if (v < there) out[at + v] = run.values[v];
}

// entries (tiles, 32 * k): pairs of 32 rows, one row's after another's; starts (tiles, 33): where they begin
template <typename T, int CO>
__device__ static void fetch(const T *feats, const T *weight, const int2 *entries, const int *starts, T *out,
                             const Ending<T> &ending, i64 n_out, i64 packed, i64 step_k, i64 step_in, i64 step_out) {
    const int VECTOR = Word<T>::VECTOR, OWN = VECTOR * CO / LANES;
    extern __shared__ uint4 staged_weights[];
    Sizes size(packed);
    int outs = (size.c_out + CO * VECTOR - 1) / (CO * VECTOR);
    int steps = ((size.c_in + 1) / 2 + LANES / CO - 1) / (LANES / CO);
    int first = (int)(blockIdx.x % outs) * CO * VECTOR;
    stage<T, CO>(staged_weights, weight, size, steps, first, step_k, step_in, step_out);
    __syncthreads();
    int rows = blockDim.x / LANES;
    first += threadIdx.x % CO * VECTOR;
    for (i64 begin = (i64)(blockIdx.x / outs) * rows; begin < n_out; begin += (i64)(gridDim.x / outs) * rows) {
        i64 row = begin + threadIdx.x / LANES;
        float sums[VECTOR];
#pragma unroll
        for (int v = 0; v < VECTOR; v++) sums[v] = 0.0f;
        if (row < n_out) {
            const int *at = starts + row / LISTED * (LISTED + 1) + row % LISTED;
            const int2 *pairs = entries + row / LISTED * LISTED * size.k;
            if (size.flags & PAIRED)
                follow<T, CO, true>(sums, feats, pairs + at[0], pairs + at[1], staged_weights, size.c_in, steps);
            else
                follow<T, CO, false>(sums, feats, pairs + at[0], pairs + at[1], staged_weights, size.c_in, steps);
        }
        // all threads of a warp: they hand over their sums
        int mine = meet<T, CO>(sums);
        if (row < n_out) finish<T, OWN>(sums, out, ending, size, row, first + mine);
    }
}

#define FETCH(NAME, T, CO)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256, 5) NAME(                                                                                \
        const T *__restrict__ feats, const T *__restrict__ weight, const int2 *__restrict__ entries,                \
        const int *__restrict__ starts, T *out, const T *bias, const T *residual, const unsigned char *mask,        \
        const T *through, const float *scale, const float *shift, i64 n_out, i64 sizes, i64 step_k, i64 step_in,    \
        i64 step_out) {                                                                                             \
        Ending<T> ending = {bias, residual, through, mask, scale, shift};                                           \
        fetch<T, CO>(feats, weight, entries, starts, out, ending, n_out, sizes, step_k, step_in, step_out);         \
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

// the lists of a table (k, n_out); a warp lists 32 rows, and leaves the room that all offsets would take
extern "C" __global__ void list_rows(const int *table, int2 *entries, int *starts, i64 k, i64 n_out) {
    i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x, tile = row / LISTED;
    int lane = (int)(row % LISTED), count = 0;
    if (tile * LISTED >= n_out) return;
    bool real = row < n_out;
    for (i64 o = 0; real && o < k; o++) count += table[o * n_out + row] >= 0;
    int end = count;
    for (int step = 1; step < LISTED; step *= 2) {
        int before = __shfl_up_sync(0xffffffffu, end, step);
        if (lane >= step) end += before;
    }
    starts += tile * (LISTED + 1);
    starts[lane + 1] = end;
    if (lane == 0) starts[0] = 0;
    int2 *to = entries + tile * LISTED * k + (end - count);
    for (i64 o = 0; real && o < k; o++) {
        int input = table[o * n_out + row];
        if (input >= 0) *to++ = make_int2(input, (int)o);
    }
}
