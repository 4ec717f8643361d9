// The functions of plugin_launchers.cpp on a GPU: arrays of the host go there in allocations of
// their size, the plugin's own function queues the kernel in its own grid, and results come back.
#include <cuda_fp16.h>

#include <cstdio>
#include <cstdlib>

#include "plugins/launch.h"

static void require(cudaError_t code) {
    if (code == cudaSuccess) return;
    std::fprintf(stderr, "runtime error: %s\n", cudaGetErrorString(code));
    std::abort();
}

template <typename Value>
class Copied {
  public:
    Copied(Value* host, size_t count) : host_(host), bytes_(count * sizeof(Value)) {
        require(cudaMalloc(&device_, bytes_));
        require(cudaMemcpy(device_, host, bytes_, cudaMemcpyHostToDevice));
    }
    ~Copied() { cudaFree(device_); }
    operator Value*() const { return static_cast<Value*>(device_); }
    void take() { require(cudaMemcpy(host_, device_, bytes_, cudaMemcpyDeviceToHost)); }

  private:
    Value* host_;
    size_t bytes_;
    void* device_ = nullptr;
};

static size_t times(size_t first, int second, int third = 1) {
    return first * static_cast<size_t>(second) * static_cast<size_t>(third);
}

static int padded(int channels) { return (channels + 7) / 8 * 8; }

extern "C" void host_residual_sum(__half* branch, __half* skip, float* context, __half* out,
                                  float* partials, int images, long long positions, int channels,
                                  int rows, int, float slope) {
    const size_t size = times(static_cast<size_t>(positions), images, padded(channels));
    Copied<__half> a(branch, size), b(skip, size), c(out, size);
    Copied<float> vector(context, context == nullptr ? 0 : times(images, channels));
    Copied<float> sums(partials, times(images, rows, channels));
    const mirnet::Maps maps{images, channels, static_cast<int>(positions), 1};
    const float* added = context == nullptr ? nullptr : static_cast<float*>(vector);
    require(mirnet::queue_residual_sum(maps, a, b, added, c, sums, rows, slope, nullptr));
    c.take();
    sums.take();
}

extern "C" void host_context(__half* x, float* mask, float* squeeze, float* expand, float* sums,
                             float* vector, int images, int positions, int channels, int squeezed,
                             int rows, int, float slope) {
    Copied<__half> a(x, times(images, positions, padded(channels)));
    Copied<float> b(mask, static_cast<size_t>(channels));
    Copied<float> c(squeeze, times(channels, squeezed)), d(expand, times(squeezed, channels));
    Copied<float> e(sums, times(images, rows, channels + 4)), f(vector, times(images, channels));
    const mirnet::Maps maps{images, channels, positions, 1};
    require(mirnet::queue_context_rows(maps, a, b, e, rows, nullptr));
    require(mirnet::queue_context_vector(images, channels, squeezed, rows, e, c, d, f, slope,
                                         nullptr));
    e.take();
    f.take();
}

extern "C" void host_residual_block(__half* x, float* weights_1, float* weights_2, __half* out,
                                    float* partials, int images, int height, int width, int rows,
                                    float slope_1, float slope_2) {
    const size_t size = times(images, height, width) * 32;
    Copied<__half> a(x, size), c(out, size);
    Copied<float> first(weights_1, 9 * 32 * 32), second(weights_2, 9 * 32 * 32);
    Copied<float> sums(partials, times(images, rows, 32));
    const mirnet::Maps maps{images, 32, height, width};
    require(mirnet::queue_residual_block(maps, a, first, second, c, sums, rows, slope_1, slope_2,
                                         nullptr));
    c.take();
    sums.take();
}

extern "C" void host_attention(__half* y, float* spatial, float* squeeze, float* expand,
                               float* planes, float* sums, float* gate, __half* out, int images,
                               int height, int width, int channels, int squeezed, int rows, int,
                               float slope) {
    const size_t positions = times(images, height, width);
    const size_t size = positions * static_cast<size_t>(padded(channels));
    Copied<__half> a(y, size), b(out, out == nullptr ? 0 : 2 * size);
    Copied<float> c(spatial, 50);
    Copied<float> d(squeeze, times(channels, squeezed)), e(expand, times(squeezed, channels));
    Copied<float> f(planes, 2 * positions), g(sums, times(images, rows, channels));
    Copied<float> h(gate, times(images, channels));
    const mirnet::Maps maps{images, channels, height, width};
    require(mirnet::queue_attention_pools(maps, a, f, g, rows, nullptr));
    require(mirnet::queue_channel_gate(images, channels, squeezed, rows, g, d, e, h, slope,
                                       nullptr));
    if (out != nullptr) {
        require(mirnet::queue_dual_gate(maps, a, f, c, h, b, nullptr));
        b.take();
    }
    f.take();
    g.take();
    h.take();
}

