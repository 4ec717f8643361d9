// The plugins' kernels as functions of the host: each picks its grid and queues itself.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mirnet {

struct Maps {
    int images, channels, height, width;
};

// Pointers are of the device; `maps` are the sizes of a kernel's first map. The kernel's file says
// what each argument is. All give cudaSuccess, cudaErrorInvalidValue for sizes that a kernel cannot
// have, or what the launch gave.
cudaError_t queue_residual_sum(Maps maps, void const* branch, void const* skip,
                               float const* context, void* out, float* partials, int rows,
                               float slope, cudaStream_t stream);
cudaError_t queue_context_rows(Maps maps, void const* x, float const* mask, float* sums, int rows,
                               cudaStream_t stream);
cudaError_t queue_context_vector(int images, int channels, int squeezed, int rows,
                                 float const* sums, float const* squeeze, float const* expand,
                                 float* vector, float slope, cudaStream_t stream);
cudaError_t queue_residual_block(Maps maps, void const* x, float const* weights_1,
                                 float const* weights_2, void* out, float* partials, int rows,
                                 float slope_1, float slope_2, cudaStream_t stream);
cudaError_t queue_attention_pools(Maps maps, void const* y, float* planes, float* sums, int rows,
                                  cudaStream_t stream);
cudaError_t queue_channel_gate(int images, int channels, int squeezed, int rows, float const* sums,
                               float const* squeeze, float const* expand, float* gate, float slope,
                               cudaStream_t stream);
cudaError_t queue_dual_gate(Maps maps, void const* y, float const* planes, float const* spatial,
                            float const* gate, void* out, cudaStream_t stream);
cudaError_t queue_fusion_gate(int images, int channels, int small_channels, int squeezed,
                              int large_rows, int small_rows, float const* const* inputs,
                              float* gate, float* mean, float slope, cudaStream_t stream);
cudaError_t queue_gated_sum(Maps maps, void const* x, void const* small, float const* gate,
                            void* out, cudaStream_t stream);
cudaError_t queue_mean_rows(Maps maps, void const* const* three, float* sums, int rows,
                            cudaStream_t stream);
cudaError_t queue_select_gate(int images, int channels, int squeezed, int rows, float const* sums,
                              float const* squeeze, float const* expand, float* const* gates,
                              float slope, cudaStream_t stream);
cudaError_t queue_select_sum(Maps maps, void const* const* three, float const* const* weights,
                             void* out, cudaStream_t stream);
cudaError_t queue_unshuffle(Maps image, void const* pixels, bool half, void* blocks, int side,
                            cudaStream_t stream);
cudaError_t queue_shuffle_add(Maps image, void const* pixels, bool half, void const* blocks,
                              void* out, int channels, int side, cudaStream_t stream);

}  // namespace mirnet
