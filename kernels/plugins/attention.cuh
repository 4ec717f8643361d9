// The attention of a dual attention unit, over features y: attention_pools, what both of its halves
// are made of; channel_gate, the weights of channels; dual_gate, both weighted copies of y.
//
//   y        (N, height, width, octets * 8) __half, channels last
//   planes   (N, 2, height, width) float: of each position the largest of its channels, and their
//            mean
//   rows     (N, gridDim.x, C) float: sums of y over the positions of one block of threads, times
//            `scale`; with scale = 1 / positions they add up to the mean over the frame
//   squeeze  (C, Z), expand (Z, C) float: transposed weights
//   gate     (N, C) float: 1 / (1 + exp(-expand' leaky(squeeze' mean)))
//   spatial  (2, 5, 5) float: weights of the convolution of the planes, zeros beyond the border
//   out      (N, height, width, 2 * octets * 8) __half: y times 1 / (1 + exp(-spatial * planes)) of
//            its position, and y times the gate of its channel, one after the other; C = 8 * octets
//
// TensorRT 8.6 takes 17 launches for all this, each pool of y one or two passes over it.
//
// Bytes: 2 an element for the pools, 6 for both copies. At 64 x 256 x 256 8.4 and 25 MB.
//
// Thread mapping: attention_pools: blockIdx.y is the image; a thread has one octet of
// `pools_unroll` positions at once, blocks of x take them in turn; blockDim.x is a multiple of
// `octets`. channel_gate: blockIdx.x is the image; at least C and Z threads. dual_gate: blockIdx.x
// is a run of `gate_run` positions, blockIdx.y the image; gate_run * gate_parts threads.
#include "channels_last.cuh"

enum { pools_unroll = 4, gate_run = 64, gate_parts = 4, gate_side = 5 };

__global__ void __launch_bounds__(sum_threads, 2)
    attention_pools(const __half* __restrict__ y, float* planes, float* rows, int positions,
                    int channels, int octets, float scale) {
    __shared__ float maxima[pools_unroll * sum_threads], totals[pools_unroll * sum_threads];
    __shared__ float sums[sum_threads * 8], scratch[sum_threads];
    const int thread = static_cast<int>(threadIdx.x);
    const int threads = static_cast<int>(blockDim.x);
    const int octet = thread % octets;
    const int part = thread / octets;
    const int parts = threads / octets;
    const int run = pools_unroll * parts;
    const __half* image = y + static_cast<size_t>(blockIdx.y) * positions * octets * 8;
    float* largest = planes + static_cast<size_t>(blockIdx.y) * 2 * positions;
    const int there = min(8, channels - octet * 8);  // in this octet, beside the zeros that fill it
    float sum[8] = {};
    const int step = static_cast<int>(gridDim.x) * run;
    for (int first = static_cast<int>(blockIdx.x) * run; first < positions; first += step) {
        Octet given[pools_unroll];
#pragma unroll
        for (int u = 0; u < pools_unroll; ++u) {
            const int position = first + u * parts + part;
            if (position < positions) {
                read_vector(image + (static_cast<size_t>(position) * octets + octet) * 8, given[u]);
            }
        }
#pragma unroll
        for (int u = 0; u < pools_unroll; ++u) {
            if (first + u * parts + part >= positions) continue;
            float most = to_float(given[u].values[0]), total = 0.0f;
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                const float value = to_float(given[u].values[e]);
                if (e < there) most = fmaxf(most, value);
                total += value;
                sum[e] += value;
            }
            maxima[u * threads + thread] = most;
            totals[u * threads + thread] = total;
        }
        __syncthreads();
        for (int i = thread; i < run && first + i < positions; i += threads) {
            float most = maxima[i * octets], total = 0.0f;
            for (int o = 0; o < octets; ++o) {
                most = fmaxf(most, maxima[i * octets + o]);
                total += totals[i * octets + o];
            }
            largest[first + i] = most;
            largest[positions + first + i] = total / static_cast<float>(channels);
        }
        __syncthreads();
    }
    write_row(sum, scale, sums, scratch, rows, channels, octets);
}

