// The plugins' kernels, and the grids they are launched in.
#include "launch.h"

#include "attention.cuh"
#include "context.cuh"
#include "fusion_gate.cuh"
#include "gated_sum.cuh"
#include "residual_block.cuh"
#include "residual_sum.cuh"
#include "selection.cuh"
#include "shuffles.cuh"

namespace mirnet {
namespace {

bool is_map(Maps const& maps) {
    return maps.channels % 4 == 0 && maps.channels <= most_channels && maps.images > 0;
}

int octets_of(Maps const& maps) { return (maps.channels + 7) / 8; }

int blocks_of(int items, int threads) { return (items + threads - 1) / threads; }

}  // namespace

cudaError_t queue_residual_sum(Maps maps, void const* branch, void const* skip,
                               float const* context, void* out, float* partials, int rows,
                               float slope, cudaStream_t stream) {
    if (!is_map(maps)) return cudaErrorInvalidValue;
    int const octets = octets_of(maps);
    long long const positions = static_cast<long long>(maps.height) * maps.width;
    int const threads = sum_threads / octets * octets;
    auto const kernel = context == nullptr ? residual_sum<false> : residual_sum<true>;
    kernel<<<dim3(rows, maps.images), threads, 0, stream>>>(
        static_cast<__half const*>(branch), static_cast<__half const*>(skip), context,
        static_cast<__half*>(out), partials, positions * octets, maps.channels, octets, slope,
        1.0f / static_cast<float>(positions));
    return cudaPeekAtLastError();
}

cudaError_t queue_residual_block(Maps maps, void const* x, float const* weights_1,
                                 float const* weights_2, void* out, float* partials, int rows,
                                 float slope_1, float slope_2, cudaStream_t stream) {
    if (maps.channels != block::channels) return cudaErrorInvalidValue;
    cudaError_t const allowed = cudaFuncSetAttribute(
        residual_block, cudaFuncAttributeMaxDynamicSharedMemorySize, block::shared_bytes);
    if (allowed != cudaSuccess) return allowed;
    float const scale = 1.0f / (static_cast<float>(maps.height) * static_cast<float>(maps.width));
    residual_block<<<dim3(rows, maps.images), block::threads, block::shared_bytes, stream>>>(
        static_cast<__half const*>(x), weights_1, weights_2, static_cast<__half*>(out), partials,
        maps.height, maps.width, slope_1, slope_2, scale);
    return cudaPeekAtLastError();
}

cudaError_t queue_context_rows(Maps maps, void const* x, float const* mask, float* sums, int rows,
                               cudaStream_t stream) {
    if (!is_map(maps) || maps.channels + context_extra > most_channels) {
        return cudaErrorInvalidValue;
    }
    context_rows<<<dim3(rows, maps.images), sum_threads, 0, stream>>>(
        static_cast<__half const*>(x), mask, sums, maps.height * maps.width, maps.channels,
        octets_of(maps));
    return cudaPeekAtLastError();
}

cudaError_t queue_context_vector(int images, int channels, int squeezed, int rows,
                                 float const* sums, float const* squeeze, float const* expand,
                                 float* vector, float slope, cudaStream_t stream) {
    if (max(channels + context_extra, max(squeezed, rows)) > most_channels) {
        return cudaErrorInvalidValue;
    }
    context_vector<<<images, sum_threads, 0, stream>>>(sums, squeeze, expand, vector, rows,
                                                       channels, squeezed, slope);
    return cudaPeekAtLastError();
}

cudaError_t queue_attention_pools(Maps maps, void const* y, float* planes, float* sums, int rows,
                                  cudaStream_t stream) {
    if (!is_map(maps)) return cudaErrorInvalidValue;
    int const octets = octets_of(maps);
    int const positions = maps.height * maps.width;
    int const threads = sum_threads / octets * octets;
    attention_pools<<<dim3(rows, maps.images), threads, 0, stream>>>(
        static_cast<__half const*>(y), planes, sums, positions, maps.channels, octets,
        1.0f / static_cast<float>(positions));
    return cudaPeekAtLastError();
}

cudaError_t queue_channel_gate(int images, int channels, int squeezed, int rows, float const* sums,
                               float const* squeeze, float const* expand, float* gate, float slope,
                               cudaStream_t stream) {
    if (max(channels, squeezed) > most_channels) return cudaErrorInvalidValue;
    channel_gate<<<images, sum_threads, 0, stream>>>(sums, squeeze, expand, gate, rows, channels,
                                                     squeezed, slope);
    return cudaPeekAtLastError();
}

cudaError_t queue_dual_gate(Maps maps, void const* y, float const* planes, float const* spatial,
                            float const* gate, void* out, cudaStream_t stream) {
    if (!is_map(maps) || maps.channels % 8 != 0) return cudaErrorInvalidValue;
    dim3 const grid(blocks_of(maps.height * maps.width, gate_run), maps.images);
    dual_gate<<<grid, gate_run * gate_parts, 0, stream>>>(
        static_cast<__half const*>(y), planes, spatial, gate, static_cast<__half*>(out),
        maps.height, maps.width, octets_of(maps));
    return cudaPeekAtLastError();
}

cudaError_t queue_fusion_gate(int images, int channels, int small_channels, int squeezed,
                              int large_rows, int small_rows, float const* const* inputs,
                              float* gate, float* mean, float slope, cudaStream_t stream) {
    if (max(max(channels, small_channels), squeezed) > most_channels) return cudaErrorInvalidValue;
    fusion_gate<<<images, sum_threads, 0, stream>>>(inputs[0], inputs[1], inputs[2], inputs[3],
                                                    inputs[4], gate, mean, large_rows, small_rows,
                                                    channels, small_channels, squeezed, slope);
    return cudaPeekAtLastError();
}

cudaError_t queue_gated_sum(Maps maps, void const* x, void const* small, float const* gate,
                            void* out, cudaStream_t stream) {
    if (!is_map(maps) || maps.height % 2 != 0 || maps.width % 2 != 0) {
        return cudaErrorInvalidValue;
    }
    int const octets = octets_of(maps);
    int const height = maps.height / 2;
    int const width = maps.width / 2;
    dim3 const grid(blocks_of((width + 1) * octets, 256), height + 1, maps.images);
    gated_sum<<<grid, 256, 0, stream>>>(static_cast<__half const*>(x),
                                        static_cast<__half const*>(small), gate,
                                        static_cast<__half*>(out), height, width, maps.channels,
                                        octets);
    return cudaPeekAtLastError();
}

cudaError_t queue_mean_rows(Maps maps, void const* const* three, float* sums, int rows,
                            cudaStream_t stream) {
    if (!is_map(maps)) return cudaErrorInvalidValue;
    int const octets = octets_of(maps);
    long long const positions = static_cast<long long>(maps.height) * maps.width;
    int const threads = sum_threads / octets * octets;
    mean_rows<<<dim3(rows, maps.images), threads, 0, stream>>>(
        static_cast<__half const*>(three[0]), static_cast<__half const*>(three[1]),
        static_cast<__half const*>(three[2]), sums, positions * octets, maps.channels, octets,
        1.0f / static_cast<float>(positions));
    return cudaPeekAtLastError();
}

cudaError_t queue_select_gate(int images, int channels, int squeezed, int rows, float const* sums,
                              float const* squeeze, float const* expand, float* const* gates,
                              float slope, cudaStream_t stream) {
    if (channels % 4 != 0 || max(channels, squeezed) > most_channels) return cudaErrorInvalidValue;
    select_gate<<<images, sum_threads, 0, stream>>>(sums, squeeze, expand, gates[0], gates[1],
                                                    gates[2], rows, channels, squeezed, slope);
    return cudaPeekAtLastError();
}

cudaError_t queue_select_sum(Maps maps, void const* const* three, float const* const* weights,
                             void* out, cudaStream_t stream) {
    if (!is_map(maps)) return cudaErrorInvalidValue;
    // Four times what an H100 runs at once: more would only read the weights more often.
    constexpr long long most_blocks = 4 * 3 * 132;
    int const octets = octets_of(maps);
    long long const vectors = static_cast<long long>(maps.height) * maps.width * octets;
    int const threads = select_threads / octets * octets;
    long long const blocks = min((vectors + 2 * threads - 1) / (2 * threads), most_blocks);
    select_sum<<<dim3(static_cast<unsigned>(blocks), maps.images), threads, 0, stream>>>(
        static_cast<__half const*>(three[0]), static_cast<__half const*>(three[1]),
        static_cast<__half const*>(three[2]), weights[0], weights[1], weights[2],
        static_cast<__half*>(out), vectors, maps.channels, octets);
    return cudaPeekAtLastError();
}

namespace {

template <typename Value, int side>
cudaError_t queue_unshuffle_of(Maps image, void const* pixels, void* blocks, cudaStream_t stream) {
    int const height = image.height / side;
    int const width = image.width / side;
    int const octets = (image.channels * side * side + 7) / 8;
    dim3 const grid(blocks_of(width, 128), height, image.images);
    unshuffle<Value, side><<<grid, 128, 0, stream>>>(static_cast<Value const*>(pixels),
                                                     static_cast<__half*>(blocks), image.channels,
                                                     height, width, octets);
    return cudaPeekAtLastError();
}

template <typename Value, int side>
cudaError_t queue_shuffle_add_of(Maps image, void const* pixels, void const* blocks, void* out,
                                 int channels, cudaStream_t stream) {
    int const height = image.height / side;
    int const width = image.width / side;
    int const octets = (channels * side * side + 7) / 8;
    dim3 const grid(blocks_of(width, 128), height, image.images);
    shuffle_add<Value, side><<<grid, 128, 0, stream>>>(
        static_cast<__half const*>(blocks), static_cast<Value const*>(pixels),
        static_cast<Value*>(out), image.channels, channels, height, width, octets);
    return cudaPeekAtLastError();
}

}  // namespace

cudaError_t queue_unshuffle(Maps image, void const* pixels, bool half, void* blocks, int side,
                            cudaStream_t stream) {
    if (side != 2 && side != 4) return cudaErrorInvalidValue;
    auto const queue =
        half ? (side == 2 ? queue_unshuffle_of<__half, 2> : queue_unshuffle_of<__half, 4>)
             : (side == 2 ? queue_unshuffle_of<float, 2> : queue_unshuffle_of<float, 4>);
    return queue(image, pixels, blocks, stream);
}

cudaError_t queue_shuffle_add(Maps image, void const* pixels, bool half, void const* blocks,
                              void* out, int channels, int side, cudaStream_t stream) {
    if (side != 2 && side != 4) return cudaErrorInvalidValue;
    auto const queue =
        half ? (side == 2 ? queue_shuffle_add_of<__half, 2> : queue_shuffle_add_of<__half, 4>)
             : (side == 2 ? queue_shuffle_add_of<float, 2> : queue_shuffle_add_of<float, 4>);
    return queue(image, pixels, blocks, out, channels, stream);
}

}  // namespace mirnet
