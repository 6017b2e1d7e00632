// Layers in EIE's format by rows, for activations that are seldom 0.
// Weights of a row lie in chunks of 16 bytes, which a lane reads at once: a first column of four bytes, then
// offsets from it of a byte each, then codes: 8 weights with codes of half a byte, 6 with codes of a byte. A
// part of the columns is numbered anew, so that its activations fit into shared memory.

typedef long long i64;

static const int PART = 8192, MOST_GAP = 255, THREADS = 512;

// what is in a chunk, by the bits of a code
template <bool WIDE> struct Chunk {
    static const int SLOTS = WIDE ? 6 : 8;
    static const int CODES = 4 + SLOTS;

    __device__ static int byte_of(uint4 chunk, int i) {
        unsigned word = i < 4 ? chunk.x : i < 8 ? chunk.y : i < 12 ? chunk.z : chunk.w;
        return (int)(word >> 8 * (i % 4) & 255u);
    }
    __device__ static int offset(uint4 chunk, int slot) { return byte_of(chunk, 4 + slot); }
    __device__ static int code(uint4 chunk, int slot) {
        return WIDE ? byte_of(chunk, CODES + slot) : (int)(chunk.w >> 4 * slot & 15u);
    }
};

// chunks of each row and part; a thread a row. `counts` (n_out, n_parts) if `chunks` is null, else its sums
template <bool WIDE>
__device__ static void lay_out(
    const i64 *starts, const int *columns, const unsigned char *codes, i64 *counts, unsigned char *chunks,
    i64 n_out, i64 n_parts) {
    i64 row = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (row >= n_out) return;
    i64 entry = starts[row], end = starts[row + 1];
    for (i64 part = 0; part < n_parts; part++) {
        i64 made = 0, base = chunks ? counts[row * n_parts + part] : 0;
        int slot = Chunk<WIDE>::SLOTS, first = 0;
        for (; entry < end && columns[entry] < (part + 1) * PART; entry++) {
            int column = (int)(columns[entry] - part * PART);
            if (slot == Chunk<WIDE>::SLOTS || column - first > MOST_GAP) {
                slot = 0;
                first = column;
                made++;
                if (chunks) *(int *)(chunks + 16 * (base + made - 1)) = column;
            }
            if (chunks) {
                unsigned char *chunk = chunks + 16 * (base + made - 1);
                chunk[4 + slot] = (unsigned char)(column - first);
                if (WIDE) chunk[Chunk<WIDE>::CODES + slot] = codes[entry];
                else chunk[Chunk<WIDE>::CODES + slot / 2] |= (unsigned char)(codes[entry] << 4 * (slot % 2));
            }
            slot++;
        }
        if (!chunks) counts[row * n_parts + part] = made;
    }
}

extern "C" __global__ void eie_lay_rows_narrow(
    const i64 *starts, const int *columns, const unsigned char *codes, i64 *counts, unsigned char *chunks,
    i64 n_out, i64 n_parts) {
    lay_out<false>(starts, columns, codes, counts, chunks, n_out, n_parts);
}

extern "C" __global__ void eie_lay_rows_wide(
    const i64 *starts, const int *columns, const unsigned char *codes, i64 *counts, unsigned char *chunks,
    i64 n_out, i64 n_parts) {
    lay_out<true>(starts, columns, codes, counts, chunks, n_out, n_parts);
}

// `lanes` (a power of two up to 32) of a warp share a row; `pointers` (n_out * n_parts + 1,)
template <bool WIDE>
__device__ static void multiply(
    const float *__restrict__ x, const uint4 *__restrict__ chunks, const int *__restrict__ pointers,
    const float *__restrict__ codebook, const float *bias, float *out, i64 n_items, i64 n_in, i64 n_out,
    i64 n_parts, i64 lanes, i64 relu) {
    __shared__ float given[PART];
    __shared__ float book[WIDE ? 256 : 16];
    // 32 bits where they do: a division of 64 is a hundred instructions
    unsigned rows = THREADS / (unsigned)lanes, blocks = ((unsigned)n_out + rows - 1) / rows;
    i64 item = blockIdx.x / blocks, row = (i64)(blockIdx.x % blocks) * rows + threadIdx.x / (unsigned)lanes;
    int lane = (int)(threadIdx.x % (unsigned)lanes);
    bool is_row = row < n_out;
    if (threadIdx.x < (WIDE ? 256 : 16)) book[threadIdx.x] = codebook[threadIdx.x];
    const uint4 nothing = {0, 0, 0, 0};
    float sum = 0;
    for (i64 part = 0; part < n_parts; part++) {
        int at = is_row ? pointers[row * n_parts + part] + lane : 0;
        int end = is_row ? pointers[row * n_parts + part + 1] : 0;
        // on its way while the activations come
        uint4 chunk = at < end ? chunks[at] : nothing;
        int here = (int)min((i64)PART, n_in - part * PART);
        for (int i = threadIdx.x; i < here; i += THREADS) given[i] = x[item * n_in + part * PART + i];
        __syncthreads();
        while (at < end) {
            at += (int)lanes;
            uint4 next = at < end ? chunks[at] : nothing;
#pragma unroll
            for (int slot = 0; slot < Chunk<WIDE>::SLOTS; slot++) {
                int code = Chunk<WIDE>::code(chunk, slot);
                float product = fmaf(book[code], given[chunk.x + Chunk<WIDE>::offset(chunk, slot)], sum);
                // a slot that is empty adds nothing, whatever the activation
                sum = code != 0 ? product : sum;
            }
            chunk = next;
        }
        __syncthreads();
    }
    for (int step = (int)lanes >> 1; step > 0; step >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, step);
    if (!is_row || lane != 0) return;
    if (bias) sum += bias[row];
    // a NaN stays one
    out[item * n_out + row] = relu && sum < 0 ? 0.0f : sum;
}

extern "C" __global__ void __launch_bounds__(THREADS) eie_rows_narrow(
    const float *x, const uint4 *chunks, const int *pointers, const float *codebook, const float *bias,
    float *out, i64 n_items, i64 n_in, i64 n_out, i64 n_parts, i64 lanes, i64 relu) {
    multiply<false>(x, chunks, pointers, codebook, bias, out, n_items, n_in, n_out, n_parts, lanes, relu);
}

extern "C" __global__ void __launch_bounds__(THREADS) eie_rows_wide(
    const float *x, const uint4 *chunks, const int *pointers, const float *codebook, const float *bias,
    float *out, i64 n_items, i64 n_in, i64 n_out, i64 n_parts, i64 lanes, i64 relu) {
    multiply<true>(x, chunks, pointers, codebook, bias, out, n_items, n_in, n_out, n_parts, lanes, relu);
}
