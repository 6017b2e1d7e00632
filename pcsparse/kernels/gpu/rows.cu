// Forms of a kernel map by its pairs, and bit masks of its rows. Every thread writes what no other one does.

typedef long long i64;

__device__ static i64 thread_number() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

// table (k, n_out), -1 before. The list of a pair is the last one that starts at or before it
extern "C" __global__ void pairs_to_table(const int *rows_in, const int *rows_out, const i64 *starts, int *table,
                                          i64 n_pairs, i64 k, i64 n_out) {
    i64 p = thread_number();
    if (p >= n_pairs) return;
    i64 list = 0, behind = k;
    while (behind - list > 1) {
        i64 middle = (list + behind) >> 1;
        if (starts[middle] <= p)
            list = middle;
        else
            behind = middle;
    }
    table[list * n_out + rows_out[p]] = rows_in[p];
}

// spans (tiles + 1, k): the first pair of each list whose output is in tile t or behind it
extern "C" __global__ void tile_spans(const int *rows_out, const i64 *starts, i64 *spans, i64 edges, i64 k,
                                      i64 tile) {
    i64 place = thread_number();
    if (place >= edges * k) return;
    i64 list = place % k, edge = place / k * tile;
    i64 low = starts[list], high = starts[list + 1];
    while (low < high) {
        i64 middle = (low + high) >> 1;
        if (rows_out[middle] < edge)
            low = middle + 1;
        else
            high = middle;
    }
    spans[place] = low;
}

// masks (splits, n_out) of a table (k, n_out), `chunk` offsets a split
extern "C" __global__ void row_masks(const int *table, i64 *masks, i64 k, i64 n_out, i64 splits, i64 chunk) {
    i64 place = thread_number();
    if (place >= splits * n_out) return;
    i64 first = place / n_out * chunk, row = place % n_out;
    i64 count = k - first < chunk ? k - first : chunk, mask = 0;
    for (i64 j = 0; j < count; j++) mask |= (i64)(table[(first + j) * n_out + row] >= 0) << j;
    masks[place] = mask;
}

// six doublings cover 64 bits: the prefix xor of all higher bits
extern "C" __global__ void gray_rank(const i64 *masks, i64 *ranks, i64 n) {
    i64 i = thread_number();
    if (i >= n) return;
    i64 value = masks[i];
    for (int shift = 1; shift < 64; shift <<= 1) value ^= value >> shift;
    ranks[i] = value;
}
