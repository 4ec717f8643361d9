// The plugins' kernels as host functions, in the grids and blocks that they are given.
#include "host_block.h"

#include "plugins/attention.cuh"
#include "plugins/context.cuh"
#include "plugins/fusion_gate.cuh"
#include "plugins/gated_sum.cuh"
#include "plugins/residual_block.cuh"
#include "plugins/residual_sum.cuh"
#include "plugins/selection.cuh"
#include "plugins/shuffles.cuh"

extern "C" void host_residual_sum(const __half* branch, const __half* skip, const float* context,
                                  __half* out, float* partials, int images, long long positions,
                                  int channels, int rows, int threads, float slope) {
    const int octets = (channels + 7) / 8;
    auto const kernel = context == nullptr ? residual_sum<false> : residual_sum<true>;
    launch_blocks(kernel, {static_cast<unsigned>(rows), static_cast<unsigned>(images), 1},
                  static_cast<unsigned>(threads), branch, skip, context, out, partials,
                  positions * octets, channels, octets, slope,
                  1.0f / static_cast<float>(positions));
}

extern "C" void host_context(const __half* x, const float* mask, const float* squeeze,
                             const float* expand, float* sums, float* vector, int images,
                             int positions, int channels, int squeezed, int rows, int threads,
                             float slope) {
    launch_blocks(context_rows, {static_cast<unsigned>(rows), static_cast<unsigned>(images), 1},
                  static_cast<unsigned>(threads), x, mask, sums, positions, channels,
                  (channels + 7) / 8);
    launch_blocks(context_vector, {static_cast<unsigned>(images), 1, 1},
                  static_cast<unsigned>(std::max(channels + context_extra, squeezed)), sums,
                  squeeze, expand, vector, rows, channels, squeezed, slope);
}

extern "C" void host_residual_block(const __half* x, const float* weights_1,
                                    const float* weights_2, __half* out, float* partials,
                                    int images, int height, int width, int rows, float slope_1,
                                    float slope_2) {
    launch_blocks(residual_block, {static_cast<unsigned>(rows), static_cast<unsigned>(images), 1},
                  static_cast<unsigned>(block::threads), x, weights_1, weights_2, out, partials,
                  height, width, slope_1, slope_2,
                  1.0f / static_cast<float>(height * width));
}

extern "C" void host_attention(const __half* y, const float* spatial, const float* squeeze,
                               const float* expand, float* planes, float* sums, float* gate,
                               __half* out, int images, int height, int width, int channels,
                               int squeezed, int rows, int threads, float slope) {
    const int octets = (channels + 7) / 8;
    const int positions = height * width;
    const unsigned count = static_cast<unsigned>(images);
    launch_blocks(attention_pools, {static_cast<unsigned>(rows), count, 1},
                  static_cast<unsigned>(threads), y, planes, sums, positions, channels, octets,
                  1.0f / static_cast<float>(positions));
    launch_blocks(channel_gate, {count, 1, 1}, static_cast<unsigned>(std::max(channels, squeezed)),
                  sums, squeeze, expand, gate, rows, channels, squeezed, slope);
    if (out == nullptr) return;
    launch_blocks(dual_gate, {static_cast<unsigned>(positions + gate_run - 1) / gate_run, count, 1},
                  static_cast<unsigned>(gate_run * gate_parts), y, planes, spatial, gate, out,
                  height, width, octets);
}

extern "C" void host_fusion_gate(const float* large, const float* small, const float* mix,
                                 const float* squeeze, const float* expand, float* gate,
                                 float* mean, int images, int large_rows, int small_rows,
                                 int channels, int small_channels, int squeezed, int threads,
                                 float slope) {
    launch_blocks(fusion_gate, {static_cast<unsigned>(images), 1, 1},
                  static_cast<unsigned>(threads), large, small, mix, squeeze, expand, gate, mean,
                  large_rows, small_rows, channels, small_channels, squeezed, slope);
}

extern "C" void host_gated_sum(const __half* x, const __half* small, const float* gate,
                               __half* out, int images, int height, int width, int channels) {
    const int octets = (channels + 7) / 8;
    const unsigned blocks = static_cast<unsigned>((width + 1) * octets + 6) / 7;
    launch(gated_sum, {blocks, static_cast<unsigned>(height + 1), static_cast<unsigned>(images)},
           {7, 1, 1}, x, small, gate, out, height, width, channels, octets);
}

extern "C" void host_mean_rows(const __half* a, const __half* b, const __half* c, float* sums,
                               int images, int positions, int channels, int rows, int threads) {
    const int octets = (channels + 7) / 8;
    launch_blocks(mean_rows, {static_cast<unsigned>(rows), static_cast<unsigned>(images), 1},
                  static_cast<unsigned>(threads), a, b, c, sums,
                  static_cast<long long>(positions) * octets, channels, octets,
                  1.0f / static_cast<float>(positions));
}

extern "C" void host_select_gate(const float* sums, const float* squeeze, const float* expand,
                                 float* gates, int images, int channels, int squeezed, int rows,
                                 int threads, float slope) {
    launch_blocks(select_gate, {static_cast<unsigned>(images), 1, 1},
                  static_cast<unsigned>(threads), sums, squeeze, expand, gates,
                  gates + images * channels, gates + 2 * images * channels, rows, channels,
                  squeezed, slope);
}

extern "C" void host_select_sum(const __half* a, const __half* b, const __half* c,
                                const float* gates, __half* out, int images, int positions,
                                int channels) {
    const int octets = (channels + 7) / 8;
    launch(select_sum, {3, static_cast<unsigned>(images), 1},
           {static_cast<unsigned>(5 * octets), 1, 1}, a, b, c, gates, gates + images * channels,
           gates + 2 * images * channels, out, static_cast<long long>(positions) * octets,
           channels, octets);
}

template <typename Value, int side>
static void run_shuffles(const Value* image, __half* blocks, const __half* added, Value* out,
                         int images, int planes, int channels, int height, int width) {
    const dim3 grid = {static_cast<unsigned>(width + 4) / 5, static_cast<unsigned>(height),
                       static_cast<unsigned>(images)};
    const int octets = (planes * side * side + 7) / 8;
    launch(unshuffle<Value, side>, grid, {5, 1, 1}, image, blocks, planes, height, width, octets);
    const int added_octets = (channels * side * side + 7) / 8;
    launch(shuffle_add<Value, side>, grid, {5, 1, 1}, added, image, out, planes, channels, height,
           width, added_octets);
}

#define SHUFFLES(name, Value, side)                                                             \
    extern "C" void host_shuffles_##name(const Value* image, __half* blocks,                    \
                                         const __half* added, Value* out, int images,           \
                                         int planes, int channels, int height, int width) {     \
        run_shuffles<Value, side>(image, blocks, added, out, images, planes, channels, height,  \
                                  width);                                                       \
    }

SHUFFLES(f16_2, __half, 2)
SHUFFLES(f16_4, __half, 4)
SHUFFLES(f32_2, float, 2)
SHUFFLES(f32_4, float, 4)
