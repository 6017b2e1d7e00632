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

// v + 2^31 for the highest and 2^31 - 1 - v for the lowest of a column: the larger wins in both, and 0 is
// neutral
__device__ static void widen(unsigned *facts, int4 row) {
    const int fields[4] = {row.x, row.y, row.z, row.w};
    for (int c = 0; c < 4; c++) {
        unsigned high = (unsigned)fields[c] ^ 0x80000000u;
        facts[c] = max(facts[c], high);
        facts[4 + c] = max(facts[4 + c], ~high);
    }
}

// the largest in each slot: over a warp, a block, and the grid by one atomic a block; the last block sends them
// to the host (see mailbox.py), and to `told`, if given, for the kernels after this one. counters: the slots,
// then a ticket; 0 before and after. Whether this is the last block.
template <int SLOTS>
__device__ static bool send_facts(
    unsigned *counters, const unsigned *mine, u64 *letter, i64 stamp, i64 *told = nullptr) {
    __shared__ unsigned warps[32][SLOTS];
    __shared__ unsigned ticket;
    for (int slot = 0; slot < SLOTS; slot++) {
        unsigned value = __reduce_max_sync(0xffffffffu, mine[slot]);
        if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5][slot] = value;
    }
    __syncthreads();
    if (threadIdx.x < SLOTS) {
        unsigned value = 0;
        for (int warp = 0; warp < (int)(blockDim.x >> 5); warp++) value = max(value, warps[warp][threadIdx.x]);
        atomicMax(counters + threadIdx.x, value);
        __threadfence();
    }
    __syncthreads();
    if (threadIdx.x == 0) ticket = atomicAdd(counters + SLOTS, 1u);
    __syncthreads();
    if (ticket != gridDim.x - 1) return false;
    u64 value = 0;
    if (threadIdx.x < SLOTS) {
        __threadfence();
        value = atomicExch(counters + threadIdx.x, 0u);
        if (told) told[threadIdx.x] = (i64)value;
    } else if (threadIdx.x == SLOTS) atomicExch(counters + SLOTS, 0u);
    __syncthreads();
    if (threadIdx.x < SLOTS) {
        // woken by the letter, the host may launch on another stream: all counters are 0 before
        __threadfence_system();
        *(volatile u64 *)(letter + threadIdx.x) = (u64)stamp << 32 | value;
        __threadfence_system();
    }
    return true;
}

__device__ static i64 floor_div(i64 a, i64 b) { return a >= 0 ? a / b : -((b - 1 - a) / b); }

// Where the bits of a chain of levels will be, for the kernels of levels.cu (`Planned`), by what packing found.
// rules (levels, 17): stride, first and last step (x, y, z), lowest and highest cell to keep (b, x, y, z).
// plan: what packing told, then 7 numbers a level: where its words begin, key of its first cell, bits from a
// batch, an x and a y to the next, bits, chunks of CHUNK bits; then the words of all. Bits are -1 for a level
// without room within `room` words, and for those after it; for all where rows do not ascend, as nobody will ask.
#define FACTS 9
#define CHUNK 32768
__device__ static void plan_levels(i64 *plan, const i64 *rules, i64 levels, i64 room) {
    i64 low[4], high[4], at = 0;
#pragma unroll
    for (int c = 0; c < 4; c++) {
        high[c] = plan[c] - (1LL << 31);
        low[c] = (1LL << 31) - 1 - plan[4 + c];
    }
    bool open = plan[8] == 0;
    i64 *mine = plan + FACTS;
    for (i64 level = 0; level < levels; level++, rules += 17, mine += 7) {
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            low[1 + axis] = -floor_div(rules[6 + axis] - low[1 + axis], rules[axis]);
            high[1 + axis] = floor_div(high[1 + axis] - rules[3 + axis], rules[axis]);
        }
        i64 left = (room - at) * 32, cells = 1, steps[4];
#pragma unroll
        for (int c = 3; c >= 0; c--) {
            low[c] = max(low[c], rules[9 + c]);
            high[c] = min(high[c], rules[13 + c]);
            i64 size = high[c] - low[c] + 1;
            steps[c] = cells;
            if (size < 1) cells = 0;
            else if (cells > 0) cells = size > left / cells ? -1 : cells * size;
        }
        i64 chunks = (cells + CHUNK - 1) / CHUNK;
        // room is whole chunks, so that what fits does so in whole ones
        open = open && cells >= 0;
        if (!open) cells = -1, chunks = 0;
        mine[0] = at;
        mine[1] = (low[0] << BATCH_SHIFT) + ((low[1] + BIAS_X) << SHIFT_X) + ((low[2] + BIAS_Y) << SHIFT_Y) +
                  low[3] + BIAS_Z;
        mine[2] = steps[0];
        mine[3] = steps[1];
        mine[4] = steps[2];
        mine[5] = cells;
        mine[6] = chunks;
        mine[7] = at += chunks * (CHUNK / 32);
    }
}

