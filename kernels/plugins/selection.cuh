// mean_rows: what the mean over the frame of the sum of three maps is made of; select_gate: how
// selective kernel fusion weighs three maps, channel by channel; select_sum: the weighted sum.
//
//   a, b, c, out   (N, positions, octets * 8) __half, channels last
//   rows           (N, gridDim.x, C) float: sums of a + b + c over the positions of one block of
//                  threads, times `scale`; with scale = 1 / positions they add up to the mean
//   squeeze        (C, Z), expand (3, Z, C) float: transposed weights of the convolutions that turn
//                  that mean into three logits for each channel
//   for_a, for_b, for_c   (N, C) float: the softmax over those logits, or any weights
//
//   l_k = expand_k' leaky(squeeze' mean);  for_k = exp(l_k - max l) / sum of exp(l_j - max l);
//   out = for_a a + for_b b + for_c c
//
// In the graph each map's mean takes two stages, and gates, products and sums are nodes of their own:
// some 35 launches.
//
// Bytes: 6 an element for the means and 8 for the sum. At 64 x 256 x 256 25 and 34 MB, 8 and 11 us at
// 3.0 TB/s. select_gate: of partial sums and weights alone, 70 to 200 KB; its time is that of a
// launch and five reductions in a row.
//
// Thread mapping: blockIdx.y is the image; threads of x take octets in turn, two of each map at
// once, so that 6 loads are in flight. blockDim.x is a multiple of `octets`, so that a thread meets
// the same channels always, and at most sum_threads, or select_threads; any gridDim.x is correct.
// select_gate: blockIdx.x is the image; at least C and Z threads.
#include "channels_last.cuh"

enum { select_threads = 256 };

__global__ void __launch_bounds__(sum_threads, 2)
    mean_rows(const __half* __restrict__ a, const __half* __restrict__ b,
              const __half* __restrict__ c, float* rows, long long vectors, int channels,
              int octets, float scale) {
    constexpr int unroll = 2;
    __shared__ float sums[sum_threads * 8];
    __shared__ float scratch[sum_threads];
    const size_t image = static_cast<size_t>(blockIdx.y) * static_cast<size_t>(vectors) * 8;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    float sum[8] = {};
    for (long long i = first; i < vectors; i += unroll * step) {
        Octet given[unroll][3];
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
            if (i + u * step < vectors) {
                const size_t at = image + static_cast<size_t>(i + u * step) * 8;
                read_vector(a + at, given[u][0]);
                read_vector(b + at, given[u][1]);
                read_vector(c + at, given[u][2]);
            }
        }
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
            if (i + u * step < vectors) {
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    sum[e] += to_float(given[u][0].values[e]) + to_float(given[u][1].values[e]) +
                              to_float(given[u][2].values[e]);
                }
            }
        }
    }
    write_row(sum, scale, sums, scratch, rows, channels, octets);
}

__global__ void __launch_bounds__(sum_threads)
    select_gate(const float* __restrict__ rows, const float* __restrict__ squeeze,
                const float* __restrict__ expand, float* for_a, float* for_b, float* for_c,
                int count, int channels, int squeezed, float slope) {
    __shared__ float scratch[4 * sum_threads];
    __shared__ float mean[most_channels], between[most_channels], logits[3][most_channels];
    const int c = static_cast<int>(threadIdx.x);
    const size_t image = blockIdx.x;
    // All is asked for at once, as in fusion_gate.
    const ColumnSums<4, 4> of_rows(rows + image * count * channels, count, channels);
    const ColumnSums<1, 4> squeezing(squeeze, channels, squeezed);
    const int table = squeezed * channels;
    const ColumnSums<4, 4> expanding[3] = {{expand, squeezed, channels},
                                           {expand + table, squeezed, channels},
                                           {expand + 2 * table, squeezed, channels}};
    of_rows.sum(nullptr, scratch, mean);
    squeezing.sum(mean, scratch, between);
    if (c < squeezed) between[c] = between[c] > 0.0f ? between[c] : slope * between[c];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < 3; ++k) expanding[k].sum(between, scratch, logits[k]);
    if (c < channels) {
        const float top = fmaxf(fmaxf(logits[0][c], logits[1][c]), logits[2][c]);
        float powers[3];
#pragma unroll
        for (int k = 0; k < 3; ++k) powers[k] = expf(logits[k][c] - top);
        const float total = powers[0] + powers[1] + powers[2];
        for_a[image * channels + c] = powers[0] / total;
        for_b[image * channels + c] = powers[1] / total;
        for_c[image * channels + c] = powers[2] / total;
    }
}

__global__ void __launch_bounds__(select_threads, 3)
    select_sum(const __half* __restrict__ a, const __half* __restrict__ b,
               const __half* __restrict__ c, const float* __restrict__ for_a,
               const float* __restrict__ for_b, const float* __restrict__ for_c, __half* out,
               long long vectors, int channels, int octets) {
    constexpr int unroll = 2;
    const size_t image = static_cast<size_t>(blockIdx.y) * static_cast<size_t>(vectors) * 8;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int channel = static_cast<int>(threadIdx.x) % octets * 8;
    const size_t own = static_cast<size_t>(blockIdx.y) * channels + channel;
    Vector<float, 4> weights[3][2] = {};
    read_vector(for_a + own, weights[0][0]);
    read_vector(for_b + own, weights[1][0]);
    read_vector(for_c + own, weights[2][0]);
    if (channel + 4 < channels) {
        read_vector(for_a + own + 4, weights[0][1]);
        read_vector(for_b + own + 4, weights[1][1]);
        read_vector(for_c + own + 4, weights[2][1]);
    }
    for (long long i = first; i < vectors; i += unroll * step) {
        Octet given[unroll][3];
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
            if (i + u * step < vectors) {
                const size_t at = image + static_cast<size_t>(i + u * step) * 8;
                read_vector(a + at, given[u][0]);
                read_vector(b + at, given[u][1]);
                read_vector(c + at, given[u][2]);
            }
        }
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
            if (i + u * step < vectors) {
                Octet result;
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    float total = 0.0f;
#pragma unroll
                    for (int k = 0; k < 3; ++k) {
                        total = fmaf(weights[k][e / 4].values[e % 4],
                                     to_float(given[u][k].values[e]), total);
                    }
                    from_float(total, result.values[e]);
                }
                write_vector(out + image + static_cast<size_t>(i + u * step) * 8, result);
            }
        }
    }
}
