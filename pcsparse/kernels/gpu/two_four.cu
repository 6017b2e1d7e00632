// The product with a 2:4 matrix: a warp a row, its lanes side by side over bytes of positions, which are
// eight inputs and four values each. All is read in lines as it lies; two of four inputs are picked from
// registers. A lane adds its own products in order, then lanes are added in pairs, for each item alike.

typedef long long i64;

static const int WARPS = 8;

// four floats that may not lie as a vector must
__device__ static float4 four(const float *from, bool is_vector) {
    if (is_vector) return *(const float4 *)from;
    float4 values = {from[0], from[1], from[2], from[3]};
    return values;
}

__device__ static float pick(float4 of, unsigned position) {
    float low = position & 1 ? of.y : of.x, high = position & 1 ? of.w : of.z;
    return position & 2 ? high : low;
}

template <int ITEMS>
__device__ static void multiply(
    const float *__restrict__ x, const float *__restrict__ values,
    const unsigned char *__restrict__ positions, const float *bias, float *out, i64 n_items, i64 n_in,
    i64 n_out, i64 relu) {
    unsigned blocks = ((unsigned)n_out + WARPS - 1) / WARPS;
    i64 row = (i64)(blockIdx.x % blocks) * WARPS + threadIdx.x / 32;
    i64 item = (i64)(blockIdx.x / blocks) * ITEMS, lane = threadIdx.x & 31;
    // of a warp all or none
    if (row >= n_out) return;
    i64 n_bytes = (n_in + 7) / 8;
    values += row * (n_in / 2);
    positions += row * n_bytes;
    x += item * n_in;
    bool whole_values = n_in % 8 == 0 && (size_t)values % 16 == 0, whole_inputs = (size_t)x % 16 == 0;
    float sums[ITEMS];
#pragma unroll
    for (int i = 0; i < ITEMS; i++) sums[i] = 0;
#pragma unroll (ITEMS == 1 ? 4 : 1)
    for (i64 byte = lane; byte < n_bytes; byte += 32) {
        unsigned where = positions[byte];
        bool has_second = 8 * byte + 4 < n_in;
        float4 weights = {0, 0, 0, 0};
        if (has_second) weights = four(values + 4 * byte, whole_values);
        else weights.x = values[4 * byte], weights.y = values[4 * byte + 1];
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            if (item + i >= n_items) break;
            const float *inputs = x + i * n_in + 8 * byte;
            float4 group = four(inputs, whole_inputs);
            sums[i] = fmaf(weights.x, pick(group, where), sums[i]);
            sums[i] = fmaf(weights.y, pick(group, where >> 2), sums[i]);
            if (!has_second) continue;
            group = four(inputs + 4, whole_inputs);
            sums[i] = fmaf(weights.z, pick(group, where >> 4), sums[i]);
            sums[i] = fmaf(weights.w, pick(group, where >> 6), sums[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        float sum = sums[i];
        for (int step = 16; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
        if (item + i >= n_items || lane != 0) continue;
        if (bias) sum += bias[row];
        // a NaN stays one
        out[(item + i) * n_out + row] = relu && sum < 0 ? 0.0f : sum;
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) two_four_one(
    const float *x, const float *values, const unsigned char *positions, const float *bias, float *out,
    i64 n_items, i64 n_in, i64 n_out, i64 relu) {
    multiply<1>(x, values, positions, bias, out, n_items, n_in, n_out, relu);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) two_four_many(
    const float *x, const float *values, const unsigned char *positions, const float *bias, float *out,
    i64 n_items, i64 n_in, i64 n_out, i64 relu) {
    multiply<4>(x, values, positions, bias, out, n_items, n_in, n_out, relu);
}