extern "C" void host_fusion_gate(float* large, float* small, float* mix, float* squeeze,
                                 float* expand, float* gate, float* mean, int images,
                                 int large_rows, int small_rows, int channels, int small_channels,
                                 int squeezed, int, float slope) {
    Copied<float> a(large, times(images, large_rows, channels));
    Copied<float> b(small, times(images, small_rows, small_channels));
    Copied<float> c(mix, times(small_channels, channels));
    Copied<float> d(squeeze, times(channels, squeezed)), e(expand, times(squeezed, channels));
    Copied<float> f(gate, times(images, channels)), g(mean, times(images, channels));
    const float* inputs[5] = {a, b, c, d, e};
    require(mirnet::queue_fusion_gate(images, channels, small_channels, squeezed, large_rows,
                                      small_rows, inputs, f, g, slope, nullptr));
    f.take();
    g.take();
}

extern "C" void host_gated_sum(__half* x, __half* small, float* gate, __half* out, int images,
                               int height, int width, int channels) {
    const size_t size = times(times(images, height, width), padded(channels));
    Copied<__half> a(x, 4 * size), b(small, size), c(out, 4 * size);
    Copied<float> weights(gate, times(images, channels));
    const mirnet::Maps maps{images, channels, 2 * height, 2 * width};
    require(mirnet::queue_gated_sum(maps, a, b, weights, c, nullptr));
    c.take();
}

extern "C" void host_mean_rows(__half* a, __half* b, __half* c, float* sums, int images,
                               int positions, int channels, int rows, int) {
    const size_t size = times(images, positions, padded(channels));
    Copied<__half> first(a, size), second(b, size), third(c, size);
    Copied<float> result(sums, times(images, rows, channels));
    const void* three[3] = {first, second, third};
    const mirnet::Maps maps{images, channels, positions, 1};
    require(mirnet::queue_mean_rows(maps, three, result, rows, nullptr));
    result.take();
}

extern "C" void host_select_gate(float* sums, float* squeeze, float* expand, float* gates,
                                 int images, int channels, int squeezed, int rows, int,
                                 float slope) {
    Copied<float> a(sums, times(images, rows, channels)), b(squeeze, times(channels, squeezed));
    Copied<float> c(expand, times(3, channels, squeezed));
    const size_t size = times(images, channels);
    Copied<float> d(gates, size), e(gates + size, size), f(gates + 2 * size, size);
    float* three[3] = {d, e, f};
    require(mirnet::queue_select_gate(images, channels, squeezed, rows, a, b, c, three, slope,
                                      nullptr));
    d.take();
    e.take();
    f.take();
}

extern "C" void host_select_sum(__half* a, __half* b, __half* c, float* gates, __half* out,
                                int images, int positions, int channels) {
    const size_t size = times(images, positions, padded(channels)), few = times(images, channels);
    Copied<__half> first(a, size), second(b, size), third(c, size), result(out, size);
    Copied<float> d(gates, few), e(gates + few, few), f(gates + 2 * few, few);
    const void* three[3] = {first, second, third};
    const float* weights[3] = {d, e, f};
    const mirnet::Maps maps{images, channels, positions, 1};
    require(mirnet::queue_select_sum(maps, three, weights, result, nullptr));
    result.take();
}

template <typename Value, int side>
static void run_shuffles(Value* image, __half* blocks, __half* added, Value* out, int images,
                         int planes, int channels, int height, int width) {
    const size_t positions = times(images, height, width);
    const int square = side * side;
    Copied<Value> a(image, times(positions, planes, square));
    Copied<Value> d(out, times(positions, channels, square));
    Copied<__half> b(blocks, times(positions, (planes * square + 7) / 8 * 8));
    Copied<__half> c(added, times(positions, (channels * square + 7) / 8 * 8));
    const mirnet::Maps maps{images, planes, side * height, side * width};
    const bool half = sizeof(Value) == 2;
    require(mirnet::queue_unshuffle(maps, a, half, b, side, nullptr));
    require(mirnet::queue_shuffle_add(maps, a, half, c, d, channels, side, nullptr));
    b.take();
    d.take();
}

#define SHUFFLES(name, Value, side)                                                               \
    extern "C" void host_shuffles_##name(Value* image, __half* blocks, __half* added, Value* out, \
                                         int images, int planes, int channels, int height,        \
                                         int width) {                                             \
        run_shuffles<Value, side>(image, blocks, added, out, images, planes, channels, height,    \
                                  width);                                                         \
    }

SHUFFLES(f16_2, __half, 2)
SHUFFLES(f16_4, __half, 4)
SHUFFLES(f32_2, float, 2)
SHUFFLES(f32_4, float, 4)
