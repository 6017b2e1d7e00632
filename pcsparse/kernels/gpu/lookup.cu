// Ways to a kernel map without a search: where a key is, told by a grid of bits or by a hash table.
//
// Keys ascend, so that a rank is enough to name a row. A *run* is 32 cells that follow each other in the order of
// keys and whose numbers share all bits but the lowest five; it knows which of them are voxels, and the rank of
// the first. Everything here is found by number, and numbers are unique: whatever the order in which threads
// come, a map has the same bits.

typedef long long i64;
typedef unsigned long long u64;

// no slot of a table holds it: a run is below 2^58, a cell of 32 bits below 2^32 - 1
#define NONE (~0ULL)

// Cells of known bounds, numbered in the order of their keys; `low` is the key of cell 0.
struct Box {
    i64 low, step_b, step_x, step_y;
};

__device__ static i64 axis(i64 key, int shift, int bits) { return (key >> shift) & ((1LL << bits) - 1); }

// NONE for a key beyond the bounds of an axis; the caller looks whether a batch is
__device__ static u64 cell_of(i64 key, Box box) {
    i64 b = (key >> BATCH_SHIFT) - (box.low >> BATCH_SHIFT);
    i64 x = axis(key, SHIFT_X, BITS_X) - axis(box.low, SHIFT_X, BITS_X);
    i64 y = axis(key, SHIFT_Y, BITS_Y) - axis(box.low, SHIFT_Y, BITS_Y);
    i64 z = axis(key, SHIFT_Z, BITS_Z) - axis(box.low, SHIFT_Z, BITS_Z);
    // an axis on its own: what leaves one must not come back on another
    if (((b | x | y | z) < 0) | (x * box.step_x >= box.step_b) | (y * box.step_y >= box.step_x) | (z >= box.step_y))
        return NONE;
    return (u64)(b * box.step_b + x * box.step_x + y * box.step_y + z);
}

// every bit of the number moves about half of the bits of the result; finalisers of MurmurHash3
__device__ static u64 scattered(unsigned v) {
    v = (v ^ v >> 16) * 0x85EBCA6Bu;
    v = (v ^ v >> 13) * 0xC2B2AE35u;
    return v ^ v >> 16;
}
__device__ static u64 scattered(u64 v) {
    v = (v ^ v >> 33) * 0xFF51AFD7ED558CCDULL;
    v = (v ^ v >> 33) * 0xC4CEB9FE1A85EC53ULL;
    return v ^ v >> 33;
}

// Two ranges of memory: `fours` times 16 bytes of `pattern`, and `places` of a table without neighbours
extern "C" __global__ void clear_lookup(longlong2 *memory, i64 fours, i64 pattern, int *table, i64 places) {
    i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x, stride = (i64)gridDim.x * blockDim.x;
    for (i64 i = at; i < fours; i += stride) memory[i] = make_longlong2(pattern, pattern);
    for (i64 i = at; i < places; i += stride) table[i] = -1;
}

// runs (cells / 32), 0 before: which cells of each hold a key, and the rank of the first. The thread of a run's
// first key writes for all
extern "C" __global__ void fill_grid(
    const i64 *keys, uint2 *runs, i64 n, i64 cells, i64 low, i64 step_b, i64 step_x, i64 step_y) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Box box = {low, step_b, step_x, step_y};
    u64 cell = cell_of(keys[i], box), run = cell >> 5;
    if (cell >= (u64)cells || (i > 0 && cell_of(keys[i - 1], box) >> 5 == run)) return;
    uint2 held = {0, (unsigned)i};
    for (i64 j = i; j < n && (cell = cell_of(keys[j], box)) >> 5 == run; j++) held.x |= 1u << (cell & 31);
    runs[run] = held;
}

// slots (mask + 1), NONE before: a cell in the upper 32 bits, its rank in the lower. There are at least twice as
// many slots as keys, so that a free one is found before all were looked at
extern "C" __global__ void fill_hash(
    const i64 *keys, u64 *slots, i64 n, i64 mask, i64 low, i64 step_b, i64 step_x, i64 step_y) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u64 cell = cell_of(keys[i], {low, step_b, step_x, step_y});
    if (cell >= 0xFFFFFFFFULL) return;
    u64 mine = cell << 32 | (u64)i, at = scattered((unsigned)cell);
    for (i64 step = 0; step <= mask; step++)
        if (atomicCAS(slots + ((at + step) & mask), (u64)NONE, mine) == NONE) return;
}

// slots (mask + 1), NONE before: the 58 upper bits of a key, then as in `fill_grid`
extern "C" __global__ void fill_runs(const i64 *keys, ulonglong2 *slots, i64 n, i64 mask) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    i64 run = keys[i] >> 5;
    if (i > 0 && keys[i - 1] >> 5 == run) return;
    unsigned bits = 0;
    for (i64 j = i; j < n && keys[j] >> 5 == run; j++) bits |= 1u << (keys[j] & 31);
    u64 at = scattered((u64)run);
    for (i64 step = 0; step <= mask; step++) {
        ulonglong2 *slot = slots + ((at + step) & mask);
        if (atomicCAS(&slot->x, (u64)NONE, (u64)run) != NONE) continue;
        // nobody reads it before this kernel has ended
        slot->y = (u64)bits << 32 | (u64)i;
        return;
    }
}

__device__ static i64 rank_in(unsigned bits, unsigned first, unsigned cell) {
    unsigned flag = 1u << cell;
    return bits & flag ? (i64)first + __popc(bits & (flag - 1)) : -1;
}