__global__ void __launch_bounds__(sum_threads, 2)
    channel_gate(const float* __restrict__ rows, const float* __restrict__ squeeze,
                 const float* __restrict__ expand, float* gate, int count, int channels,
                 int squeezed, float slope) {
    __shared__ float scratch[4 * sum_threads];
    __shared__ float mean[most_channels], between[most_channels], logits[most_channels];
    const int c = static_cast<int>(threadIdx.x);
    const size_t image = blockIdx.x;
    // All is asked for at once, as in fusion_gate.
    const ColumnSums<4, 4> of_rows(rows + image * count * channels, count, channels);
    const ColumnSums<1, 2> squeezing(squeeze, channels, squeezed);
    const ColumnSums<1, 2> expanding(expand, squeezed, channels);
    of_rows.sum(nullptr, scratch, mean);
    squeezing.sum(mean, scratch, between);
    if (c < squeezed) between[c] = between[c] > 0.0f ? between[c] : slope * between[c];
    __syncthreads();
    expanding.sum(between, scratch, logits);
    if (c < channels) gate[image * channels + c] = 1.0f / (1.0f + expf(-logits[c]));
}

__global__ void __launch_bounds__(gate_run* gate_parts)
    dual_gate(const __half* __restrict__ y, const float* __restrict__ planes,
              const float* __restrict__ spatial, const float* __restrict__ gate, __half* out,
              int height, int width, int octets) {
    __shared__ float weights[2 * gate_side * gate_side], dots[gate_run * gate_parts];
    __shared__ float shares[gate_run];
    const int thread = static_cast<int>(threadIdx.x);
    const int positions = height * width;
    const int first = static_cast<int>(blockIdx.x) * gate_run;
    const size_t image = blockIdx.y;
    if (thread < 2 * gate_side * gate_side) weights[thread] = spatial[thread];
    __syncthreads();
    const int position = first + thread % gate_run;
    float dot = 0.0f;
    if (position < positions) {
        const int row = position / width;
        const int column = position % width;
        const float* own = planes + image * 2 * positions;
#pragma unroll 4
        for (int tap = thread / gate_run; tap < 2 * gate_side * gate_side; tap += gate_parts) {
            const int at = tap % (gate_side * gate_side);
            const int y_at = row + at / gate_side - gate_side / 2;
            const int x_at = column + at % gate_side - gate_side / 2;
            if (y_at >= 0 && y_at < height && x_at >= 0 && x_at < width) {
                const int plane = tap / (gate_side * gate_side);
                dot = fmaf(weights[tap], own[(plane * height + y_at) * width + x_at], dot);
            }
        }
    }
    dots[thread] = dot;
    __syncthreads();
    if (thread < gate_run) {
        float logit = 0.0f;
#pragma unroll
        for (int k = 0; k < gate_parts; ++k) logit += dots[k * gate_run + thread];
        shares[thread] = 1.0f / (1.0f + expf(-logit));
    }
    __syncthreads();
    const int left = positions - first;
    const int items = (left < gate_run ? left : gate_run) * octets;
#pragma unroll 2
    for (int item = thread; item < items; item += gate_run * gate_parts) {
        const int octet = item % octets;
        const size_t at = image * positions + first + item / octets;
        Octet given, spatially, by_channel;
        read_vector(y + (at * octets + octet) * 8, given);
        Vector<float, 4> gates[2];
        read_vector(gate + (image * octets + octet) * 8, gates[0]);
        read_vector(gate + (image * octets + octet) * 8 + 4, gates[1]);
        const float share = shares[item / octets];
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            const float value = to_float(given.values[e]);
            from_float(share * value, spatially.values[e]);
            from_float(gates[e / 4].values[e % 4] * value, by_channel.values[e]);
        }
        write_vector(out + (2 * at * octets + octet) * 8, spatially);
        write_vector(out + ((2 * at + 1) * octets + octet) * 8, by_channel);
    }
}
