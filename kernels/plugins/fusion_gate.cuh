// fusion_gate: how selective kernel fusion weighs its first input, of two, channel by channel.
//
//   large     (N, large_rows, C) float: rows that add up to the mean of the first input over the
//             frame
//   small     (N, small_rows, S) float: likewise of the map that the second one is made of, by a
//             1x1 convolution `mix` and bilinear doubling, which keeps means
//   mix       (S, C) float: weights of that convolution, transposed
//   squeeze   (C, Z), expand (Z, C) float: transposed weights of the convolutions that turn the
//             mean of both inputs' sum into the difference of their logits
//   gate      (N, C) float: 1 / (1 + exp(-logit)), the weight of the first input
//   mean      (N, C) float: the mean of the fused map over the frame
//
//   m = mix' mean(small);  z = leaky(squeeze' (mean(large) + m));  g = sigmoid(expand' z);
//   mean = m + g (mean(large) - m)
//
// Bytes: of partial sums and weights alone, 100 KB; its time is that of a launch and five
// reductions in a row. TensorRT 8.6 takes 8 to 13 launches for it.
//
// Thread mapping: blockIdx.x is the image; one block of at least the widest of C, S and Z.
#include "channels_last.cuh"

__global__ void __launch_bounds__(sum_threads)
    fusion_gate(const float* __restrict__ large, const float* __restrict__ small,
                const float* __restrict__ mix, const float* __restrict__ squeeze,
                const float* __restrict__ expand, float* gate, float* mean, int large_rows,
                int small_rows, int channels, int small_channels, int squeezed, float slope) {
    __shared__ float scratch[4 * sum_threads];
    __shared__ float first[most_channels], source[most_channels], second[most_channels];
    __shared__ float both[most_channels], vector[most_channels];
    const int c = static_cast<int>(threadIdx.x);
    const size_t image = blockIdx.x;
    // All is asked for at once: each of the five sums waits for the one before, and none for memory.
    const ColumnSums<4, 4> of_large(large + image * large_rows * channels, large_rows, channels);
    const ColumnSums<4, 4> of_small(small + image * small_rows * small_channels, small_rows,
                                    small_channels);
    const ColumnSums<4, 4> mixed(mix, small_channels, channels);
    const ColumnSums<1, 2> squeezing(squeeze, channels, squeezed);
    const ColumnSums<1, 2> expanding(expand, squeezed, channels);
    of_large.sum(nullptr, scratch, first);
    of_small.sum(nullptr, scratch, source);
    mixed.sum(source, scratch, second);
    if (c < channels) both[c] = first[c] + second[c];
    __syncthreads();
    squeezing.sum(both, scratch, vector);
    if (c < squeezed) vector[c] = vector[c] > 0.0f ? vector[c] : slope * vector[c];
    __syncthreads();
    expanding.sum(vector, scratch, both);
    if (c < channels) {
        const float weight = 1.0f / (1.0f + expf(-both[c]));
        gate[image * channels + c] = weight;
        mean[image * channels + c] = fmaf(weight, first[c] - second[c], second[c]);
    }
}
