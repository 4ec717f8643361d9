// What the tile kernels share on the engine's side: how pixels lie in a batch of tiles.
//
//   channels_last 0   (tiles, padded_channels, tile_height, tile_width), padded_channels >= 3
//   channels_last 1   (tiles, tile_height, tile_width, padded_channels), padded_channels a multiple
//                     of 4 and the batch aligned to 4 values; with 8 this is TensorRT's kHWC8
//
// The first three channels are red, green, blue; the others are padding: written as zeros, never
// read. A thread moves a group of neighbouring pixels (frame.cuh): channel by channel in one vector
// each, or, where channels are last, pixel by pixel in vectors of 4 values.
#pragma once

#include "frame.cuh"

template <typename Value>
struct Tile {
    Value* values;
    size_t channel_step;
    int pixel_step;
    int width;
    int channels;

    __device__ __forceinline__ Value* at(int x, int y) const {
        return values + (static_cast<long long>(y) * width + x) * pixel_step;
    }
};

template <typename Value>
__device__ __forceinline__ Tile<Value> tile_of(Value* tiles, size_t index, int height, int width,
                                               int padded_channels, int channels_last) {
    const size_t plane = static_cast<size_t>(height) * width;
    Tile<Value> tile;
    tile.values = tiles + index * plane * padded_channels;
    tile.channel_step = channels_last ? 1 : plane;
    tile.pixel_step = channels_last ? padded_channels : 1;
    tile.width = width;
    tile.channels = padded_channels;
    return tile;
}

// Writes the group of pixels that begins at x, y, less what lies beyond the tile's width.
template <typename Value, int group>
__device__ __forceinline__ void write_pixels(Tile<Value> tile, int x, int y,
                                             const Vector<Value, group> (&planes)[3]) {
    typedef Vector<Value, group> Vec;
    typedef Vector<Value, 4> Quad;
    Value* out = tile.at(x, y);
    Value zero;
    from_float(0.0f, zero);
    const int count = tile.width - x < group ? tile.width - x : group;
    if (tile.pixel_step != 1) {
#pragma unroll
        for (int i = 0; i < group; ++i) {
            if (i >= count) break;
            Value* pixel = out + i * tile.pixel_step;
            *reinterpret_cast<Quad*>(pixel) =
                Quad{planes[0].values[i], planes[1].values[i], planes[2].values[i], zero};
#pragma unroll 1
            for (int c = 4; c < tile.channels; c += 4) {
                *reinterpret_cast<Quad*>(pixel + c) = Quad{zero, zero, zero, zero};
            }
        }
    } else if (tile.width % group == 0 && reinterpret_cast<size_t>(out) % sizeof(Vec) == 0) {
        Vec zeros;
#pragma unroll
        for (int i = 0; i < group; ++i) zeros.values[i] = zero;
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            *reinterpret_cast<Vec*>(out + c * tile.channel_step) = planes[c];
        }
#pragma unroll 1
        for (int c = 3; c < tile.channels; ++c) {
            *reinterpret_cast<Vec*>(out + c * tile.channel_step) = zeros;
        }
    } else {
#pragma unroll
        for (int i = 0; i < group; ++i) {
            if (i >= count) break;
#pragma unroll
            for (int c = 0; c < 3; ++c) out[c * tile.channel_step + i] = planes[c].values[i];
#pragma unroll 1
            for (int c = 3; c < tile.channels; ++c) out[c * tile.channel_step + i] = zero;
        }
    }
}

// Reads pixels first..last - 1 of the group that begins at x, y. The others mean nothing.
template <typename Value, int group>
__device__ __forceinline__ void read_pixels(Tile<const Value> tile, int x, int y, int first,
                                            int last, Vector<Value, group> (&planes)[3]) {
    typedef Vector<Value, group> Vec;
    typedef Vector<Value, 4> Quad;
    const Value* in = tile.at(x, y);
    if (tile.pixel_step != 1) {
#pragma unroll
        for (int i = 0; i < group; ++i) {
            const int nearest = min(max(i, first), last - 1);
            const Quad pixel = *reinterpret_cast<const Quad*>(in + nearest * tile.pixel_step);
#pragma unroll
            for (int c = 0; c < 3; ++c) planes[c].values[i] = pixel.values[c];
        }
        return;
    }
    const bool whole = first == 0 && last == group;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
        const Value* source = in + c * tile.channel_step;
        if (whole && reinterpret_cast<size_t>(source) % sizeof(Vec) == 0) {
            planes[c] = *reinterpret_cast<const Vec*>(source);
        } else {
#pragma unroll
            for (int i = 0; i < group; ++i) {
                if (i >= first && i < last) {
                    planes[c].values[i] = source[i];
                } else {
                    from_float(0.0f, planes[c].values[i]);
                }
            }
        }
    }
}
