// residual_block: out = leaky(W2 * leaky(W1 * x)) + x with convolutions of 3 x 3, and what the mean
// of out is made of, in one kernel: the map between the two is never written.
//
//   x, out     (N, height, width, 32) __half, channels last
//   weights_1, weights_2   (9, 32, 32) float: tap (row first), output channel, input channel
//   partials   (N, gridDim.x, 32) float: sums of out, before it is rounded, over the tiles of one
//              block, times `scale`
//
// Both convolutions round as TensorRT's do: FP16 inputs and weights, sums in FP32, the map between
// them in FP16. Zeros stand beyond the border of x and of that map.
//
// A tile is 16 x 30 pixels of out, made of 18 x 32 of the map between, made of 20 x 34 of x: the
// widths are such that the map between is whole rows of 16 pixels, the rows of the tensor cores'
// matrices; its taps are the same rows, shifted. Arithmetic beyond the least: 20 % of the first
// convolution, 7 % of the second. A pixel takes 80 bytes of shared memory, 64 and 16 that keep
// eight neighbours in different banks. The next tile of x arrives while one is worked on.
//
// Bytes: 4 an element and 42 % of halo, which the second level cache has: at 32 x 544 x 960 67 MB,
// 22 us at 3.0 TB/s; arithmetic 10.9 GMAC. Two convolutions of TensorRT's and residual_sum: 234 MB.
//
// Thread mapping: one block of 12 warps a multiprocessor, which goes round the tiles, blockIdx.y is
// the image; a warp has three rows of 16 pixels by all 32 channels at once
// (BLOCK_WARPS may be 6, 9 or 18 as well).
#include "tensor_cores.cuh"

#ifndef BLOCK_WARPS
#define BLOCK_WARPS 12
#endif

