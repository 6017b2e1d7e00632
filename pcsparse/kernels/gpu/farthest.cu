// Farthest-point sampling, a block of threads a cloud, over runs of points along the curve of point_tree.cu.
// A run knows its box and the farthest of its points from all chosen ones; a point that is chosen and is no
// nearer to the box than that changes nothing in the run. Distances: see neighbors.cu.

typedef long long i64;

struct alignas(16) Point { double x, y, z; i64 row; };
struct alignas(16) Node { double low[3], high[3]; i64 row, unused; };

static const int MOST_RUNS = 2049;
// threads that share a run
static const int TEAM = 8;

__device__ static double squared_length(double dx, double dy, double dz) {
    return __dadd_rn(__dadd_rn(__dmul_rn(dx, dx), __dmul_rn(dy, dy)), __dmul_rn(dz, dz));
}

__device__ static double beside(double low, double high, double value) {
    return max(max(__dsub_rn(low, value), __dsub_rn(value, high)), 0.0);
}

struct Farthest {
    double squared;
    int row, at;

    __device__ void take(const Farthest &other) {
        if (other.squared > squared || (other.squared == squared && other.row < row)) *this = other;
    }
    // the farthest of `width` neighbouring lanes; all of the warp must call
    __device__ void share(int width) {
        for (int step = width >> 1; step > 0; step >>= 1) {
            Farthest other;
            other.squared = __shfl_xor_sync(0xffffffffu, squared, step);
            other.row = __shfl_xor_sync(0xffffffffu, row, step);
            other.at = __shfl_xor_sync(0xffffffffu, at, step);
            take(other);
        }
    }
};

// behind all: a chosen point has -1
__device__ static Farthest nowhere() {
    Farthest none = {-2.0, 0x7fffffff, 0};
    return none;
}

extern "C" __global__ void __launch_bounds__(1024) sample_clouds(
    const Point *__restrict__ points, const Node *__restrict__ boxes, const i64 *__restrict__ starts,
    const i64 *__restrict__ first, const i64 *__restrict__ ends, double *nearest, int *chosen, i64 run_bits) {
    __shared__ double far_squared[MOST_RUNS];
    __shared__ int far_at[MOST_RUNS], far_row[MOST_RUNS];
    __shared__ unsigned short touched[MOST_RUNS];
    __shared__ Farthest of_warp[32];
    __shared__ int n_touched, begin_at;
    int thread = threadIdx.x, threads = blockDim.x, lane = thread & 31;
    i64 cloud = blockIdx.x, begin = starts[cloud], end = starts[cloud + 1];
    int count = (int)(ends[cloud + 1] - ends[cloud]);
    if (count == 0) return;
    i64 first_run = begin >> run_bits;
    int runs = (int)(((end - 1) >> run_bits) - first_run) + 1;
    for (i64 p = begin + thread; p < end; p += threads)
        if (points[p].row == first[cloud]) begin_at = (int)p;
    for (int run = thread; run < runs; run += threads)
        far_squared[run] = __longlong_as_double(0x7ff0000000000000LL), far_at[run] = far_row[run] = 0;
    if (thread == 0) n_touched = 0;
    __syncthreads();
    i64 at = begin_at;
    for (int i = 0; i < count; i++) {
        Point last = points[at];
        int mine = (int)((at >> run_bits) - first_run);
        if (thread == 0) chosen[ends[cloud] + i] = (int)last.row;
        for (int run = thread; run < runs; run += threads) {
            Node box = boxes[first_run + run];
            double way = squared_length(
                beside(box.low[0], box.high[0], last.x), beside(box.low[1], box.high[1], last.y),
                beside(box.low[2], box.high[2], last.z));
            // their order does not matter: each is worked on by itself
            if (way < far_squared[run] || run == mine) touched[atomicAdd(&n_touched, 1)] = (unsigned short)run;
        }
        __syncthreads();
        int n = n_touched;
        for (int base = 0; base < n; base += threads / TEAM) {
            int listed = base + thread / TEAM, run = listed < n ? touched[listed] : 0;
            Farthest far = nowhere();
            if (listed < n) {
                i64 low = max(begin, (first_run + run) << run_bits);
                i64 high = min(end, (first_run + run + 1) << run_bits);
                for (i64 p = low + thread % TEAM; p < high; p += TEAM) {
                    Point point = points[p];
                    double squared = squared_length(
                        __dsub_rn(point.x, last.x), __dsub_rn(point.y, last.y), __dsub_rn(point.z, last.z));
                    // less than any distance: it is not chosen again
                    if (p == at) squared = -1.0;
                    double before = i == 0 ? squared : nearest[p];
                    squared = min(squared, before);
                    if (i == 0 || squared < before) nearest[p] = squared;
                    Farthest found = {squared, (int)point.row, (int)p};
                    far.take(found);
                }
            }
            far.share(TEAM);
            if (listed < n && thread % TEAM == 0)
                far_squared[run] = far.squared, far_row[run] = far.row, far_at[run] = far.at;
        }
        __syncthreads();
        if (thread == 0) n_touched = 0;
        Farthest far = nowhere();
        for (int run = thread; run < runs; run += threads) {
            Farthest found = {far_squared[run], far_row[run], far_at[run]};
            far.take(found);
        }
        far.share(32);
        if (lane == 0) of_warp[thread >> 5] = far;
        __syncthreads();
        // every warp for itself; the next writes to of_warp are two barriers away
        far = lane < threads >> 5 ? of_warp[lane] : nowhere();
        far.share(32);
        at = far.at;
    }
}
