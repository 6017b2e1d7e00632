// Kernel maps as tables (k, n_out): the input row, or -1.

typedef long long i64;

// a / b, both not negative: 64-bit division takes four times as long
__device__ static i64 quotient(i64 a, i64 b) {
    return ((a | b) >> 32) == 0 ? (i64)((unsigned)a / (unsigned)b) : a / b;
}

extern "C" __global__ void renumber_table(
    const int *table, const int *order_in, const int *order_out, int *out, i64 n_out, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    int row = table[place];
    if (row >= 0 && order_in) row = order_in[row];
    if (order_out) {
        i64 k = quotient(place, n_out);
        place = k * n_out + order_out[place - k * n_out];
    }
    out[place] = row;
}

// out (k, n_in) is -1 before
extern "C" __global__ void transpose_table(const int *table, int *out, i64 n_out, i64 n_in, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    int row = table[place];
    i64 k = quotient(place, n_out);
    if (row >= 0) out[k * n_in + row] = (int)(place - k * n_out);
}

// a block reads this many rows of threads of the table
#define ROWS 4

// how many entries of a block are there
extern "C" __global__ void count_pairs(const int *table, i64 *counts, i64 size) {
    i64 place = (i64)blockIdx.x * ROWS * blockDim.x + threadIdx.x;
    int found = 0;
    for (int row = 0; row < ROWS; row++, place += blockDim.x)
        found += __syncthreads_count(place < size && table[place] >= 0);
    if (threadIdx.x == 0) counts[blockIdx.x] = found;
}

// ends: what `count_pairs` found, added up; n_out is not 0
extern "C" __global__ void list_pairs(
    const int *table, const i64 *ends, int *rows_in, int *rows_out, i64 *starts, i64 n_out, i64 size) {
    __shared__ int found[ROWS * 32];
    i64 first = (i64)blockIdx.x * ROWS * blockDim.x + threadIdx.x;
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, warps = blockDim.x >> 5, inputs[ROWS];
    unsigned there[ROWS];
    for (int row = 0; row < ROWS; row++) {
        i64 place = first + row * blockDim.x;
        inputs[row] = place < size ? table[place] : -1;
        there[row] = __ballot_sync(0xffffffffu, inputs[row] >= 0);
        if (lane == 0) found[row * warps + warp] = __popc(there[row]);
    }
    __syncthreads();
    i64 mine = blockIdx.x ? ends[blockIdx.x - 1] : 0;
    for (int row = 0, next = 0; row < ROWS; row++) {
        for (; next < row * warps + warp; next++) mine += found[next];
        i64 place = first + row * blockDim.x, k = quotient(place, n_out), j = place - k * n_out;
        i64 to = mine + __popc(there[row] & ((1u << lane) - 1));
        if (place < size && j == 0) starts[k] = to;
        if (place == size - 1) starts[k + 1] = to + (inputs[row] >= 0);
        if (inputs[row] < 0) continue;
        rows_in[to] = inputs[row];
        rows_out[to] = (int)j;
    }
}