namespace block {
enum {
    channels = 32, pitch = 40,                  // halves of a pixel, and of its place
    rows = 16, columns = 30,                    // of a tile of out
    between_rows = rows + 2, between_columns = columns + 2,
    x_rows = rows + 4, x_columns = columns + 4,
    warps = BLOCK_WARPS, threads = 32 * warps,
    runs = 36 / warps,                          // of 16 pixels, of a warp
    x_size = x_rows * x_columns * pitch,
    // The last run's taps read two pixels beyond; what they make is not kept.
    between_size = (between_rows * between_columns + 2) * pitch,
    weights_size = 9 * channels * pitch,
    shared_halves = 2 * weights_size + 2 * x_size + between_size,
    shared_bytes = 2 * shared_halves,
};
static_assert(warps * runs * 16 == between_rows * between_columns, "all runs of the map between");

struct Tile { int top, left; };

__device__ __forceinline__ Tile tile_at(int index, int across) {
    return {index / across * rows, index % across * columns};
}

// Asks for a tile of x, with zeros beyond the frame.
__device__ __forceinline__ void ask_for(const __half* x, const Tile& tile, int height, int width,
                                        __half* out) {
    for (int i = static_cast<int>(threadIdx.x); i < x_rows * x_columns * 4; i += threads) {
        const int pixel = i / 4;
        const int y = tile.top - 2 + pixel / x_columns;
        const int at = tile.left - 2 + pixel % x_columns;
        const bool inside = y >= 0 && y < height && at >= 0 && at < width;
        const size_t place = inside ? (static_cast<size_t>(y) * width + at) * channels : 0;
        copy_async(out + pixel * pitch + i % 4 * 8, x + place + i % 4 * 8, inside);
    }
}

__device__ __forceinline__ void load_weights(const float* weights, __half* out) {
    // Four in one load and all loads in flight: a small frame waits for them as long as it computes.
#pragma unroll
    for (int i = static_cast<int>(threadIdx.x) * 4; i < 9 * channels * channels; i += threads * 4) {
        Vector<float, 4> four;
        Vector<__half, 4> rounded;
        read_vector(weights + i, four);
#pragma unroll
        for (int e = 0; e < 4; ++e) from_float(four.values[e], rounded.values[e]);
        *reinterpret_cast<Vector<__half, 4>*>(out + i / channels * pitch + i % channels) = rounded;
    }
}

// The sums of a warp's runs: pixels from `places`, each a lane's row of them for tap (0, 0), under
// all taps; `across` pixels lie between one row of the map and the next.
__device__ __forceinline__ void convolve(const __half* const (&places)[runs], int across,
                                         const __half* weights, float (&sums)[runs][4][4]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    // Of the four matrices that a lane's row belongs to one of: outputs 0 or 8, inputs 0 or 8 on.
    const __half* weight = weights + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 8;
#pragma unroll
    for (int run = 0; run < runs; ++run) {
#pragma unroll
        for (int part = 0; part < 4; ++part) {
#pragma unroll
            for (int i = 0; i < 4; ++i) sums[run][part][i] = 0.0f;
        }
    }
    // All nine at once take more registers than there are.
#pragma unroll 3
    for (int tap = 0; tap < 9; ++tap) {
        const int shift = (tap / 3 * across + tap % 3) * pitch;
#pragma unroll
        for (int inputs = 0; inputs < channels; inputs += 16) {
            unsigned outputs[2][4];
            load_fragments(weight + tap * channels * pitch + inputs, outputs[0]);
            load_fragments(weight + (tap * channels + 16) * pitch + inputs, outputs[1]);
#pragma unroll
            for (int run = 0; run < runs; ++run) {
                unsigned pixels[4];
                load_fragments(places[run] + shift + inputs, pixels);
#pragma unroll
                for (int part = 0; part < 4; ++part) {
                    multiply_add(pixels, outputs[part / 2][part % 2 * 2],
                                 outputs[part / 2][part % 2 * 2 + 1], sums[run][part]);
                }
            }
        }
    }
}

// A lane's two channels of a pixel.
__device__ __forceinline__ void put(__half* place, float first, float second) {
    Vector<__half, 2> pair;
    from_float(first, pair.values[0]);
    from_float(second, pair.values[1]);
    *reinterpret_cast<Vector<__half, 2>*>(place) = pair;
}

__device__ __forceinline__ float leaky(float value, float slope) {
    return value > 0.0f ? value : slope * value;
}

// The map between, from a tile of x.
__device__ __forceinline__ void make_between(const __half* x, const __half* weights,
                                             const Tile& tile, int height, int width, float slope,
                                             __half* between) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first = static_cast<int>(threadIdx.x) / 32 * runs;
    const __half* places[runs];
#pragma unroll
    for (int run = 0; run < runs; ++run) {
        const int pixel = (first + run) * 16 + lane % 16;
        const int row = pixel / between_columns;
        const int column = pixel % between_columns;
        places[run] = x + (row * x_columns + column) * pitch + lane / 16 * 8;
    }
    float sums[runs][4][4];
    convolve(places, x_columns, weights, sums);
#pragma unroll
    for (int run = 0; run < runs; ++run) {
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
            const int pixel = (first + run) * 16 + lower * 8 + lane / 4;
            const int y = tile.top - 1 + pixel / between_columns;
            const int at = tile.left - 1 + pixel % between_columns;
            const bool inside = y >= 0 && y < height && at >= 0 && at < width;
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const float* pair = sums[run][part] + 2 * lower;
                put(between + pixel * pitch + part * 8 + lane % 4 * 2,
                    inside ? leaky(pair[0], slope) : 0.0f, inside ? leaky(pair[1], slope) : 0.0f);
            }
        }
    }
}

