// Other levels out of sorted keys: candidates, and what is left of them once they are sorted.

typedef long long i64;
typedef unsigned long long u64;

__device__ static int field(i64 key, int axis) {
    if (axis == 0) return (int)((key >> SHIFT_X) & ((1LL << BITS_X) - 1));
    if (axis == 1) return (int)((key >> SHIFT_Y) & ((1LL << BITS_Y) - 1));
    return (int)(key & ((1LL << BITS_Z) - 1));
}

// a / b, both not negative: 64-bit division takes four times as long
__device__ static i64 quotient(i64 a, i64 b) {
    return ((a | b) >> 32) == 0 ? (i64)((unsigned)a / (unsigned)b) : a / b;
}

__device__ static i64 key_of(i64 batch, const int *cell) {
    return (batch << BATCH_SHIFT) + ((i64)cell[0] << SHIFT_X) + ((i64)cell[1] << SHIFT_Y) + cell[2];
}

// The coarse cell that the voxel of a key meets at the slot-th of the offsets that it can meet one at, or -1; and
// which offset. Cells stay biased. Along an axis, with u + shift = q * stride + r, these offsets are
// base + t * period with base = r / common * inverse mod period, where common divides r.
// axes (3, 9): stride, shift, common, inverse, period, size, dilation, the cell that q = 0 names, slots
__device__ static i64 touched_cell(i64 key, const i64 *axes, unsigned slot, int *offset) {
    int cell[3], scale = 1;
    bool met = true;
    *offset = 0;
    for (int axis = 2; axis >= 0; axis--) {
        const i64 *a = axes + 9 * axis;
        unsigned stride = (unsigned)a[0], common = (unsigned)a[2], period = (unsigned)a[4], here = (unsigned)a[8];
        unsigned t = here == 1 ? 0 : slot % here;
        slot = here == 1 ? slot : slot / here;
        unsigned u = (unsigned)field(key, axis) + (unsigned)a[1], q = u / stride, r = u - q * stride;
        unsigned rest = r / common;
        unsigned base = period < (1u << 16) ? rest * (unsigned)a[3] % period
                                            : (unsigned)((u64)rest * (u64)a[3] % period);
        i64 o = (i64)base + (i64)t * period;
        met = met && rest * common == r && o < a[5];
        // the offset leads (dilation * o - r) / stride cells down, which divides
        cell[axis] = (int)((i64)q + a[7] - (i64)((unsigned)(a[6] * o) / stride));
        *offset += (int)o * scale;
        scale *= (int)a[5];
    }
    return met ? key_of(key >> BATCH_SHIFT, cell) : -1;
}

// The fine cell that a coarse one reaches, offset after offset. axes (3, 4): size, stride, dilation, and where
// biased cell 0 leads at offset 0
__device__ static i64 reached_cell(const i64 *keys, const i64 *axes, i64 n, i64 place) {
    i64 voxels = quotient(place, n), key = keys[place - voxels * n];
    unsigned offset = (unsigned)voxels;
    int cell[3];
    for (int axis = 2; axis >= 0; axis--) {
        const i64 *a = axes + 4 * axis;
        unsigned size = (unsigned)a[0], o = offset % size;
        offset /= size;
        cell[axis] = (int)(field(key, axis) * a[1] + a[3] + a[2] * o);
    }
    return key_of(key >> BATCH_SHIFT, cell);
}

// one (voxel, slot) a thread
extern "C" __global__ void touched_cells(
    const i64 *keys, const i64 *axes, i64 *cells, int *offsets, i64 slots, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    i64 voxel = quotient(place, slots);
    cells[place] = touched_cell(keys[voxel], axes, (unsigned)(place - voxel * slots), offsets + place);
}

// one (offset, voxel) a thread
extern "C" __global__ void reached_cells(const i64 *keys, const i64 *axes, i64 *cells, i64 n, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place < size) cells[place] = reached_cell(keys, axes, n, place);
}

// 1 where a sorted key is not the one before; -1 is none
extern "C" __global__ void mark_heads(const i64 *sorted, int *heads, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) heads[i] = sorted[i] >= 0 && (i == 0 || sorted[i] != sorted[i - 1]);
}

// ranks: the heads, added up. The heads alone, and where each stood before the sort if `first` is given
extern "C" __global__ void list_heads(
    const i64 *sorted, const int *ranks, const i64 *order, i64 *unique, i64 *first, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    int rank = ranks[i];
    if (rank == (i ? ranks[i - 1] : 0)) return;
    unique[rank - 1] = sorted[i];
    if (first) first[rank - 1] = order[i];
}

// rows[order[i]] = the place of sorted[i] among the heads
extern "C" __global__ void place_ranks(const int *ranks, const i64 *order, i64 *rows, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) rows[order[i]] = ranks[i] - 1;
}

