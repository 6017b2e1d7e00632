// The nearest points of each query, or the first in its ball, over the tree of point_tree.cu.
// A thread answers a query: queries that are neighbours visit the same nodes, so a warp stays together.
// Every operation on distances is rounded by itself and in the order of the contract, never fused; all are
// monotone, so the distance to a box is no larger than that to a point in it.

typedef long long i64;
typedef unsigned long long u64;

struct alignas(16) Point { double x, y, z; i64 row; };
struct alignas(16) Node { double low[3], high[3]; i64 row, unused; };

static const int LEAF_BITS = 3, FAN_BITS = 2;
static const int NO_NEIGHBOUR = -1, NO_ROW = 0x7fffffff;

__device__ static double squared_length(double dx, double dy, double dz) {
    return __dadd_rn(__dadd_rn(__dmul_rn(dx, dx), __dmul_rn(dy, dy)), __dmul_rn(dz, dz));
}

__device__ static double beside(double low, double high, double value) {
    return max(max(__dsub_rn(low, value), __dsub_rn(value, high)), 0.0);
}

template <bool BY_ROW> __device__ static bool ranks_before(double a, int a_row, double b, int b_row) {
    return BY_ROW ? a_row < b_row : a < b || (a == b && a_row < b_row);
}

// what an entry that is still free holds: it ranks behind all that count
template <bool BY_ROW> __device__ static int free_row() { return BY_ROW ? NO_ROW : NO_NEIGHBOUR; }

// the best few, ascending, in registers; the first ones are below all others where k < K
template <int K, bool BY_ROW> struct Ascending {
    double squared[K];
    int rows[K];

    __device__ void clear(double *, int *, int k, double limit) {
#pragma unroll
        for (int i = 0; i < K; i++) {
            bool is_used = i >= K - k;
            squared[i] = is_used ? limit : -1.0;
            rows[i] = is_used ? free_row<BY_ROW>() : -2;
        }
    }
    __device__ double worst() const { return squared[K - 1]; }
    __device__ int worst_row() const { return rows[K - 1]; }
    __device__ void insert(double distance, int row) {
#pragma unroll
        for (int i = K - 1; i > 0; i--) {
            bool moves = ranks_before<BY_ROW>(distance, row, squared[i - 1], rows[i - 1]);
            bool comes = ranks_before<BY_ROW>(distance, row, squared[i], rows[i]);
            squared[i] = moves ? squared[i - 1] : comes ? distance : squared[i];
            rows[i] = moves ? rows[i - 1] : comes ? row : rows[i];
        }
        if (ranks_before<BY_ROW>(distance, row, squared[0], rows[0])) squared[0] = distance, rows[0] = row;
    }
    __device__ void write(double *squared_out, int *rows_out, int k) const {
#pragma unroll
        for (int i = 0; i < K; i++) {
            if (i < K - k) continue;
            bool is_free = rows[i] == free_row<BY_ROW>();
            rows_out[i - (K - k)] = is_free ? NO_NEIGHBOUR : rows[i];
            squared_out[i - (K - k)] = is_free ? __longlong_as_double(0x7ff0000000000000LL) : squared[i];
        }
    }
};

// the best k as a heap in the results' own memory, the worst on top: for k beyond what registers hold
template <bool BY_ROW> struct Heap {
    double *squared;
    int *rows, size;

    __device__ void clear(double *squared_out, int *rows_out, int k, double limit) {
        squared = squared_out, rows = rows_out, size = k;
        for (int i = 0; i < k; i++) squared[i] = limit, rows[i] = free_row<BY_ROW>();
    }
    __device__ double worst() const { return squared[0]; }
    __device__ int worst_row() const { return rows[0]; }
    __device__ void insert(double distance, int row) { sift(distance, row, size); }
    // an entry takes the place of the top in a heap of n
    __device__ void sift(double distance, int row, int n) {
        int at = 0;
        for (int child = 1; child < n; child = 2 * at + 1) {
            if (child + 1 < n &&
                ranks_before<BY_ROW>(squared[child], rows[child], squared[child + 1], rows[child + 1]))
                child++;
            if (!ranks_before<BY_ROW>(distance, row, squared[child], rows[child])) break;
            squared[at] = squared[child], rows[at] = rows[child];
            at = child;
        }
        squared[at] = distance, rows[at] = row;
    }
    __device__ void write(double *, int *, int k) {
        for (int n = k - 1; n > 0; n--) {
            double distance = squared[n];
            int row = rows[n];
            squared[n] = squared[0], rows[n] = rows[0];
            sift(distance, row, n);
        }
        for (int i = 0; i < k; i++) {
            if (rows[i] != free_row<BY_ROW>()) continue;
            squared[i] = __longlong_as_double(0x7ff0000000000000LL), rows[i] = NO_NEIGHBOUR;
        }
    }
};

