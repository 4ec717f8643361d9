// residual_sum: out = leaky(branch + context) + skip, and what its mean over the frame is made of,
// in one pass.
//
//   branch, skip, out   (N, positions, octets * 8) __half, channels last
//   context             (N, C) float, the same for all positions; not read without has_context
//   partials            (N, gridDim.x, C) float: sums of out, before it is rounded, over the
//                       positions of one block, times `scale`; with scale = 1 / positions they add
//                       up to the mean
//
// leaky(v) is v where v > 0, else slope * v. TensorRT 8.6 adds, then reads the map again for each
// of two stages of its mean.
//
// Bytes: 6 an element, 2 of them written. At 32 x 544 x 960 100 MB, 33 us at 3.0 TB/s.
//
// Thread mapping: blockIdx.y is the image; threads of x take octets in turn, `unroll` of them at
// once, so that 8 loads are in flight. blockDim.x is a multiple of `octets`, so that a thread meets
// the same channels always, and at most sum_threads; any gridDim.x is correct.
#include "channels_last.cuh"

template <bool has_context>
__global__ void __launch_bounds__(sum_threads, 2)
    residual_sum(const __half* __restrict__ branch, const __half* __restrict__ skip,
                 const float* __restrict__ context, __half* out, float* partials, long long vectors,
                 int channels, int octets, float slope, float scale) {
    constexpr int unroll = has_context ? 3 : 4;  // what two blocks of threads have registers for
    __shared__ float sums[sum_threads * 8];
    __shared__ float scratch[sum_threads];
    const size_t image = static_cast<size_t>(blockIdx.y) * static_cast<size_t>(vectors) * 8;
    const long long step = static_cast<long long>(gridDim.x) * blockDim.x;
    const long long first = static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x;
    float sum[8] = {}, added[8] = {};
    if (has_context) {
        const int channel = static_cast<int>(threadIdx.x) % octets * 8;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            if (channel + e < channels) {
                added[e] = context[static_cast<size_t>(blockIdx.y) * channels + channel + e];
            }
        }
    }
    for (long long i = first; i < vectors; i += unroll * step) {
        Octet branches[unroll], skips[unroll];
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
            if (i + u * step < vectors) {
                const size_t at = image + static_cast<size_t>(i + u * step) * 8;
                read_vector(branch + at, branches[u]);
                read_vector(skip + at, skips[u]);
            }
        }
#pragma unroll
        for (int u = 0; u < unroll; ++u) {
            if (i + u * step < vectors) {
                Octet result;
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    const float given = to_float(branches[u].values[e]);
                    const float value = has_context ? given + added[e] : given;
                    const float leaky = value > 0.0f ? value : slope * value;
                    const float total = leaky + to_float(skips[u].values[e]);
                    sum[e] += total;
                    from_float(total, result.values[e]);
                }
                write_vector(out + image + static_cast<size_t>(i + u * step) * 8, result);
            }
        }
    }
    write_row(sum, scale, sums, scratch, partials, channels, octets);
}