// table (k, m), -1 before: a candidate's voxel, at its offset and its cell
extern "C" __global__ void place_voxels(
    const i64 *sorted, const int *ranks, const i64 *order, const int *offsets, int *table, i64 slots, i64 m, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n || sorted[i] < 0) return;
    i64 place = order[i];
    table[offsets[place] * m + ranks[i] - 1] = (int)quotient(place, slots);
}

// Levels of known bounds: a bit a cell, in the order of the keys; `low` is the key of cell 0. A level's words
// are followed by one count for each of the blocks that read them.
struct Grid {
    i64 low, step_b, step_x, step_y;
};

// where the bit of a cell is; beyond `cells` or negative where it is not within the bounds
__device__ static i64 bit_of(i64 key, Grid grid) {
    // an axis on its own: what leaves one must not come back on another
    i64 b = (key >> BATCH_SHIFT) - (grid.low >> BATCH_SHIFT), x = field(key, 0) - field(grid.low, 0);
    i64 y = field(key, 1) - field(grid.low, 1), z = field(key, 2) - field(grid.low, 2);
    if (((b | x | y | z) < 0) | (x * grid.step_x >= grid.step_b) | (y * grid.step_y >= grid.step_x) | (z >= grid.step_y))
        return -1;
    return b * grid.step_b + x * grid.step_x + y * grid.step_y + z;
}

__device__ static i64 cell_at(i64 bit, Grid grid) {
    i64 b = quotient(bit, grid.step_b), rest = bit - b * grid.step_b, x = quotient(rest, grid.step_x);
    rest -= x * grid.step_x;
    i64 y = quotient(rest, grid.step_y), z = rest - y * grid.step_y;
    // no field overflows, as a key holds all cells within the bounds
    return grid.low + (b << BATCH_SHIFT) + (x << SHIFT_X) + (y << SHIFT_Y) + z;
}

__device__ static void mark(unsigned *words, i64 bit, i64 cells) {
    if (bit < 0 || bit >= cells) return;
    unsigned flag = 1u << (bit & 31), *word = words + (bit >> 5);
    // a level has fewer cells than candidates, and a load costs less than an atomic
    if (!(*(volatile unsigned *)word & flag)) atomicOr(word, flag);
}

extern "C" __global__ void mark_touched(
    const i64 *keys, const i64 *axes, unsigned *words, i64 at, i64 slots, i64 low, i64 step_b, i64 step_x, i64 step_y,
    i64 cells, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    int offset;
    if (place >= size) return;
    i64 voxel = quotient(place, slots);
    i64 cell = touched_cell(keys[voxel], axes, (unsigned)(place - voxel * slots), &offset);
    if (cell >= 0) mark(words + at, bit_of(cell, {low, step_b, step_x, step_y}), cells);
}

extern "C" __global__ void mark_reached(
    const i64 *keys, const i64 *axes, unsigned *words, i64 at, i64 n, i64 low, i64 step_b, i64 step_x, i64 step_y,
    i64 cells, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    mark(words + at, bit_of(reached_cell(keys, axes, n, place), {low, step_b, step_x, step_y}), cells);
}

__device__ static int bits_of(uint4 mine) { return __popc(mine.x) + __popc(mine.y) + __popc(mine.z) + __popc(mine.w); }

// the sum over the threads of a block before this one, and of all in `total`
__device__ static int sum_before(int mine, int *total) {
    __shared__ int warps[32];
    int lane = threadIdx.x & 31, before = mine;
    for (int step = 1; step < 32; step <<= 1) {
        int other = __shfl_up_sync(0xffffffffu, before, step);
        if (lane >= step) before += other;
    }
    if (lane == 31) warps[threadIdx.x >> 5] = before;
    __syncthreads();
    int sum = 0, mine_too = 0;
    for (int warp = 0; warp < (int)(blockDim.x >> 5); warp++) {
        if (warp < (int)(threadIdx.x >> 5)) mine_too += warps[warp];
        sum += warps[warp];
    }
    *total = sum;
    return mine_too + before - mine;
}

// cells of a block that are marked together; a block looks at no more than fit 16 bits, 256 threads at 128 each
#define LISTED 2048

