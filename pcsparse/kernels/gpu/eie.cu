// Layers in EIE's format by columns, and the chip's own entries one by one.
// Weights lie slice after slice of SLICE rows, in a slice column after column, two bytes each: row in the
// slice, code. A warp takes 32 columns at a time and visits those whose activation is not 0; its sums are its
// own, so nothing is added by two at once, and they are added up in order.

typedef long long i64;
typedef unsigned short u16;

static const int SLICE = 256, WARPS = 8, TOGETHER = 4;

__device__ static float finished(float sum, const float *bias, i64 row, i64 relu) {
    if (bias) sum += bias[row];
    // a NaN stays one
    return relu && sum < 0 ? 0.0f : sum;
}

// a block an item, slice and part of the columns; `sums` (n_items, n_parts, n_out), or the result itself if
// there is one part. `pointers` (slices * n_in + 1,): the first weight of each column of each slice
extern "C" __global__ void __launch_bounds__(WARPS * 32, 4) eie_columns(
    const float *__restrict__ x, const u16 *__restrict__ weights, const int *__restrict__ pointers,
    const float *__restrict__ codebook, const float *bias, float *sums, i64 n_in, i64 n_out, i64 n_parts,
    i64 part_columns, i64 relu) {
    __shared__ float book[256];
    __shared__ float of_warp[WARPS][SLICE];
    int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
    // 32 bits where they do: a division of 64 is a hundred instructions
    unsigned parts = (unsigned)n_parts, slices = (unsigned)((n_out + SLICE - 1) / SLICE);
    i64 part = blockIdx.x % parts, slice = blockIdx.x / parts % slices, item = blockIdx.x / parts / slices;
    float *mine = of_warp[warp];
    book[threadIdx.x] = codebook[threadIdx.x];
    for (int row = lane; row < SLICE; row += 32) mine[row] = 0;
    __syncthreads();
    i64 last = min(n_in, (part + 1) * part_columns);
    for (i64 first = part * part_columns + 32 * warp; first < last; first += 32 * WARPS) {
        i64 column = first + lane;
        float value = column < last ? x[item * n_in + column] : 0.0f;
        int begin = 0, end = 0;
        if (value != 0) {
            begin = pointers[slice * n_in + column];
            end = pointers[slice * n_in + column + 1];
        }
        unsigned active = __ballot_sync(0xffffffffu, value != 0);
        while (active) {
            // several columns' weights are on their way before the first is used
            float factors[TOGETHER];
            int at[TOGETHER], ends[TOGETHER];
            unsigned words[TOGETHER];
#pragma unroll
            for (int i = 0; i < TOGETHER; i++) {
                int from = active ? __ffs((int)active) - 1 : 0;
                factors[i] = __shfl_sync(0xffffffffu, value, from);
                at[i] = __shfl_sync(0xffffffffu, begin, from) + lane;
                ends[i] = __shfl_sync(0xffffffffu, end, from);
                if (!active) ends[i] = 0;
                words[i] = at[i] < ends[i] ? weights[at[i]] : 0;
                active &= active - 1;
            }
#pragma unroll
            for (int i = 0; i < TOGETHER; i++) {
                if (at[i] < ends[i]) mine[words[i] >> 8] += book[words[i] & 255] * factors[i];
                for (int next = at[i] + 32; next < ends[i]; next += 32)
                    mine[weights[next] >> 8] += book[weights[next] & 255] * factors[i];
                // another column has the same rows
                __syncwarp();
            }
        }
    }
    __syncthreads();
    i64 row = slice * SLICE + threadIdx.x;
    if (row >= n_out) return;
    float sum = 0;
    for (int i = 0; i < WARPS; i++) sum += of_warp[i][threadIdx.x];
    if (n_parts == 1) sum = finished(sum, bias, row, relu);
    sums[(item * n_parts + part) * n_out + row] = sum;
}

extern "C" __global__ void eie_add_parts(
    const float *sums, const float *bias, float *out, i64 n_items, i64 n_out, i64 n_parts, i64 relu) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_items * n_out) return;
    // so many sums that they fit into memory: 32 bits do
    i64 item = (unsigned)i / (unsigned)n_out, row = (unsigned)i % (unsigned)n_out;
    float sum = 0;
    for (i64 part = 0; part < n_parts; part++) sum += sums[(item * n_parts + part) * n_out + row];
    out[i] = finished(sum, bias, row, relu);
}

// a thread an item and processing element, which alone writes its rows; `bases` (n_batches, n_pe)
extern "C" __global__ void eie_chip(
    const float *x, const unsigned char *codes, const unsigned char *skips, const int *pointers,
    const i64 *batch_starts, const i64 *bases, const float *codebook, const float *bias, float *out,
    i64 n_items, i64 n_in, i64 n_out, i64 n_pe, i64 n_batches, i64 relu) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n_items * n_pe) return;
    i64 item = i / n_pe, pe = i % n_pe;
    float *mine = out + item * n_out;
    for (i64 row = pe; row < n_out; row += n_pe) mine[row] = 0;
    for (i64 batch = 0; batch < n_batches; batch++)
        for (i64 j = batch_starts[batch]; j < batch_starts[batch + 1]; j++) {
            float factor = x[item * n_in + j];
            if (factor == 0) continue;
            const int *range = pointers + pe * (n_in + n_batches) + j + batch;
            i64 base = bases[batch * n_pe + pe], row = pe - n_pe;
            for (i64 entry = base + range[0]; entry < base + range[1]; entry++) {
                row += n_pe * (skips[entry] + 1);
                // a pad only moves on
                if (codes[entry] != 0) mine[row] += codebook[codes[entry]] * factor;
            }
        }
    for (i64 row = pe; row < n_out; row += n_pe) mine[row] = finished(mine[row], bias, row, relu);
}
