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

// One map: `deltas` in columns, which begin at `columns`; `parts` blocks a column. Orders may be null. A query
// is made `x`, `y`, `z` times as long. The table has `room` columns, those from n_out on for nothing.
struct Search {
    const i64 *keys, *queries, *deltas, *columns;
    const int *order_in, *order_out;
    int *table;
    i64 n_in, n_out, room, parts, x, y, z;
};

__device__ static i64 query_at(const Search &s, i64 place) {
    i64 key = s.queries[place];
    if (s.x == 1 && s.y == 1 && s.z == 1) return key;
    i64 x = (i64)((key >> SHIFT_X) & ((1LL << BITS_X) - 1)) - BIAS_X;
    i64 y = (i64)((key >> SHIFT_Y) & ((1LL << BITS_Y) - 1)) - BIAS_Y;
    i64 z = (i64)(key & ((1LL << BITS_Z) - 1)) - BIAS_Z;
    // a key is a sum of its fields
    return key + ((x * (s.x - 1)) << SHIFT_X) + ((y * (s.y - 1)) << SHIFT_Y) + z * (s.z - 1);
}

// A block takes neighbouring queries of one column of offsets, whose deltas ascend in small steps: one search
// a thread, within the keys that the block may meet, then steps. Every place of the table is written once.
__device__ static void search_block(const Search &s, i64 block) {
    i64 column = block / s.parts, begin = (block - column * s.parts) * blockDim.x;
    i64 first = s.columns[column], end = s.columns[column + 1], n_in = s.n_in;
    i64 last = min(begin + blockDim.x, s.n_out) - 1, j = begin + threadIdx.x;
    if (j >= s.n_out && j < s.room)
        for (i64 k = first; k < end; k++) s.table[k * s.room + j] = -1;
    // of the whole block, which waits for all of its threads below
    if (begin >= s.n_out) return;
    const i64 *keys = s.keys;
    i64 low = block_search(keys, n_in, query_at(s, begin) + s.deltas[first]);
    // where the last query's key is, if it is among the next eight keys a thread, as it is but in thin clouds
    i64 far = low + 8 * threadIdx.x, wanted = query_at(s, last) + s.deltas[first];
    int below = __syncthreads_count(far < n_in && keys[far] < wanted);
    i64 high = below == (int)blockDim.x ? n_in : min(low + 8 * below, n_in);
    if (j > last) return;
    i64 query = query_at(s, j);
    wanted = query + s.deltas[first];
    while (low < high) {
        i64 middle = (low + high) >> 1;
        if (keys[middle] < wanted) low = middle + 1;
        else high = middle;
    }
    const i64 none = (1ULL << 63) - 1;
    i64 key = low < n_in ? keys[low] : none;
    int *table = s.table + (s.order_out ? s.order_out[j] : j);
    for (i64 k = first; k < end; k++) {
        wanted = query + s.deltas[k];
        while (key < wanted) {
            low++;
            key = low < n_in ? keys[low] : none;
        }
        int row = key != wanted ? -1 : s.order_in ? s.order_in[low] : (int)low;
        table[k * s.room] = row;
    }
}

// told: what packing told (see keys.cu), or null. Where its keys do not ascend, nothing is written: the walk
// along them would have no end in sight
extern "C" __global__ void match_table(
    const i64 *keys, i64 n_in, const i64 *queries, i64 n_out, const i64 *deltas, const i64 *columns, int *table,
    const int *order_in, const int *order_out, i64 room, i64 parts, i64 x, i64 y, i64 z,
    const i64 *told) {
    if (told && told[8]) return;
    Search s = {keys, queries, deltas, columns, order_in, order_out, table, n_in, n_out, room, parts, x, y, z};
    search_block(s, blockIdx.x);
}

// jobs (n, 15): the fields of `Search` in their order, then the first block after those of the job
extern "C" __global__ void match_tables(const i64 *jobs) {
    i64 before = 0;
    while (blockIdx.x >= jobs[14]) {
        before = jobs[14];
        jobs += 15;
    }
    Search s;
    s.keys = (const i64 *)jobs[0];
    s.queries = (const i64 *)jobs[1];
    s.deltas = (const i64 *)jobs[2];
    s.columns = (const i64 *)jobs[3];
    s.order_in = (const int *)jobs[4];
    s.order_out = (const int *)jobs[5];
    s.table = (int *)jobs[6];
    s.n_in = jobs[7];
    s.n_out = jobs[8];
    s.room = jobs[9];
    s.parts = jobs[10];
    s.x = jobs[11];
    s.y = jobs[12];
    s.z = jobs[13];
    search_block(s, (i64)blockIdx.x - before);
}