// Where a key is among the sorted ones, or -1. What was read last is kept: offsets of a column are near.
struct InGrid {
    const uint2 *runs;
    u64 cells;
    Box box;
    u64 known;
    uint2 held;
    __device__ i64 rank(i64 key) {
        u64 cell = cell_of(key, box);
        if (cell >= cells) return -1;
        if (cell >> 5 != known) {
            known = cell >> 5;
            held = runs[known];
        }
        return rank_in(held.x, held.y, (unsigned)(cell & 31));
    }
};

struct InHash {
    const u64 *slots;
    i64 mask;
    Box box;
    __device__ i64 rank(i64 key) {
        u64 cell = cell_of(key, box);
        if (cell >= 0xFFFFFFFFULL) return -1;
        u64 at = scattered((unsigned)cell);
        for (i64 step = 0; step <= mask; step++) {
            u64 slot = slots[(at + step) & mask];
            if (slot >> 32 == cell) return (i64)(slot & 0xFFFFFFFFULL);
            if (slot == NONE) break;
        }
        return -1;
    }
};

struct InRuns {
    const ulonglong2 *slots;
    i64 mask;
    u64 known, held;
    __device__ i64 rank(i64 key) {
        // its run would be that of a free slot
        if (key < 0) return -1;
        u64 run = (u64)(key >> 5);
        if (run != known) {
            known = run;
            held = 0;
            u64 at = scattered(run);
            for (i64 step = 0; step <= mask; step++) {
                ulonglong2 slot = slots[(at + step) & mask];
                if (slot.x == run) held = slot.y;
                if (slot.x == run || slot.x == NONE) break;
            }
        }
        return rank_in((unsigned)(held >> 32), (unsigned)held, (unsigned)(key & 31));
    }
};

// A map as `Search` of match.cu has it, `scale` its stride, 20 bits an axis. last: -1; or the last offset of a
// symmetric map, of which the columns hold the first half. What is found there is written to the other half,
// too, where -1 was before.
struct Wanted {
    const i64 *queries, *deltas, *columns;
    int *table;
    const int *order_in, *order_out;
    i64 n_out, room, last, scale;
};

__device__ static i64 query_at(const Wanted &w, i64 place) {
    i64 key = w.queries[place];
    const i64 most = (1 << 20) - 1, one = 1 | 1LL << 20 | 1LL << 40;
    if (w.scale == one) return key;
    i64 x = axis(key, SHIFT_X, BITS_X) - BIAS_X, y = axis(key, SHIFT_Y, BITS_Y) - BIAS_Y;
    i64 z = axis(key, SHIFT_Z, BITS_Z) - BIAS_Z;
    // a key is a sum of its fields
    return key + ((x * ((w.scale & most) - 1)) << SHIFT_X) + ((y * ((w.scale >> 20 & most) - 1)) << SHIFT_Y) +
           z * ((w.scale >> 40) - 1);
}

// A block takes neighbouring queries of one column of offsets. Every place of the table is written once, but
// for the half that is mirrored, of which only what is found is
template <typename Where>
__device__ static void look_up(const Wanted &w, Where where) {
    i64 parts = (w.room + blockDim.x - 1) / blockDim.x, column = blockIdx.x / parts;
    i64 j = (blockIdx.x - column * parts) * blockDim.x + threadIdx.x;
    if (j >= w.room) return;
    i64 first = w.columns[column], end = w.columns[column + 1];
    // of a symmetric map: each row meets itself
    int *middle = w.last >= 0 && column == 0 ? w.table + w.last / 2 * w.room : nullptr;
    if (j >= w.n_out) {
        for (i64 k = first; k < end; k++) w.table[k * w.room + j] = -1;
        if (middle) middle[j] = -1;
        return;
    }
    i64 query = query_at(w, j);
    int out = w.order_out ? w.order_out[j] : (int)j;
    if (middle) middle[out] = out;
    for (i64 k = first; k < end; k++) {
        i64 rank = where.rank(query + w.deltas[k]);
        int row = rank < 0 ? -1 : w.order_in ? w.order_in[rank] : (int)rank;
        w.table[k * w.room + out] = row;
        if (w.last >= 0 && row >= 0) w.table[(w.last - k) * w.room + row] = out;
    }
}

extern "C" __global__ void look_in_grid(
    const i64 *queries, const i64 *deltas, const i64 *columns, int *table, const int *order_in, const int *order_out,
    i64 n_out, i64 room, i64 last, i64 scale, const uint2 *runs, i64 cells, i64 low, i64 step_b, i64 step_x, i64 step_y) {
    Wanted w = {queries, deltas, columns, table, order_in, order_out, n_out, room, last, scale};
    look_up(w, InGrid{runs, (u64)cells, {low, step_b, step_x, step_y}, NONE, {0, 0}});
}

extern "C" __global__ void look_in_hash(
    const i64 *queries, const i64 *deltas, const i64 *columns, int *table, const int *order_in, const int *order_out,
    i64 n_out, i64 room, i64 last, i64 scale, const u64 *slots, i64 mask, i64 low, i64 step_b, i64 step_x, i64 step_y) {
    Wanted w = {queries, deltas, columns, table, order_in, order_out, n_out, room, last, scale};
    look_up(w, InHash{slots, mask, {low, step_b, step_x, step_y}});
}

extern "C" __global__ void look_in_runs(
    const i64 *queries, const i64 *deltas, const i64 *columns, int *table, const int *order_in, const int *order_out,
    i64 n_out, i64 room, i64 last, i64 scale, const ulonglong2 *slots, i64 mask) {
    Wanted w = {queries, deltas, columns, table, order_in, order_out, n_out, room, last, scale};
    look_up(w, InRuns{slots, mask, NONE, 0});
}
