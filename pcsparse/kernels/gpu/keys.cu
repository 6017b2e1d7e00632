// Keys of coordinates and back. Layout of a key: kernels/key_layout.py, as BATCH_SHIFT, SHIFT_X, BIAS_X, ...

typedef long long i64;
typedef unsigned long long u64;

__device__ static i64 key_of(int4 row) {
    return ((i64)row.x << BATCH_SHIFT) + ((row.y + BIAS_X) << SHIFT_X) + ((row.z + BIAS_Y) << SHIFT_Y) +
           (row.w + BIAS_Z);
}

__device__ static int4 row_of(i64 key) {
    int4 row;
    row.x = (int)(key >> BATCH_SHIFT);
    row.y = (int)(((key >> SHIFT_X) & ((1LL << BITS_X) - 1)) - BIAS_X);
    row.z = (int)(((key >> SHIFT_Y) & ((1LL << BITS_Y) - 1)) - BIAS_Y);
    row.w = (int)((key & ((1LL << BITS_Z) - 1)) - BIAS_Z);
    return row;
}

// high + 2^31 a column, then 2^31 - low a column: the larger wins in both, and 0 is below every value
__device__ static void widen(u64 *facts, int4 row) {
    const i64 half = 1LL << 31;
    const int fields[4] = {row.x, row.y, row.z, row.w};
    for (int c = 0; c < 4; c++) {
        facts[c] = max(facts[c], (u64)(half + fields[c]));
        facts[4 + c] = max(facts[4 + c], (u64)(half - fields[c]));
    }
}

// the largest in each slot, over a warp, then over the grid
__device__ static void reduce_facts(u64 *facts, const u64 *mine, int slots) {
    for (int slot = 0; slot < slots; slot++) {
        u64 value = mine[slot];
        for (int step = 16; step > 0; step >>= 1) {
            u64 other = __shfl_xor_sync(0xffffffffu, value, step);
            value = other > value ? other : value;
        }
        // most warps find that another one has been there: a load costs less than an atomic
        if ((threadIdx.x & 31) == 0 && value > *(volatile u64 *)(facts + slot)) atomicMax(facts + slot, value);
    }
}

// facts (9,), zero before: the extent, and whether a key is not above the one before
extern "C" __global__ void pack_rows(const int4 *coords, i64 *keys, u64 *facts, i64 n) {
    u64 mine[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        int4 row = coords[i];
        i64 key = key_of(row);
        keys[i] = key;
        if (i > 0 && key <= key_of(coords[i - 1])) mine[8] = 1;
        widen(mine, row);
    }
    reduce_facts(facts, mine, 9);
}

// facts (8,), zero before
extern "C" __global__ void key_extent(const i64 *keys, u64 *facts, i64 n) {
    u64 mine[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) widen(mine, row_of(keys[i]));
    reduce_facts(facts, mine, 8);
}

extern "C" __global__ void unpack_keys(const i64 *keys, int4 *coords, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) coords[i] = row_of(keys[i]);
}
