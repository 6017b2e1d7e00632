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

// One (voxel, slot) a thread: the coarse cell that the voxel meets at the slot-th of the offsets that it can
// meet one at, or -1. Cells stay biased. Along an axis, with u + shift = q * stride + r, these are the
// offsets base + t * period with base = r / common * inverse mod period, where common divides r.
// axes (3, 9): stride, shift, common, inverse, period, size, dilation, the cell that q = 0 names, slots
extern "C" __global__ void touched_cells(
    const i64 *keys, const i64 *axes, i64 *cells, int *offsets, i64 slots, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    i64 voxel = quotient(place, slots);
    unsigned slot = (unsigned)(place - voxel * slots);
    i64 key = keys[voxel];
    int cell[3], offset = 0, scale = 1;
    bool met = true;
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
        offset += (int)o * scale;
        scale *= (int)a[5];
    }
    cells[place] = met ? key_of(key >> BATCH_SHIFT, cell) : -1;
    offsets[place] = offset;
}

// One (offset, voxel) a thread: the fine cell that a coarse one reaches. axes (3, 4): size, stride, dilation,
// and where biased cell 0 leads at offset 0
extern "C" __global__ void reached_cells(const i64 *keys, const i64 *axes, i64 *cells, i64 n, i64 size) {
    i64 place = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (place >= size) return;
    i64 voxels = quotient(place, n), key = keys[place - voxels * n];
    unsigned offset = (unsigned)voxels;
    int cell[3];
    for (int axis = 2; axis >= 0; axis--) {
        const i64 *a = axes + 4 * axis;
        unsigned size_here = (unsigned)a[0], o = offset % size_here;
        offset /= size_here;
        cell[axis] = (int)(field(key, axis) * a[1] + a[3] + a[2] * o);
    }
    cells[place] = key_of(key >> BATCH_SHIFT, cell);
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
