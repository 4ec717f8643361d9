// gated_sum: out = u + gate * (x - u), where u is `small` enlarged bilinearly to twice its size.
//
//   x, out   (N, 2 height, 2 width, octets * 8) __half, channels last
//   small    (N, height, width, octets * 8) __half
//   gate     (N, C) float
//
// Bilinear doubling, corners not aligned: pixel 2 i + 1 is 3/4 of small pixel i and 1/4 of i + 1,
// pixel 2 i + 2 the other way round; beyond the border the last pixel stands. TensorRT 8.6 writes
// u, reads it, and sums in passes of its own.
//
// Bytes: 4.5 an element of out. At 32 x 544 x 960 75 MB, 25 us at 3.0 TB/s.
//
// Thread mapping: a thread has the four pixels of out between four neighbours of `small`, of one
// octet: blockIdx.x and threadIdx.x are octets of width + 1 such places, blockIdx.y is the row of
// height + 1, blockIdx.z the image. gridDim.x * blockDim.x is at least (width + 1) * octets.
#include "channels_last.cuh"

// Pixel 2 i + 1 and 2 i + 2 of each channel, of small pixels i and i + 1.
__device__ __forceinline__ void doubled(const Octet& before, const Octet& after, float (&near)[8],
                                        float (&far)[8]) {
#pragma unroll
    for (int e = 0; e < 8; ++e) {
        const float a = to_float(before.values[e]);
        const float b = to_float(after.values[e]);
        near[e] = fmaf(0.25f, b - a, a);
        far[e] = fmaf(0.75f, b - a, a);
    }
}

__global__ void __launch_bounds__(256)
    gated_sum(const __half* __restrict__ x, const __half* __restrict__ small,
              const float* __restrict__ gate, __half* out, int height, int width, int channels,
              int octets) {
    const int item = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    if (item >= (width + 1) * octets) return;
    const int octet = item % octets;
    const int column = item / octets - 1;
    const int row = static_cast<int>(blockIdx.y) - 1;
    const size_t image = blockIdx.z;
    const int rows[2] = {max(row, 0), min(row + 1, height - 1)};
    const int columns[2] = {max(column, 0), min(column + 1, width - 1)};

    Octet corners[2][2], given[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const size_t at = (image * height + rows[i]) * width + columns[j];
            read_vector(small + (at * octets + octet) * 8, corners[i][j]);
        }
    }
    bool inside[2][2];
    size_t places[2][2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const int y = 2 * row + 1 + i;
            const int at = 2 * column + 1 + j;
            inside[i][j] = y >= 0 && y < 2 * height && at >= 0 && at < 2 * width;
            const size_t pixel = (image * 2 * height + max(y, 0)) * 2 * width + max(at, 0);
            places[i][j] = (pixel * octets + octet) * 8;
            if (inside[i][j]) read_vector(x + places[i][j], given[i][j]);
        }
    }
    Vector<float, 4> weights[2] = {};
    const float* own = gate + image * channels + octet * 8;
    read_vector(own, weights[0]);
    if (octet * 8 + 4 < channels) read_vector(own + 4, weights[1]);

    float upper[2][8], lower[2][8];
    doubled(corners[0][0], corners[0][1], upper[0], upper[1]);
    doubled(corners[1][0], corners[1][1], lower[0], lower[1]);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (!inside[i][j]) continue;
            Octet result;
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                const float step = lower[j][e] - upper[j][e];
                const float u = fmaf(i == 0 ? 0.25f : 0.75f, step, upper[j][e]);
                const float gated = fmaf(weights[e / 4].values[e % 4],
                                         to_float(given[i][j].values[e]) - u, u);
                from_float(gated, result.values[e]);
            }
            write_vector(out + places[i][j], result);
        }
    }
}
