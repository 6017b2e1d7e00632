// The search of a kernel map, and the way from a table to lists.

typedef long long i64;

// the first place in [low, low + n) whose key is at least `wanted`; all threads of the block search together,
// so that 100,000 keys take three loads one after another
__device__ static i64 block_lower_bound(const i64 *keys, i64 low, i64 n, i64 wanted) {
    while (n > 0) {
        i64 step = (n + blockDim.x - 1) / blockDim.x, place = threadIdx.x * step;
        int below = __syncthreads_count(place < n && keys[low + place] < wanted);
        if (below == 0) return low;
        // after the last key that is below, before the next that was looked at
        i64 skipped = (below - 1) * step + 1;
        low += skipped;
        n = min(n - skipped, step - 1);
    }
    return low;
}

// A block takes neighbouring queries of one column of offsets, whose deltas ascend in small steps: one search
// a thread, within the keys that the block may meet, then steps. `mirror`: 2 k where the second half of the
// table is the first with rows swapped, and is -1 before; else 0. `parts`: blocks a column.
extern "C" __global__ void match_table(
    const i64 *keys, i64 n_in, const i64 *queries, i64 n_out, const i64 *deltas, const i64 *columns, int *table,
    i64 mirror, i64 parts) {
    i64 column = blockIdx.x / parts, begin = (blockIdx.x - column * parts) * blockDim.x;
    i64 first = columns[column], end = columns[column + 1];
    i64 last = min(begin + blockDim.x, n_out) - 1, j = begin + threadIdx.x;
    i64 low = block_lower_bound(keys, 0, n_in, queries[begin] + deltas[first]);
    i64 high = block_lower_bound(keys, low, n_in - low, queries[last] + deltas[first]);
    if (j > last) return;
    i64 query = queries[j], wanted = query + deltas[first];
    while (low < high) {
        i64 middle = (low + high) >> 1;
        if (keys[middle] < wanted) low = middle + 1;
        else high = middle;
    }
    const i64 none = (1ULL << 63) - 1;
    i64 key = low < n_in ? keys[low] : none;
    for (i64 k = first; k < end; k++) {
        wanted = query + deltas[k];
        while (key < wanted) {
            low++;
            key = low < n_in ? keys[low] : none;
        }
        bool hit = key == wanted;
        table[k * n_out + j] = hit ? (int)low : -1;
        if (mirror && hit) table[(mirror - k) * n_out + low] = (int)j;
    }
    if (mirror && column == 0) table[mirror / 2 * n_out + j] = (int)j;
}

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
