// context_rows: what the mean of a map is made of whose weights are a softmax over all positions;
// context_vector: that mean, and what a context block adds to each channel for it.
//
//   x        (N, positions, octets * 8) __half, channels last
//   mask     (C) float: weights of the 1x1 convolution that gives each position p its logit l_p
//   rows     (N, gridDim.x, C + 4) float: of the positions of one block of threads the sum of e_p x_p
//            for each channel, the largest logit m, the sum of e_p, and two zeros; e_p = exp(l_p - m)
//   squeeze  (C, Z), expand (Z, C) float: transposed weights of the convolutions of the mean
//   vector   (N, C) float
//
//   mean = sum of exp(m_r - max m) rows_r over all rows, divided by the same of their sums of e_p;
//   vector = expand' leaky(squeeze' mean)
//
// The softmax is an online one: each thread has the largest logit that it met, and makes its sums
// smaller when it meets a larger one (Milakov and Gimelshein, "Online normalizer calculation for
// softmax", 2018). TensorRT 8.6 takes 15 launches for both, of which some reformat the map.
//
// Bytes: 2 an element, which the second level cache gives once more. At 80 x 256 x 256 10.5 MB.
//
// Thread mapping: blockIdx.y is the image; blocks of x take tiles of positions in turn. For logits
// `context_parts` threads have a position together, for sums a thread has one octet of every
// so-many-th position. Any blockDim.x of at least `octets` and at most sum_threads is correct, as is
// any gridDim.x. context_vector: blockIdx.x is the image; at least C + 4 and Z threads.
#include "channels_last.cuh"

enum { context_tile = 128, context_parts = 4, context_extra = 4 };

#define NO_LOGIT (-3.402823466e38f)

__global__ void __launch_bounds__(sum_threads, 2)
    context_rows(const __half* __restrict__ x, const float* __restrict__ mask, float* rows,
                 int positions, int channels, int octets) {
    __shared__ float weights[most_channels], dots[context_tile * context_parts];
    __shared__ float maxima[sum_threads], totals[sum_threads];
    __shared__ float sums[sum_threads * 8], scratch[sum_threads];
    const int thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
    const int parts = threads / octets;
    const int octet = thread % octets;
    const int part = thread / octets;
    const __half* image = x + static_cast<size_t>(blockIdx.y) * positions * octets * 8;
    for (int c = thread; c < octets * 8; c += threads) {
        weights[c] = c < channels ? mask[c] : 0.0f;
    }
    float largest = NO_LOGIT, total = 0.0f, sum[8] = {};
    const int step = static_cast<int>(gridDim.x) * context_tile;
    for (int first = static_cast<int>(blockIdx.x) * context_tile; first < positions;
         first += step) {
        __syncthreads();
        for (int i = thread; i < context_tile * context_parts; i += threads) {
            const int position = first + i / context_parts;
            float dot = 0.0f;
            if (position < positions) {
#pragma unroll 4
                for (int o = i % context_parts; o < octets; o += context_parts) {
                    Octet given;
                    read_vector(image + (static_cast<size_t>(position) * octets + o) * 8, given);
#pragma unroll
                    for (int e = 0; e < 8; ++e) {
                        dot = fmaf(weights[o * 8 + e], to_float(given.values[e]), dot);
                    }
                }
            }
            dots[i] = dot;
        }
        __syncthreads();
        const int left = positions - first;
        const int count = part >= parts ? 0 : left < context_tile ? left : context_tile;
#pragma unroll 4
        for (int i = part; i < count; i += parts) {
            Octet given;
            read_vector(image + (static_cast<size_t>(first + i) * octets + octet) * 8, given);
            float logit = 0.0f;
#pragma unroll
            for (int k = 0; k < context_parts; ++k) logit += dots[i * context_parts + k];
            const float before = largest;
            largest = fmaxf(largest, logit);
            const float kept = expf(before - largest);
            const float weight = expf(logit - largest);
            total = fmaf(total, kept, weight);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                sum[e] = fmaf(sum[e], kept, weight * to_float(given.values[e]));
            }
        }
    }
    if (octet == 0 && part < parts) maxima[part] = largest;
    __syncthreads();
    float top = NO_LOGIT;
    for (int k = 0; k < parts; ++k) top = fmaxf(top, maxima[k]);
    const float share = expf(largest - top);
#pragma unroll
    for (int e = 0; e < 8; ++e) sums[thread * 8 + e] = sum[e] * share;
    if (octet == 0 && part < parts) totals[part] = total * share;
    __syncthreads();
    const size_t block = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    float* row = rows + block * (channels + context_extra);
    ColumnSums<1, 8>(sums, parts, octets * 8).sum(nullptr, scratch, row, channels);
    if (thread == 0) {
        float all = 0.0f;
        for (int k = 0; k < parts; ++k) all += totals[k];
        row[channels] = top;
        row[channels + 1] = all;
        row[channels + 2] = row[channels + 3] = 0.0f;
    }
}

__global__ void __launch_bounds__(sum_threads, 2)
    context_vector(const float* __restrict__ rows, const float* __restrict__ squeeze,
                   const float* __restrict__ expand, float* vector, int count, int channels,
                   int squeezed, float slope) {
    __shared__ float scratch[4 * sum_threads], weights[sum_threads];
    __shared__ float all[most_channels], mean[most_channels], between[most_channels];
    const int c = static_cast<int>(threadIdx.x);
    const int columns = channels + context_extra;
    const float* own = rows + static_cast<size_t>(blockIdx.x) * count * columns;
    // All is asked for at once, as in fusion_gate.
    const ColumnSums<4, 4> weighted(own, count, columns);
    const ColumnSums<1, 2> squeezing(squeeze, channels, squeezed);
    const ColumnSums<1, 2> expanding(expand, squeezed, channels);
    for (int r = c; r < count; r += static_cast<int>(blockDim.x)) {
        weights[r] = own[static_cast<size_t>(r) * columns + channels];
    }
    __syncthreads();
    float top = NO_LOGIT;
    for (int r = 0; r < count; ++r) top = fmaxf(top, weights[r]);
    __syncthreads();
    for (int r = c; r < count; r += static_cast<int>(blockDim.x)) {
        weights[r] = expf(weights[r] - top);
    }
    __syncthreads();
    weighted.sum(weights, scratch, all);
    if (c < channels) mean[c] = all[c] / all[channels + 1];
    __syncthreads();
    squeezing.sum(mean, scratch, between);
    if (c < squeezed) between[c] = between[c] > 0.0f ? between[c] : slope * between[c];
    __syncthreads();
    expanding.sum(between, scratch, vector + static_cast<size_t>(blockIdx.x) * channels);
}