// letter (9,): the extent, and whether a key is not above the one before; told: the same, or null. Where there
// are levels it is followed by where their bits will be, see `plan_levels`.
extern "C" __global__ void pack_rows(
    const int4 *coords, i64 *keys, unsigned *counters, u64 *letter, i64 stamp, i64 n, i64 *told, const i64 *rules,
    i64 levels, i64 room) {
    unsigned mine[9] = {0, 0, 0, 0, 0, 0, 0, 0, 0};
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) {
        int4 row = coords[i];
        i64 key = key_of(row);
        keys[i] = key;
        if (i > 0 && key <= key_of(coords[i - 1])) mine[8] = 1;
        widen(mine, row);
    }
    if (!send_facts<9>(counters, mine, letter, stamp, told) || levels == 0) return;
    __syncthreads();
    if (threadIdx.x == 0) plan_levels(told, rules, levels, room);
}

// letter (8,)
extern "C" __global__ void key_extent(const i64 *keys, unsigned *counters, u64 *letter, i64 stamp, i64 n) {
    unsigned mine[8] = {0, 0, 0, 0, 0, 0, 0, 0};
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride) widen(mine, row_of(keys[i]));
    send_facts<8>(counters, mine, letter, stamp);
}

// letter (1,): whether a key is not above the one before
extern "C" __global__ void find_fall(const i64 *keys, unsigned *counters, u64 *letter, i64 stamp, i64 n) {
    unsigned mine[1] = {0};
    i64 stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x + 1; i < n; i += stride)
        if (keys[i] <= keys[i - 1]) mine[0] = 1;
    send_facts<1>(counters, mine, letter, stamp);
}

extern "C" __global__ void unpack_keys(const i64 *keys, int4 *coords, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) coords[i] = row_of(keys[i]);
}

extern "C" __global__ void scale_keys(const i64 *keys, i64 *scaled, i64 x, i64 y, i64 z, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int4 row = row_of(keys[i]);
    scaled[i] = ((i64)row.x << BATCH_SHIFT) + ((row.y * x + BIAS_X) << SHIFT_X) +
                ((row.z * y + BIAS_Y) << SHIFT_Y) + (row.w * z + BIAS_Z);
}

// where each key is among the cells from that of key `low` on, `step_*` from a batch, an x and a y to the next; all
// of them have less than 31 bits
extern "C" __global__ void place_keys(
    const i64 *keys, int *places, i64 low, i64 step_b, i64 step_x, i64 step_y, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int4 row = row_of(keys[i]), first = row_of(low);
    places[i] = (int)((row.x - first.x) * step_b + (row.y - first.y) * step_x + (row.z - first.z) * step_y +
                      (row.w - first.w));
}

// keys in the order of places, and the row of each
extern "C" __global__ void take_keys(const i64 *keys, const i64 *order, i64 *ordered, int *rows, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    i64 row = order[i];
    ordered[i] = keys[row];
    rows[i] = (int)row;
}
