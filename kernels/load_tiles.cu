// load_tiles: a frame becomes the batch of tiles that the engine eats.
//
//   frame   (height, width, channels) interleaved, uint8 / uint16 / float32, rows pitch_bytes apart
//   origins (tiles, 2) int32: x, y of each tile's first pixel in the frame. Negative, or so far
//           right or down that the tile leaves the frame, is fine: the frame is continued by
//           reflection without repeating its border (numpy.pad mode="reflect"), at any distance,
//           for frames from 1x1 on.
//   tiles   (tiles, tile_planes, tile_height, tile_width) __half or float (tile.cuh): red, green,
//           blue in 0..1; planes beyond these three are not touched. Gray is written three times,
//           alpha is not used.
//
// Values are sample / maximum in float32, rounded to nearest even for __half; float32 frames as
// they are. A __half holds 11 bits: uint16 frames keep their depth only in float tiles.
//
// Bytes per pixel of a tile (read once + written once; halos are read again, from the cache):
//
//              __half tiles   float tiles
//   gray   u8      1 + 6         1 + 12
//   rgb    u8      3 + 6         3 + 12
//   rgba   u8      4 + 6         4 + 12      u16: 2x, f32: 4x the read
//
// Little is computed that could hide that, so the kernel is as good as its memory instructions.
// Thread mapping: blockIdx.z is the tile, y its rows by `load_rows`, x its groups of 4 (u8), 2
// (u16) or 1 (f32) pixels (frame.cuh). A warp of 32 x 1 threads on uint8 RGB reads 384 neighbouring
// bytes of each row in three word loads, those of all its rows before it converts the first, and
// writes 256 neighbouring bytes to each plane in one 8-byte store a thread (tile.cuh: straight).
// Three instructions make a __half of a byte: a byte permutation, a fmaf, and half of a conversion
// of two (frame.cuh). Groups off a word are read as words and shifted, those that cross the border
// sample by sample. Tile widths that the group does not divide, or an unaligned batch, are stored
// value by value: correct, slower, and no engine asks for them. Any grid is correct in x and y (the
// loops stride over it); gridDim.z is the number of tiles.
#include "tile.cuh"

template <typename Order, typename Sample, typename Value>
__device__ __forceinline__ void to_planes(const unsigned (&words)[Order::channels],
                                          Vector<Value, Group<Sample>::px> (&planes)[3]) {
    constexpr int group = Group<Sample>::px;
    constexpr int order[3] = {Order::red, Order::green, Order::blue};
#pragma unroll
    for (int c = 0; c < 3; ++c) {
#pragma unroll
        for (int i = 0; i < group; ++i) {
            const int sample = i * Order::channels + order[c];
            Depth<Sample>::unit(words[sample / group], sample % group, planes[c].values[i]);
        }
    }
}

// The straight way: `in` is the first row's place in the frame, `out` its vector of the tile.
template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void load_straight(const Sample* in, long long pitch_bytes,
                                          const Tile<Value>& tile, Value* out) {
    unsigned words[load_rows][Order::channels];
#pragma unroll
    for (int i = 0; i < load_rows; ++i) {
        Words<Order::channels>::read(row_at<Sample>(in, pitch_bytes, i), words[i]);
    }
#pragma unroll
    for (int i = 0; i < load_rows; ++i) {
        Vector<Value, Group<Sample>::px> planes[3];
        to_planes<Order, Sample>(words[i], planes);
        write_vectors(tile, out + i * tile.width, planes);
    }
}

// The general way, of one group.
template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void load_group(const Sample* row, int frame_x, int width,
                                           const Tile<Value>& tile, int x, int y) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;
    unsigned words[channels];
    if (!read_words(row, frame_x, width, words)) {
        unsigned bits[group * channels];
#pragma unroll
        for (int i = 0; i < group; ++i) {
            const long long column = reflected(frame_x + i, width);
#pragma unroll
            for (int c = 0; c < channels; ++c) {
                bits[i * channels + c] = Depth<Sample>::bits(row[column * channels + c]);
            }
        }
        to_words<Sample>(bits, words);
    }
    Vector<Value, group> planes[3];
    to_planes<Order, Sample>(words, planes);
    write_pixels(tile, x, y, planes);
}

template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void load_tiles(const void* __restrict__ frame, long long pitch_bytes,
                                           int height, int width, const int2* __restrict__ origins,
                                           void* __restrict__ tiles, int tile_planes,
                                           int tile_height, int tile_width) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;

    const int2 origin = origins[blockIdx.z];
    const Tile<Value> tile =
        tile_of(static_cast<Value*>(tiles), blockIdx.z, tile_height, tile_width, tile_planes);
    // Of the tile's first group, and with it of all that lie in the frame.
    const Sample* corner = row_at<Sample>(frame, pitch_bytes, origin.y) +
                           static_cast<long long>(origin.x) * channels;
    const bool straight = tile.template in_vectors<group>(0) &&
                          aligned(corner, pitch_bytes, Words<channels>::bytes);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * group;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y) * load_rows;

    for (int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y) * load_rows;
         y < tile_height; y += step_y) {
        const int frame_y = origin.y + y;
        const bool rows_whole = straight && y + load_rows <= tile_height && frame_y >= 0 &&
                                frame_y + load_rows <= height;
        for (int x = (blockIdx.x * blockDim.x + threadIdx.x) * group; x < tile_width; x += step_x) {
            const int frame_x = origin.x + x;
            if (rows_whole && frame_x >= 0 && frame_x + group <= width) {
                const Sample* in = row_at<Sample>(corner, pitch_bytes, y) +
                                   static_cast<long long>(x) * channels;
                load_straight<Sample, Order>(in, pitch_bytes, tile, tile.at(x, y));
                continue;
            }
#pragma unroll 1
            for (int i = y; i < min(y + load_rows, tile_height); ++i) {
                const int row_y = reflected(origin.y + i, height);
                load_group<Sample, Order>(row_at<Sample>(frame, pitch_bytes, row_y), frame_x, width,
                                          tile, x, i);
            }
        }
    }
}

#define LOAD_TILES(name, Order, Sample, Value)                                                     \
    extern "C" __global__ void __launch_bounds__(256) load_tiles_##name(                           \
        const void* __restrict__ frame, long long pitch_bytes, int height, int width,              \
        const int2* __restrict__ origins, void* __restrict__ tiles, int tile_planes,               \
        int tile_height, int tile_width) {                                                         \
        load_tiles<Sample, Order, Value>(frame, pitch_bytes, height, width, origins, tiles,        \
                                         tile_planes, tile_height, tile_width);                    \
    }

ALL_FRAMES(LOAD_TILES)
