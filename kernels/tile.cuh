// What the tile kernels share on the engine's side: how pixels lie in a batch of tiles.
//
//   (tiles, planes, tile_height, tile_width) without gaps, what TensorRT calls kLINEAR: planes of
//   red, green and blue, and where tiles are loaded maybe more, which are left as they are (a plane
//   that tells the noise level is constant over a frame, and filled once for it). A group of
//   neighbouring pixels (frame.cuh) is moved plane by plane, in one vector each.
//
// A thread owns a group in each of some neighbouring rows: `load_rows`, `store_rows`; where Y'CbCr
// is stored, two groups in each of two (store_tiles_yuv.cu). Where tile and frame are aligned and
// the rows are whole it goes *straight*: it asks for the words of all rows before it uses the
// first, with no branch between the loads, and whether a tile allows that is decided once for its
// block. All else goes the *general* way, row by row: borders, frames whose rows are not words
// apart. Measured on an H200, 3840 x 2160 in 180 tiles of 256 x 256, float16, in us with 4.4 of
// launch and events: at a copy's bandwidth (4.11 TB/s), and by rows of a thread in blocks of 32 x 4:
//
//                 copy     1*     2      4               copy     2      4      8
//   load rgb u8   27.7   39.7   31.2   32.9   store      22.5   27.2   26.0   27.0
//   load nv12     24.7   42.4   29.3   31.0   store      19.5   26.8   23.3   23.3
//
// and 22.1 where nv12 is stored in two groups by two rows. (* as it was: a row at a time, and for
// each plane a branch.) More rows of a load queue more stores than the load/store unit takes; fewer
// of a store leave too few bytes in flight. Those of a load are even, for chroma that two rows
// share. Any number is correct with any grid; the grid that fits is computed in
// mirnet_edge/device/tile_kernels.py.
#pragma once

#include "frame.cuh"

#ifndef LOAD_ROWS
#define LOAD_ROWS 2
#endif
#ifndef STORE_ROWS
#define STORE_ROWS 4
#endif
enum { load_rows = LOAD_ROWS, store_rows = STORE_ROWS };
static_assert(load_rows % 2 == 0, "two rows share chroma");

template <typename Value>
struct Tile {
    Value* values;
    size_t plane;
    int width;

    // The pixel's red; its green and blue are a plane and two further on.
    __device__ __forceinline__ Value* at(int x, int y) const {
        return values + (static_cast<long long>(y) * width + x);
    }
    // Whether the group at x of any row is a vector in each plane.
    template <int group>
    __device__ __forceinline__ bool in_vectors(int x) const {
        return width % group == 0 &&
               reinterpret_cast<size_t>(values + x) % sizeof(Vector<Value, group>) == 0;
    }
};

template <typename Value>
__device__ __forceinline__ Tile<Value> tile_of(Value* tiles, size_t index, int height, int width,
                                               int planes = 3) {
    const size_t plane = static_cast<size_t>(height) * width;
    return {tiles + index * plane * planes, plane, width};
}

// What of a kept region lies in its tile and in the frame.
struct Region { int top, left, bottom, right; };

__device__ __forceinline__ Region region_of(const int4& kept, const int2& origin, int tile_height,
                                            int tile_width, int height, int width) {
    return {max(max(kept.x, origin.y), 0), max(max(kept.y, origin.x), 0),
            min(min(kept.z, origin.y + tile_height), height),
            min(min(kept.w, origin.x + tile_width), width)};
}

// Writes a group of pixels to `out` in vectors, where the tile has them.
template <typename Value, int group>
__device__ __forceinline__ void write_vectors(const Tile<Value>& tile, Value* out,
                                              const Vector<Value, group> (&planes)[3]) {
#pragma unroll
    for (int c = 0; c < 3; ++c) write_vector(out + c * tile.plane, planes[c]);
}

// Reads a group of pixels from `in` in vectors, where the tile has them.
template <typename Value, int group>
__device__ __forceinline__ void read_vectors(const Tile<const Value>& tile, const Value* in,
                                             Vector<Value, group> (&planes)[3]) {
#pragma unroll
    for (int c = 0; c < 3; ++c) read_vector(in + c * tile.plane, planes[c]);
}

// Writes the group of pixels that begins at x, y, less what lies beyond the tile's width.
template <typename Value, int group>
__device__ __forceinline__ void write_pixels(const Tile<Value>& tile, int x, int y,
                                             const Vector<Value, group> (&planes)[3]) {
    Value* out = tile.at(x, y);
    if (tile.template in_vectors<group>(x)) {
        write_vectors(tile, out, planes);
        return;
    }
    const int count = tile.width - x < group ? tile.width - x : group;
#pragma unroll
    for (int i = 0; i < group; ++i) {
        if (i >= count) break;
#pragma unroll
        for (int c = 0; c < 3; ++c) out[c * tile.plane + i] = planes[c].values[i];
    }
}

// Reads pixels first..last - 1 of the group that begins at x, y. The others mean nothing.
template <typename Value, int group>
__device__ __forceinline__ void read_pixels(const Tile<const Value>& tile, int x, int y, int first,
                                            int last, Vector<Value, group> (&planes)[3]) {
    const Value* in = tile.at(x, y);
    if (first == 0 && last == group && tile.template in_vectors<group>(x)) {
        read_vectors(tile, in, planes);
        return;
    }
#pragma unroll
    for (int i = 0; i < group; ++i) {
        const int nearest = min(max(i, first), last - 1);
#pragma unroll
        for (int c = 0; c < 3; ++c) planes[c].values[i] = in[c * tile.plane + nearest];
    }
}

// KERNEL(name, Order, Sample, Value) for every interleaved frame and type of tiles.
#define FRAMES_OF_ORDER(KERNEL, order, Order)                                                      \
    KERNEL(order##_u8_f16, Order, unsigned char, __half)                                           \
    KERNEL(order##_u8_f32, Order, unsigned char, float)                                            \
    KERNEL(order##_u16_f16, Order, unsigned short, __half)                                         \
    KERNEL(order##_u16_f32, Order, unsigned short, float)                                          \
    KERNEL(order##_f32_f16, Order, float, __half)                                                  \
    KERNEL(order##_f32_f32, Order, float, float)

#define ALL_FRAMES(KERNEL)                                                                         \
    FRAMES_OF_ORDER(KERNEL, gray, Gray)                                                            \
    FRAMES_OF_ORDER(KERNEL, rgb, Rgb)                                                              \
    FRAMES_OF_ORDER(KERNEL, bgr, Bgr)                                                              \
    FRAMES_OF_ORDER(KERNEL, rgba, Rgba)                                                            \
    FRAMES_OF_ORDER(KERNEL, bgra, Bgra)
