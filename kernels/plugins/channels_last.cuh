// What the plugins' kernels share: how features lie, and how a block adds up columns.
//
// Features are channels last, (N, H, W, C) of __half, what TensorRT calls kHWC8 (kDHWC8 of three
// axes has the same bytes): the channels of a position are *octets* of 8, 16 bytes, which a thread
// moves in one instruction. Where C fills no whole octets, the last one ends in zeros, which kernels
// find there and leave there; C is a multiple of 4 wherever vectors of floats (N, C) are read.
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

// out[c] = sum over k of weights[k] * rows[k * columns + c], for c < columns. All threads of a block
// have one together; each takes `width` columns beside each other, in one load, so `columns` is a
// multiple of it and at most blockDim.x. A thread adds every so-many-th row of its columns, in order,
// and the threads' sums are added in order: the same rows always give the same bits. The first `held`
// of a thread's rows are asked for at once, before the weights need be known.
template <int width, int held>
struct ColumnSums {
    const float* rows;
    int count, columns, column, part, parts;
    Vector<float, width> first[held];

    __device__ __forceinline__ ColumnSums(const float* from, int rows_there, int of_columns)
        : rows(from), count(rows_there), columns(of_columns) {
        const int thread = static_cast<int>(threadIdx.x);
        const int across = columns / width;
        parts = static_cast<int>(blockDim.x) / across;
        column = thread % across * width;
        part = thread / across;
        if (part >= parts) count = 0;
#pragma unroll
        for (int i = 0; i < held; ++i) {
            if (row(i) < count) read(row(i), first[i]);
        }
    }

    __device__ __forceinline__ int row(int i) const { return part + i * parts; }

    __device__ __forceinline__ void read(int k, Vector<float, width>& there) const {
        read_vector(rows + static_cast<size_t>(k) * columns + column, there);
    }

    // Weights of nullptr are ones; `scratch` has width * blockDim.x floats; of the sums the first
    // `kept` are written.
    __device__ __forceinline__ void sum(const float* weights, float* scratch, float* out,
                                        int kept = most_channels) const {
        float sums[width] = {};
#pragma unroll
        for (int i = 0; i < held; ++i) {
            if (row(i) < count) add(row(i), first[i], weights, sums);
        }
#pragma unroll 8
        for (int k = row(held); k < count; k += parts) {
            Vector<float, width> there;
            read(k, there);
            add(k, there, weights, sums);
        }
        if (part < parts) {
#pragma unroll
            for (int e = 0; e < width; ++e) scratch[part * columns + column + e] = sums[e];
        }
        __syncthreads();
        const int thread = static_cast<int>(threadIdx.x);
        if (thread < columns) {
            float total = 0.0f;
#pragma unroll 16
            for (int k = 0; k < parts; ++k) total += scratch[k * columns + thread];
            if (thread < kept) out[thread] = total;
        }
        __syncthreads();
    }

    __device__ __forceinline__ static void add(int k, const Vector<float, width>& there,
                                               const float* weights, float (&sums)[width]) {
        const float weight = weights == nullptr ? 1.0f : weights[k];
#pragma unroll
        for (int e = 0; e < width; ++e) sums[e] = fmaf(weight, there.values[e], sums[e]);
    }
};

// A block's row of partial sums, (images, gridDim.x, channels): of each channel what its threads
// have in `sum`, times `scale`. Thread t has octet t % octets, and blockDim.x / octets threads each;
// `sums` has 8 * blockDim.x floats, `scratch` blockDim.x. blockIdx.y is the image.
__device__ __forceinline__ void write_row(const float (&sum)[8], float scale, float* sums,
                                          float* scratch, float* rows, int channels, int octets) {
#pragma unroll
    for (int e = 0; e < 8; ++e) sums[threadIdx.x * 8 + e] = sum[e] * scale;
    __syncthreads();
    const int parts = static_cast<int>(blockDim.x) / octets;
    const size_t block = static_cast<size_t>(blockIdx.y) * gridDim.x + blockIdx.x;
    ColumnSums<1, 8>(sums, parts, octets * 8)
        .sum(nullptr, scratch, rows + block * channels, channels);
}
