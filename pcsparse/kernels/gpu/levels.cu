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

// The coarse cell that a voxel meets at the slot-th of the offsets that it can meet one at, or -1; and which
// voxel and offset. Cells stay biased. Along an axis, with u + shift = q * stride + r, these offsets are
// base + t * period with base = r / common * inverse mod period, where common divides r.
// axes (3, 9): stride, shift, common, inverse, period, size, dilation, the cell that q = 0 names, slots
__device__ static i64 touched_cell(
    const i64 *keys, const i64 *axes, i64 slots, i64 place, i64 *voxel, int *offset) {
    *voxel = quotient(place, slots);
    unsigned slot = (unsigned)(place - *voxel * slots);
    i64 key = keys[*voxel];
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
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x, voxel;
    if (place < size) cells[place] = touched_cell(keys, axes, slots, place, &voxel, offsets + place);
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

// Levels of known bounds: a bit a cell, in the order of the keys. A cell is bit
// batch * step_b + x * step_x + y * step_y + z - origin of them all; x, y and z are biased.
__device__ static i64 bit_of(i64 key, i64 step_b, i64 step_x, i64 step_y, i64 origin) {
    return (key >> BATCH_SHIFT) * step_b + field(key, 0) * step_x + field(key, 1) * step_y + field(key, 2) - origin;
}

__device__ static void mark(unsigned *words, i64 bit, i64 cells) {
    // beyond the bounds is nothing to be written
    if (bit < 0 || bit >= cells) return;
    unsigned flag = 1u << (bit & 31), *word = words + (bit >> 5);
    // a level has fewer cells than candidates, and a load costs less than an atomic
    if (!(*(volatile unsigned *)word & flag)) atomicOr(word, flag);
}

extern "C" __global__ void mark_touched(
    const i64 *keys, const i64 *axes, unsigned *words, i64 slots, i64 step_b, i64 step_x, i64 step_y, i64 origin,
    i64 cells, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x, voxel;
    int offset;
    if (place >= size) return;
    i64 cell = touched_cell(keys, axes, slots, place, &voxel, &offset);
    if (cell >= 0) mark(words, bit_of(cell, step_b, step_x, step_y, origin), cells);
}

extern "C" __global__ void mark_reached(
    const i64 *keys, const i64 *axes, unsigned *words, i64 n, i64 step_b, i64 step_x, i64 step_y, i64 origin,
    i64 cells, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    mark(words, bit_of(reached_cell(keys, axes, n, place), step_b, step_x, step_y, origin), cells);
}

// how many bits are set in the words of a block, four a thread
extern "C" __global__ void count_cells(const uint4 *words, int *counts) {
    uint4 mine = words[(i64)blockIdx.x * blockDim.x + threadIdx.x];
    int found = __popc(mine.x) + __popc(mine.y) + __popc(mine.z) + __popc(mine.w);
    found = (int)__reduce_add_sync(0xffffffffu, (unsigned)found);
    __shared__ int warps[32];
    if ((threadIdx.x & 31) == 0) warps[threadIdx.x >> 5] = found;
    __syncthreads();
    if (threadIdx.x > 0) return;
    for (int warp = 1; warp < (int)(blockDim.x >> 5); warp++) found += warps[warp];
    counts[blockIdx.x] = found;
}

// ends: what `count_cells` found, added up. ranks: of the first cell of each word that has one
extern "C" __global__ void list_cells(
    const uint4 *words, const int *ends, int *ranks, i64 *keys, i64 step_b, i64 step_x, i64 step_y, i64 low_b,
    i64 low_x, i64 low_y, i64 low_z) {
    int rank = blockIdx.x ? ends[blockIdx.x - 1] : 0;
    if (rank == ends[blockIdx.x]) return;
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    uint4 mine = words[place];
    unsigned four[4] = {mine.x, mine.y, mine.z, mine.w};
    int found = __popc(mine.x) + __popc(mine.y) + __popc(mine.z) + __popc(mine.w), before = found;
    int lane = threadIdx.x & 31;
    for (int step = 1; step < 32; step <<= 1) {
        int other = __shfl_up_sync(0xffffffffu, before, step);
        if (lane >= step) before += other;
    }
    __shared__ int warps[32];
    if (lane == 31) warps[threadIdx.x >> 5] = before;
    __syncthreads();
    for (int warp = 0; warp < (int)(threadIdx.x >> 5); warp++) rank += warps[warp];
    rank += before - found;
    for (int w = 0; w < 4; w++) {
        unsigned left = four[w];
        if (left) ranks[4 * place + w] = rank;
        while (left) {
            i64 bit = (4 * place + w) * 32 + __ffs((int)left) - 1;
            left &= left - 1;
            i64 b = quotient(bit, step_b), rest = bit - b * step_b, x = quotient(rest, step_x);
            rest -= x * step_x;
            i64 y = quotient(rest, step_y), z = rest - y * step_y;
            int cell[3] = {(int)(x + low_x), (int)(y + low_y), (int)(z + low_z)};
            keys[rank++] = key_of(b + low_b, cell);
        }
    }
}

// table (k, m), -1 before: a voxel, at its offset and its cell
extern "C" __global__ void place_touched(
    const i64 *keys, const i64 *axes, const unsigned *words, const int *ranks, int *table, i64 m, i64 slots,
    i64 step_b, i64 step_x, i64 step_y, i64 origin, i64 cells, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x, voxel;
    int offset;
    if (place >= size) return;
    i64 cell = touched_cell(keys, axes, slots, place, &voxel, &offset);
    if (cell < 0) return;
    i64 bit = bit_of(cell, step_b, step_x, step_y, origin);
    if (bit < 0 || bit >= cells) return;
    int rank = ranks[bit >> 5] + __popc(words[bit >> 5] & ((1u << (bit & 31)) - 1));
    table[offset * m + rank] = (int)voxel;
}
