// Points along a curve that fills space, and boxes around runs of them: what neighbours are looked for in.
// The order of points is a matter of speed only, so here alone roundings do not count.

typedef long long i64;
typedef unsigned long long u64;

struct alignas(16) Point { double x, y, z; i64 row; };
// a box, and the lowest row in it
struct alignas(16) Node { double low[3], high[3]; i64 row, unused; };

// bits of a key: 11 of the cloud, three times these
static const int CELL_BITS = 17;
static const int SAMPLES = 64;

__device__ static i64 cloud_of(const i64 *starts, i64 clouds, i64 i) {
    i64 low = 0, high = clouds;
    while (high - low > 1) {
        i64 middle = (low + high) >> 1;
        if (starts[middle] <= i) low = middle;
        else high = middle;
    }
    return low;
}

__device__ static u64 spread(u64 v) {
    v = (v | v << 32) & 0x001f00000000ffffull;
    v = (v | v << 16) & 0x001f0000ff0000ffull;
    v = (v | v << 8) & 0x100f00f00f00f00full;
    v = (v | v << 4) & 0x10c30c30c30c30c3ull;
    return (v | v << 2) & 0x1249249249249249ull;
}

// frame (4,): the corner of the cells, and cells a metre. One warp. Lanes see samples that are spread over all
// points; the highest of their lowest is near the 5th percentile, and strays widen the frame threefold at most
extern "C" __global__ void find_frame(const float *points, double *frame, i64 n) {
    int lane = threadIdx.x & 31;
    i64 step = max(n / (32 * SAMPLES), 1LL);
    const float none = __int_as_float(0x7f800000);
    float least[3] = {none, none, none}, most[3] = {-none, -none, -none};
#pragma unroll 8
    for (int i = 0; i < SAMPLES; i++) {
        // the last point again, where there are few: then no load waits for a question
        i64 at = min(((i64)i * 32 + lane) * step, n - 1);
#pragma unroll
        for (int axis = 0; axis < 3; axis++) {
            float value = points[3 * at + axis];
            least[axis] = min(least[axis], value);
            most[axis] = max(most[axis], value);
        }
    }
    double reach = 0, low[3], high[3], first[3], last[3];
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        float outer_low = least[axis], outer_high = most[axis];
        float inner_low = least[axis], inner_high = most[axis];
        for (int s = 16; s > 0; s >>= 1) {
            outer_low = min(outer_low, __shfl_xor_sync(0xffffffffu, outer_low, s));
            outer_high = max(outer_high, __shfl_xor_sync(0xffffffffu, outer_high, s));
            inner_low = max(inner_low, __shfl_xor_sync(0xffffffffu, inner_low, s));
            inner_high = min(inner_high, __shfl_xor_sync(0xffffffffu, inner_high, s));
        }
        first[axis] = outer_low;
        last[axis] = outer_high;
        low[axis] = inner_low;
        high[axis] = inner_high;
        reach = max(reach, 3 * (high[axis] - low[axis]));
    }
    double extent = 0;
#pragma unroll
    for (int axis = 0; axis < 3; axis++) {
        // few samples, or most of them in one place, say nothing of the others
        low[axis] = reach > 0 ? max(first[axis], low[axis] - reach) : first[axis];
        high[axis] = reach > 0 ? min(last[axis], high[axis] + reach) : last[axis];
        extent = max(extent, high[axis] - low[axis]);
    }
    if (lane == 0) {
        for (int axis = 0; axis < 3; axis++) frame[axis] = low[axis];
        frame[3] = extent > 0 ? ((1 << CELL_BITS) - 1) / extent : 0;
    }
}

extern "C" __global__ void place_points(
    const float *points, const i64 *starts, const double *frame, i64 *keys, i64 n, i64 clouds) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    u64 key = (u64)cloud_of(starts, clouds, i) << (3 * CELL_BITS);
    for (int axis = 0; axis < 3; axis++) {
        double cell = (points[3 * i + axis] - frame[axis]) * frame[3];
        cell = min(max(cell, 0.0), (double)((1 << CELL_BITS) - 1));
        key |= spread((u64)cell) << axis;
    }
    keys[i] = (i64)key;
}

extern "C" __global__ void take_points(const float *points, const i64 *order, Point *sorted, i64 n) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    i64 row = order[i];
    Point point = {points[3 * row], points[3 * row + 1], points[3 * row + 2], row};
    sorted[i] = point;
}

extern "C" __global__ void box_points(const Point *sorted, Node *nodes, i64 n, i64 leaf_bits, i64 count) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    i64 begin = i << leaf_bits, end = min(n, (i + 1) << leaf_bits);
    Point point = sorted[begin];
    Node node = {{point.x, point.y, point.z}, {point.x, point.y, point.z}, point.row, 0};
    for (i64 p = begin + 1; p < end; p++) {
        point = sorted[p];
        node.low[0] = min(node.low[0], point.x), node.high[0] = max(node.high[0], point.x);
        node.low[1] = min(node.low[1], point.y), node.high[1] = max(node.high[1], point.y);
        node.low[2] = min(node.low[2], point.z), node.high[2] = max(node.high[2], point.z);
        node.row = min(node.row, point.row);
    }
    nodes[i] = node;
}

// nodes of one level from those below, which begin at `from`; there are `children` of them
extern "C" __global__ void box_nodes(Node *nodes, i64 from, i64 children, i64 fan_bits, i64 to, i64 count) {
    i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    i64 begin = i << fan_bits, end = min(children, (i + 1) << fan_bits);
    Node node = nodes[from + begin];
    for (i64 p = begin + 1; p < end; p++) {
        Node child = nodes[from + p];
        for (int axis = 0; axis < 3; axis++) {
            node.low[axis] = min(node.low[axis], child.low[axis]);
            node.high[axis] = max(node.high[axis], child.high[axis]);
        }
        node.row = min(node.row, child.row);
    }
    nodes[to + i] = node;
}