// Of each cell whose bit is set, mark the cells that it touches on the next level. Cells lie close together, so that
// a thread with many of them would keep its block waiting: they are listed, and shared out with their slots.
// `mine`: four words of this thread, `found` bits, `before` it in the block, `total` in all of it; the block's bits
// begin at `first`.
__device__ static void mark_next(
    uint4 mine, i64 first, int found, int before, int total, Grid grid, const i64 *axes, unsigned *next, Grid coarser,
    i64 cells) {
    __shared__ unsigned short list[LISTED];
    unsigned four[4] = {mine.x, mine.y, mine.z, mine.w}, slots = (unsigned)(axes[8] * axes[17] * axes[26]);
    for (int begin = 0; begin < total; begin += LISTED) {
        int rank = before - begin;
        if (rank < LISTED && rank + found > 0)
            for (int w = 0; w < 4; w++)
                for (unsigned left = four[w]; left; left &= left - 1, rank++)
                    if (rank >= 0 && rank < LISTED)
                        list[rank] = (unsigned short)((4 * threadIdx.x + w) * 32 + __ffs((int)left) - 1);
        __syncthreads();
        unsigned size = (unsigned)min(LISTED, total - begin) * slots;
        for (unsigned i = threadIdx.x; i < size; i += blockDim.x) {
            unsigned listed = i / slots;
            int offset;
            i64 cell = touched_cell(cell_at(first + list[listed], grid), axes, i - listed * slots, &offset);
            if (cell >= 0) mark(next, bit_of(cell, coarser), cells);
        }
        __syncthreads();
    }
}

// by one thread of the last block
__device__ static void send_count(unsigned *counters, u64 *letter, i64 stamp, unsigned count) {
    atomicExch(counters, 0u);
    // woken by the letter, the host may launch on another stream: the counter is 0 before
    __threadfence_system();
    *(volatile u64 *)letter = (u64)stamp << 32 | count;
    __threadfence_system();
}

// How many bits are set: after the words, those up to the end of each block, which reads four words a thread;
// and all of them, sent to the host (see mailbox.py). Of each cell that is set, the cells that it touches on
// the next level are marked, if there is a next one; its words begin at `next_at`. counters: 0 before and after.
extern "C" __global__ void count_cells(
    unsigned *words, i64 at, unsigned *counters, u64 *letter, i64 stamp, i64 low, i64 step_b, i64 step_x,
    i64 step_y, const i64 *axes, i64 next_at, i64 next_low, i64 next_b, i64 next_x, i64 next_y, i64 next_cells) {
    Grid grid = {low, step_b, step_x, step_y}, coarser = {next_low, next_b, next_x, next_y};
    unsigned *next = words + next_at;
    words += at;
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    uint4 mine = ((const uint4 *)words)[place];
    int found = bits_of(mine), total;
    int earlier = sum_before(found, &total);
    i64 first_bit = (i64)blockIdx.x * blockDim.x * 128;
    if (axes) mark_next(mine, first_bit, found, earlier, total, grid, axes, next, coarser, next_cells);
    __shared__ unsigned ticket;
    volatile int *ends = (volatile int *)(words + 4 * (i64)gridDim.x * blockDim.x);
    if (threadIdx.x == 0) {
        ends[blockIdx.x] = total;
        __threadfence();
        ticket = atomicAdd(counters, 1u);
    }
    __syncthreads();
    if (ticket != gridDim.x - 1) return;
    // the last block adds up
    __threadfence();
    i64 share = ((i64)gridDim.x + blockDim.x - 1) / blockDim.x, first = threadIdx.x * share;
    int sum = 0;
    for (i64 i = first; i < min(first + share, (i64)gridDim.x); i++) sum += ends[i];
    __syncthreads();
    int before = sum_before(sum, &total);
    for (i64 i = first; i < min(first + share, (i64)gridDim.x); i++) ends[i] = before += ends[i];
    if (threadIdx.x == 0) send_count(counters, letter, stamp, (unsigned)total);
}

__device__ static int4 row_of(i64 key) {
    int4 row;
    row.x = (int)(key >> BATCH_SHIFT);
    row.y = (int)(field(key, 0) - BIAS_X);
    row.z = (int)(field(key, 1) - BIAS_Y);
    row.w = (int)(field(key, 2) - BIAS_Z);
    return row;
}

// the cells of a thread's four words, which begin at the `place`-th four, from the rank of the first one on
__device__ static void list_four(uint4 mine, i64 place, i64 rank, Grid grid, i64 *keys, int4 *coords) {
    unsigned four[4] = {mine.x, mine.y, mine.z, mine.w};
    for (int w = 0; w < 4; w++)
        for (unsigned left = four[w]; left; left &= left - 1) {
            i64 key = cell_at((4 * place + w) * 32 + __ffs((int)left) - 1, grid);
            keys[rank] = key;
            coords[rank++] = row_of(key);
        }
}

// the cells whose bits are set, where `count_cells` was before
extern "C" __global__ void list_cells(
    const unsigned *words, i64 at, i64 *keys, int4 *coords, i64 low, i64 step_b, i64 step_x, i64 step_y) {
    words += at;
    const int *ends = (const int *)(words + 4 * (i64)gridDim.x * blockDim.x);
    int rank = blockIdx.x ? ends[blockIdx.x - 1] : 0, total;
    if (rank == ends[blockIdx.x]) return;
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    uint4 mine = ((const uint4 *)words)[place];
    rank += sum_before(bits_of(mine), &total);
    list_four(mine, place, rank, {low, step_b, step_x, step_y}, keys, coords);
}