template <class Best, bool BY_ROW> struct Query {
    Best best;
    double x, y, z, limit;

    __device__ void look_at(const Point *points, i64 begin, i64 end) {
        for (i64 p = begin; p < end; p++) {
            Point point = points[p];
            double distance =
                squared_length(__dsub_rn(point.x, x), __dsub_rn(point.y, y), __dsub_rn(point.z, z));
            int row = (int)point.row;
            if (BY_ROW ? distance < limit && row < best.worst_row()
                       : ranks_before<false>(distance, row, best.worst(), best.worst_row()))
                best.insert(distance, row);
        }
    }
    __device__ bool may_be_in(const Node &node) const {
        double way = squared_length(
            beside(node.low[0], node.high[0], x), beside(node.low[1], node.high[1], y),
            beside(node.low[2], node.high[2], z));
        return BY_ROW ? way < limit && node.row < best.worst_row()
                      : ranks_before<false>(way, (int)node.row, best.worst(), best.worst_row());
    }
};

__device__ static i64 cloud_of(const i64 *starts, i64 clouds, i64 i) {
    i64 low = 0, high = clouds;
    while (high - low > 1) {
        i64 middle = (low + high) >> 1;
        if (starts[middle] <= i) low = middle;
        else high = middle;
    }
    return low;
}

// the leaf in which a key is, or would be, among those of a cloud that is not empty
__device__ static i64 leaf_of(const i64 *keys, i64 begin, i64 end, i64 key) {
    i64 low = begin, high = end - 1;
    while (low < high) {
        i64 middle = (low + high) >> 1;
        if (keys[middle] < key) low = middle + 1;
        else high = middle;
    }
    return low >> LEAF_BITS;
}

template <class Best, bool BY_ROW>
__device__ static void search(
    const Point *__restrict__ points, const i64 *__restrict__ keys, const Node *__restrict__ nodes,
    const i64 *__restrict__ starts, const float *__restrict__ queries, const i64 *__restrict__ query_keys,
    const i64 *__restrict__ query_starts, const i64 *__restrict__ order, int *rows, double *squared, i64 n,
    i64 m, i64 clouds, i64 k, i64 limit_bits, i64 top) {
    i64 at = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= m) return;
    if (order) at = order[at];
    i64 cloud = cloud_of(query_starts, clouds, at);
    i64 begin = starts[cloud], end = starts[cloud + 1];
    Query<Best, BY_ROW> query;
    query.x = queries[3 * at], query.y = queries[3 * at + 1], query.z = queries[3 * at + 2];
    query.limit = __longlong_as_double(limit_bits);
    query.best.clear(squared + at * k, rows + at * k, (int)k, query.limit);
    if (begin < end) {
        i64 first = begin >> LEAF_BITS, seen_from = first, seen_to = first;
        if (!BY_ROW) {
            // points beside it on the curve are near: with their distances most nodes are told off
            i64 own = leaf_of(keys, begin, end, query_keys[at]), few = (k >> (LEAF_BITS + 1)) + 1;
            seen_from = max(first, own - few);
            seen_to = min(((end - 1) >> LEAF_BITS) + 1, own + few + 1);
            query.look_at(points, max(begin, seen_from << LEAF_BITS), min(end, seen_to << LEAF_BITS));
        }
        // nodes in the order of the curve: into one, or past it and up where it was the last of its parent's
        i64 level = 0, node = first, offset = 0;
        for (bool is_past = true;;) {
            while (is_past && level < top && (node & ((1 << FAN_BITS) - 1)) == 0) {
                offset += ((n - 1) >> (LEAF_BITS + FAN_BITS * level)) + 1;
                level++;
                node >>= FAN_BITS;
            }
            if (node << (LEAF_BITS + FAN_BITS * level) >= end) break;
            is_past = level == 0 || !query.may_be_in(nodes[offset + node]);
            if (!is_past) {
                level--;
                node <<= FAN_BITS;
                offset -= ((n - 1) >> (LEAF_BITS + FAN_BITS * level)) + 1;
                continue;
            }
            bool is_new = level == 0 && (node < seen_from || node >= seen_to);
            if (is_new && query.may_be_in(nodes[offset + node]))
                query.look_at(points, max(begin, node << LEAF_BITS), min(end, (node + 1) << LEAF_BITS));
            node++;
        }
    }
    query.best.write(squared + at * k, rows + at * k, (int)k);
}

#define ARGUMENTS                                                                                             \
    const Point *points, const i64 *keys, const Node *nodes, const i64 *starts, const float *queries,         \
        const i64 *query_keys, const i64 *query_starts, const i64 *order, int *rows, double *squared, i64 n,  \
        i64 m, i64 clouds, i64 k, i64 limit_bits, i64 top
#define GIVEN                                                                                                 \
    points, keys, nodes, starts, queries, query_keys, query_starts, order, rows, squared, n, m, clouds, k,    \
        limit_bits, top
// a kernel for lists of up to so many
#define SEARCH(NAME, BEST, BY_ROW)                                                                            \
    extern "C" __global__ void __launch_bounds__(128) NAME(ARGUMENTS) { search<BEST, BY_ROW>(GIVEN); }
typedef Ascending<4, false> Nearest4;
typedef Ascending<8, false> Nearest8;
typedef Ascending<16, false> Nearest16;
typedef Ascending<32, false> Nearest32;
typedef Ascending<16, true> First16;

SEARCH(nearest_4, Nearest4, false)
SEARCH(nearest_8, Nearest8, false)
SEARCH(nearest_16, Nearest16, false)
SEARCH(nearest_32, Nearest32, false)
SEARCH(nearest_any, Heap<false>, false)
SEARCH(first_16, First16, true)
SEARCH(first_any, Heap<true>, true)
