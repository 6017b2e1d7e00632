// The search of a kernel map.

typedef long long i64;

// about the first place whose key is at least `wanted`: not after it, and at most 16 before. All threads of
// the block search together, so that 100,000 keys take two loads one after the other
__device__ static i64 block_search(const i64 *keys, i64 n, i64 wanted) {
    i64 low = 0;
    while (n > 16) {
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
    i64 low = block_search(keys, n_in, queries[begin] + deltas[first]);
    // where the last query's key is, if it is among the next eight keys a thread, as it is but in thin clouds
    i64 far = low + 8 * threadIdx.x, wanted = queries[last] + deltas[first];
    int below = __syncthreads_count(far < n_in && keys[far] < wanted);
    i64 high = below == (int)blockDim.x ? n_in : min(low + 8 * below, n_in);
    if (j > last) return;
    i64 query = queries[j];
    wanted = query + deltas[first];
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