// A tile of out, in place of that of x; adds what each lane has of it to `total`.
__device__ __forceinline__ void make_out(const __half* between, const __half* weights,
                                         const Tile& tile, int height, int width, float slope,
                                         __half* x, float (&total)[4][2]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int first = static_cast<int>(threadIdx.x) / 32 * runs;
    // Two runs of 16 pixels a row, of which the last two pixels are beyond the tile; the last warps
    // have runs beyond the last row, which read what is there.
    const __half* places[runs];
#pragma unroll
    for (int run = 0; run < runs; ++run) {
        const int pixel = min(first + run, 2 * rows - 1) * 16 + lane % 16;
        places[run] = between + pixel * pitch + lane / 16 * 8;
    }
    float sums[runs][4][4];
    convolve(places, between_columns, weights, sums);
#pragma unroll
    for (int run = 0; run < runs; ++run) {
#pragma unroll
        for (int lower = 0; lower < 2; ++lower) {
            const int pixel = (first + run) * 16 + lower * 8 + lane / 4;
            const int row = pixel / between_columns;
            const int column = pixel % between_columns;
            const bool kept = row < rows && column < columns && tile.top + row < height &&
                              tile.left + column < width;
            if (!kept) continue;
            __half* place = x + ((row + 2) * x_columns + column + 2) * pitch + lane % 4 * 2;
#pragma unroll
            for (int part = 0; part < 4; ++part) {
                const Vector<__half, 2> skip =
                    *reinterpret_cast<const Vector<__half, 2>*>(place + part * 8);
                const float* pair = sums[run][part] + 2 * lower;
                const float one = leaky(pair[0], slope) + to_float(skip.values[0]);
                const float other = leaky(pair[1], slope) + to_float(skip.values[1]);
                total[part][0] += one;
                total[part][1] += other;
                put(place + part * 8, one, other);
            }
        }
    }
}

__device__ __forceinline__ void write_out(const __half* x, const Tile& tile, int height, int width,
                                          __half* out) {
    for (int i = static_cast<int>(threadIdx.x); i < rows * columns * 4; i += threads) {
        const int pixel = i / 4;
        const int row = pixel / columns;
        const int column = pixel % columns;
        const int y = tile.top + row;
        const int at = tile.left + column;
        if (y >= height || at >= width) continue;
        Octet octet;
        read_vector(x + ((row + 2) * x_columns + column + 2) * pitch + i % 4 * 8, octet);
        write_vector(out + (static_cast<size_t>(y) * width + at) * channels + i % 4 * 8, octet);
    }
}

// A block's row of partials: every lane's sums, in order.
__device__ __forceinline__ void write_partials(const float (&total)[4][2], float scale,
                                               float* scratch, float* partials) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(threadIdx.x) / 32 * 8 + lane / 4;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
        float* place = scratch + row * channels + part * 8 + lane % 4 * 2;
        place[0] = total[part][0] * scale;
        place[1] = total[part][1] * scale;
    }
    __syncthreads();
    float* sums = scratch + 8 * warps * channels;
    ColumnSums<1, 8>(scratch, 8 * warps, channels).sum(nullptr, sums, partials);
}
}  // namespace block

__global__ void __launch_bounds__(block::threads, 1)
    residual_block(const __half* __restrict__ x, const float* __restrict__ weights_1,
                   const float* __restrict__ weights_2, __half* out, float* partials, int height,
                   int width, float slope_1, float slope_2, float scale) {
    using namespace block;
    SHARED_HALVES(memory);
    __half* const first = memory;
    __half* const second = first + weights_size;
    __half* const inputs = second + weights_size;
    __half* const between = inputs + 2 * x_size;
    const size_t image = static_cast<size_t>(blockIdx.y) * height * width * channels;
    const int across = (width + columns - 1) / columns;
    const int tiles = (height + rows - 1) / rows * across;
    const int step = static_cast<int>(gridDim.x);

    int index = static_cast<int>(blockIdx.x);
    if (index < tiles) ask_for(x + image, tile_at(index, across), height, width, inputs);
    end_group();
    load_weights(weights_1, first);
    load_weights(weights_2, second);
    float total[4][2] = {};
    for (int turn = 0; index < tiles; ++turn, index += step) {
        __half* const here = inputs + turn % 2 * x_size;
        if (index + step < tiles) {
            const Tile next = tile_at(index + step, across);
            ask_for(x + image, next, height, width, inputs + (turn + 1) % 2 * x_size);
        }
        end_group();
        wait_for_older_groups();
        __syncthreads();
        const Tile tile = tile_at(index, across);
        make_between(here, first, tile, height, width, slope_1, between);
        __syncthreads();
        make_out(between, second, tile, height, width, slope_2, here, total);
        __syncthreads();
        write_out(here, tile, height, width, out + image);
        // All have read before the tile after the next is asked for.
        __syncthreads();
    }
    float* const row =
        partials + (static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x) * channels;
    write_partials(total, scale, reinterpret_cast<float*>(inputs), row);
}
