// Times each kernel of the plugins by itself at edge-s's shapes of a 1088 x 1920 frame, and
// compares the residual block with plain convolutions. No TensorRT is needed.
//
//   nvcc -std=c++17 -O3 --fmad=false -arch=native -I kernels/plugins -o plugin_kernels
//       benchmarks/plugin_kernels.cu kernels/plugins/launch.cu && ./plugin_kernels
//
// -DBLOCK_WARPS=6, 9 or 18 compiles the residual block for other blocks of threads. A line is the
// median of 30 graphs of 20 launches, and the bytes that the kernel's file says it moves, a second.
#include <cuda_fp16.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "launch.h"

namespace {

using namespace mirnet;

void require(cudaError_t code) {
    if (code == cudaSuccess) return;
    std::printf("%s\n", cudaGetErrorString(code));
    std::exit(1);
}

__device__ float random_of(size_t i, unsigned seed) {
    unsigned bits = static_cast<unsigned>(i) * 2654435761u + seed;
    bits = (bits ^ bits >> 15) * 2246822519u;
    return static_cast<float>((bits ^ bits >> 13) & 0xffff) / 32768.0f - 1.0f;
}

__global__ void fill(__half* halves, float* floats, size_t count, unsigned seed, float scale) {
    const size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    if (i >= count) return;
    if (halves != nullptr) halves[i] = __float2half(scale * random_of(i, seed));
    if (floats != nullptr) floats[i] = scale * random_of(i, seed);
}

// leaky(3 x 3 convolution) + skip, channels last, 32 of them.
__global__ void convolve(const __half* x, const float* weights, const __half* skip, __half* out,
                         int height, int width) {
    const size_t i = blockIdx.x * static_cast<size_t>(blockDim.x) + threadIdx.x;
    if (i >= static_cast<size_t>(height) * width * 32) return;
    const int channel = i % 32, at = i / 32 % width, row = i / 32 / width;
    float sum = 0;
    for (int tap = 0; tap < 9; ++tap) {
        const int y = row + tap / 3 - 1, column = at + tap % 3 - 1;
        if (y < 0 || y >= height || column < 0 || column >= width) continue;
        const __half* pixel = x + (static_cast<size_t>(y) * width + column) * 32;
        for (int k = 0; k < 32; ++k) {
            const __half weight = __float2half(weights[(tap * 32 + channel) * 32 + k]);
            sum += __half2float(pixel[k]) * __half2float(weight);
        }
    }
    sum = sum > 0 ? sum : 0.2f * sum;
    out[i] = __float2half(skip == nullptr ? sum : sum + __half2float(skip[i]));
}

cudaStream_t stream;

void time(std::string const& name, double bytes, std::function<cudaError_t()> const& run) {
    constexpr int launches = 20, runs = 30;
    for (int i = 0; i < 3; ++i) require(run());
    cudaGraph_t graph;
    cudaGraphExec_t launched;
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed));
    for (int i = 0; i < launches; ++i) require(run());
    require(cudaStreamEndCapture(stream, &graph));
    require(cudaGraphInstantiate(&launched, graph, 0));
    cudaEvent_t start, end;
    require(cudaEventCreate(&start));
    require(cudaEventCreate(&end));
    std::vector<float> times_us;
    for (int i = 0; i < runs; ++i) {
        float ms = 0;
        require(cudaEventRecord(start, stream));
        require(cudaGraphLaunch(launched, stream));
        require(cudaEventRecord(end, stream));
        require(cudaEventSynchronize(end));
        require(cudaEventElapsedTime(&ms, start, end));
        times_us.push_back(1e3f * ms / launches);
    }
    std::sort(times_us.begin(), times_us.end());
    const double us = times_us[runs / 2];
    std::printf("%-32s %8.2f us  %5.2f TB/s\n", name.c_str(), us, bytes / us / 1e6);
}

}  // namespace

int main() {
    const int height = 544, width = 960, blocks = 65536;
    const size_t top = static_cast<size_t>(height) * width * 32;
    const double map = 2.0 * static_cast<double>(top);
    require(cudaStreamCreate(&stream));
    __half *a, *b, *c, *d;
    float *rows, *others, *first, *second, *gate, *mean;
    unsigned seed = 0;
    for (auto** halves : {&a, &b, &c, &d}) {
        require(cudaMalloc(halves, 2 * top));
        fill<<<blocks, 256>>>(*halves, nullptr, top, ++seed, 1.0f);
    }
    const size_t most = 264 * 128;
    for (auto** floats : {&rows, &others, &first, &second, &gate, &mean}) {
        require(cudaMalloc(floats, 4 * most));
        fill<<<blocks, 256>>>(nullptr, *floats, most, ++seed, 0.1f);
    }
    require(cudaDeviceSynchronize());
    const Maps large{1, 32, height, width}, middle{1, 64, height / 2, width / 2};
    const Maps small{1, 128, height / 4, width / 4}, image{1, 4, 2 * height, 2 * width};
    const float slope = 0.2f;
    float const* weights[5] = {rows, others, first, second, second};

    time("copy of a large map", 2 * map, [&] {
        return cudaMemcpyAsync(c, a, 2 * top, cudaMemcpyDeviceToDevice, stream);
    });
    for (int count : {132, 264}) {
        time("residual_sum large, rows " + std::to_string(count), 3 * map, [&] {
            return queue_residual_sum(large, a, b, c, mean, count, slope, stream);
        });
    }
    time("residual_sum middle", 1.5 * map, [&] {
        return queue_residual_sum(middle, a, b, c, mean, 264, slope, stream);
    });
    time("residual_sum small", 0.75 * map, [&] {
        return queue_residual_sum(small, a, b, c, mean, 264, slope, stream);
    });
    time("gated_sum large", 2.25 * map,
         [&] { return queue_gated_sum(large, a, b, gate, c, stream); });
    time("gated_sum middle", 1.125 * map,
         [&] { return queue_gated_sum(middle, a, b, gate, c, stream); });
    time("fusion_gate middle", 0, [&] {
        return queue_fusion_gate(1, 64, 128, 8, 264, 264, weights, gate, mean, slope, stream);
    });
    time("fusion_gate large", 0, [&] {
        return queue_fusion_gate(1, 32, 64, 4, 264, 1, weights, gate, mean, slope, stream);
    });
    time("unshuffle", map, [&] { return queue_unshuffle(image, a, true, c, 2, stream); });
    time("shuffle_add", 1.25 * map,
         [&] { return queue_shuffle_add(image, a, true, b, c, 3, 2, stream); });
    for (int count : {132, 264}) {
        time("residual_block, rows " + std::to_string(count), 2 * map, [&] {
            return queue_residual_block(large, a, first, second, c, mean, count, slope, slope,
                                        stream);
        });
    }

    convolve<<<blocks, 256, 0, stream>>>(a, first, nullptr, b, height, width);
    convolve<<<blocks, 256, 0, stream>>>(b, second, a, d, height, width);
    require(cudaStreamSynchronize(stream));
    std::vector<__half> actual(top), expected(top);
    require(cudaMemcpy(actual.data(), c, 2 * top, cudaMemcpyDeviceToHost));
    require(cudaMemcpy(expected.data(), d, 2 * top, cudaMemcpyDeviceToHost));
    double worst = 0;
    for (size_t i = 0; i < top; ++i) {
        const double off = __half2float(actual[i]) - __half2float(expected[i]);
        worst = std::max(worst, std::fabs(off));
    }
    std::printf("residual_block: worst error %g\n", worst);
    return worst < 0.02 ? 0 : 1;
}