// Levels of bounds that only the device knows: where their bits are is in `plan`, see `plan_levels` in keys.cu. The
// chunks of a level are shared out in runs, one a block, so that blocks write what they list in order.
// ends: after the plan, how many cells the blocks up to each have.
struct Planned {
    i64 at, low, step_b, step_x, step_y, cells, chunks;
};
#define PLANNED ((const Planned *)(plan + 9))

__device__ static Grid grid_of(const Planned &level) { return {level.low, level.step_b, level.step_x, level.step_y}; }

__device__ static i64 *ends_of(i64 *plan, i64 level, i64 levels) {
    return plan + 10 + 7 * levels + level * gridDim.x;
}

// the words of all levels
extern "C" __global__ void clear_planned(uint4 *words, const i64 *plan, i64 levels) {
    i64 fours = PLANNED[levels].at / 4, stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < fours; i += stride) words[i] = {0, 0, 0, 0};
}

// axes (levels, 27): what `touched_cell` reads
extern "C" __global__ void mark_planned(
    const i64 *keys, const i64 *axes, unsigned *words, const i64 *plan, i64 slots, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    const Planned level = PLANNED[0];
    int offset;
    if (place >= size || level.cells <= 0) return;
    i64 voxel = quotient(place, slots);
    i64 cell = touched_cell(keys[voxel], axes, (unsigned)(place - voxel * slots), &offset);
    if (cell >= 0) mark(words + level.at, bit_of(cell, grid_of(level)), level.cells);
}

// As `count_cells`: marks the next level, and sends the host how many cells there are, or ~0 where there was no room.
extern "C" __global__ void count_planned(
    unsigned *words, const i64 *axes, i64 *plan, i64 number, i64 levels, unsigned *counters, u64 *letter, i64 stamp) {
    const Planned level = PLANNED[number];
    i64 run = (level.chunks + gridDim.x - 1) / gridDim.x, *ends = ends_of(plan, number, levels);
    const uint4 *fours = (const uint4 *)(words + level.at);
    int sum = 0, total;
    for (i64 chunk = blockIdx.x * run; chunk < min((blockIdx.x + 1) * run, level.chunks); chunk++) {
        i64 place = chunk * blockDim.x + threadIdx.x;
        uint4 mine = fours[place];
        int found = bits_of(mine), earlier = sum_before(found, &total);
        sum += total;
        if (number + 1 < levels && total > 0 && PLANNED[number + 1].cells > 0) {
            const Planned next = PLANNED[number + 1];
            mark_next(mine, chunk * blockDim.x * 128, found, earlier, total, grid_of(level), axes + 27 * (number + 1),
                      words + next.at, grid_of(next), next.cells);
        }
        // all have read what the next round writes
        __syncthreads();
    }
    __shared__ unsigned ticket;
    if (threadIdx.x == 0) {
        *(volatile i64 *)(ends + blockIdx.x) = sum;
        __threadfence();
        ticket = atomicAdd(counters, 1u);
    }
    __syncthreads();
    if (ticket != gridDim.x - 1) return;
    // the last block adds up
    __threadfence();
    i64 share = ((i64)gridDim.x + blockDim.x - 1) / blockDim.x, first = threadIdx.x * share;
    i64 end = min(first + share, (i64)gridDim.x);
    sum = 0;
    for (i64 i = first; i < end; i++) sum += (int)*(volatile i64 *)(ends + i);
    __syncthreads();
    i64 before = sum_before(sum, &total);
    for (i64 i = first; i < end; i++) ends[i] = before += ends[i];
    if (threadIdx.x == 0) send_count(counters, letter, stamp, level.cells < 0 ? 0xffffffffu : (unsigned)total);
}

extern "C" __global__ void list_planned(
    const unsigned *words, i64 *plan, i64 number, i64 levels, i64 *keys, int4 *coords) {
    const Planned level = PLANNED[number];
    i64 run = (level.chunks + gridDim.x - 1) / gridDim.x;
    const i64 *ends = ends_of(plan, number, levels);
    i64 rank = blockIdx.x ? ends[blockIdx.x - 1] : 0;
    if (rank == ends[blockIdx.x]) return;
    const uint4 *fours = (const uint4 *)(words + level.at);
    int total;
    for (i64 chunk = blockIdx.x * run; chunk < min((blockIdx.x + 1) * run, level.chunks); chunk++) {
        i64 place = chunk * blockDim.x + threadIdx.x;
        uint4 mine = fours[place];
        int earlier = sum_before(bits_of(mine), &total);
        list_four(mine, place, rank + earlier, grid_of(level), keys, coords);
        rank += total;
        __syncthreads();
    }
}
