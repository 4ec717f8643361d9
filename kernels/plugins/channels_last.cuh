// What the plugins' kernels share: how features lie, and how a block adds up columns.
//
// Features are channels last, (N, H, W, C) of __half, what TensorRT calls kHWC8 (kDHWC8 of three
// axes has the same bytes): the channels of a position are *octets* of 8, 16 bytes, which a thread
// moves in one instruction. C is a multiple of 8 wherever a kernel adds over positions; at the two
// ends, where planes become channels and channels planes, those that fill the last octet are zero.
//
// All arithmetic is in FP32, in registers: a map is read as __half and written as __half, and no
// map of floats ever lies in memory.
#pragma once

#include "../frame.cuh"

typedef Vector<__half, 8> Octet;

enum { most_channels = 512, sum_threads = 512 };

// Shared memory of the size that a kernel is launched with.
#ifdef __CUDACC__
#define SHARED_HALVES(name) extern __shared__ __align__(16) __half name[]
#endif

// out[c] = sum over k of weights[k] * rows[k * columns + c], for c < columns; weights of nullptr
// are ones. All threads of a block call it together; each takes `width` columns beside each other,
// in one load, so `columns` is a multiple of it and at most blockDim.x, and `scratch` has
// width * blockDim.x floats. A thread adds every so-many-th row of its columns, in order, and the
// threads' sums are added in order: the same rows always give the same bits.
template <int width>
__device__ __forceinline__ void column_sums(const float* rows, const float* weights, int count,
                                            int columns, float* scratch, float* out) {
    const int thread = static_cast<int>(threadIdx.x);
    const int across = columns / width;
    const int parts = static_cast<int>(blockDim.x) / across;
    const int column = thread % across * width;
    const int part = thread / across;
    if (part < parts) {
        float sum[width] = {};
#pragma unroll 8
        for (int k = part; k < count; k += parts) {
            Vector<float, width> row;
            read_vector(rows + static_cast<size_t>(k) * columns + column, row);
            const float weight = weights == nullptr ? 1.0f : weights[k];
#pragma unroll
            for (int e = 0; e < width; ++e) sum[e] = fmaf(weight, row.values[e], sum[e]);
        }
#pragma unroll
        for (int e = 0; e < width; ++e) scratch[part * columns + column + e] = sum[e];
    }
    __syncthreads();
    if (thread < columns) {
        float total = 0.0f;
#pragma unroll 8
        for (int k = 0; k < parts; ++k) total += scratch[k * columns + thread];
        out[thread] = total;
    }
    __syncthreads();
}
