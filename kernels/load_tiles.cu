// load_tiles: a frame becomes the batch of tiles that the engine eats.
//
//   frame   (height, width, channels) interleaved, uint8 / uint16 / float32, rows pitch_bytes apart
//   origins (tiles, 2) int32: x, y of each tile's first pixel in the frame. Negative, or so far
//           right or down that the tile leaves the frame, is fine: the frame is continued by
//           reflection without repeating its border (numpy.pad mode="reflect"), at any distance,
//           for frames from 1x1 on.
//   tiles   (tiles, padded_channels, tile_height, tile_width), or channels last (tile.cuh), __half
//           or float: red, green, blue in 0..1, then zeros. Gray is written three times, alpha is
//           not used.
//
// Values are sample / maximum in float32, rounded to nearest even for __half; float32 frames as
// they are. A __half holds 11 bits: uint16 frames keep their depth only in float tiles.
//
// Bytes per pixel of a tile (read once + written once; halos are read again, from the cache):
//
//                  __half, 3 planes   __half, 8 planes   float, 3 planes
//   gray   u8           1 +  6             1 + 16             1 + 12
//   rgb    u8           3 +  6             3 + 16             3 + 12
//   rgba   u8           4 +  6             4 + 16             4 + 12     u16: 2x, f32: 4x the read
//
// Nothing is computed that could hide that, so the kernel is as good as its memory instructions.
// Thread mapping: blockIdx.z is the tile, y its rows, x its groups of 4 (u8), 2 (u16) or 1 (f32)
// pixels (frame.cuh). A warp of 32 x 1 threads on uint8 RGB reads 384 neighbouring bytes in three
// or four word loads and writes 256 neighbouring bytes to each plane in one 8-byte store a thread.
// Tile widths that the group does not divide, or an unaligned batch, are stored value by value:
// correct, slower, and no engine asks for them. Any grid is correct in x and y (the loops stride
// over it); gridDim.z is the number of tiles.
#include "tile.cuh"

template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void load_tiles(const void* __restrict__ frame, long long pitch_bytes,
                                           int height, int width, const int2* __restrict__ origins,
                                           void* __restrict__ tiles, int tile_height,
                                           int tile_width, int padded_channels,
                                           int channels_last) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;

    const int2 origin = origins[blockIdx.z];
    const Tile<Value> tile = tile_of(static_cast<Value*>(tiles), blockIdx.z, tile_height,
                                     tile_width, padded_channels, channels_last);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * group;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y);

    for (int y = blockIdx.y * blockDim.y + threadIdx.y; y < tile_height; y += step_y) {
        const Sample* row = row_at<Sample>(frame, pitch_bytes, reflected(origin.y + y, height));
        for (int x = (blockIdx.x * blockDim.x + threadIdx.x) * group; x < tile_width; x += step_x) {
            Sample samples[group * channels];
            const int frame_x = origin.x + x;
            if (!read_words<Sample, channels>(row, frame_x, width, samples)) {
#pragma unroll
                for (int i = 0; i < group; ++i) {
                    const long long column = reflected(frame_x + i, width);
#pragma unroll
                    for (int c = 0; c < channels; ++c) {
                        samples[i * channels + c] = row[column * channels + c];
                    }
                }
            }

            Vector<Value, group> planes[3];
#pragma unroll
            for (int i = 0; i < group; ++i) {
                const Sample* pixel = samples + i * channels;
                from_float(Depth<Sample>::unit(pixel[Order::red]), planes[0].values[i]);
                from_float(Depth<Sample>::unit(pixel[Order::green]), planes[1].values[i]);
                from_float(Depth<Sample>::unit(pixel[Order::blue]), planes[2].values[i]);
            }
            write_pixels(tile, x, y, planes);
        }
    }
}

#define LOAD_TILES(name, Order, Sample, Value)                                                     \
    extern "C" __global__ void __launch_bounds__(256) load_tiles_##name(                           \
        const void* __restrict__ frame, long long pitch_bytes, int height, int width,              \
        const int2* __restrict__ origins, void* __restrict__ tiles, int tile_height,               \
        int tile_width, int padded_channels, int channels_last) {                                  \
        load_tiles<Sample, Order, Value>(frame, pitch_bytes, height, width, origins, tiles,        \
                                         tile_height, tile_width, padded_channels, channels_last); \
    }

#define LOAD_TILES_OF(order, Order)                                                                \
    LOAD_TILES(order##_u8_f16, Order, unsigned char, __half)                                       \
    LOAD_TILES(order##_u8_f32, Order, unsigned char, float)                                        \
    LOAD_TILES(order##_u16_f16, Order, unsigned short, __half)                                     \
    LOAD_TILES(order##_u16_f32, Order, unsigned short, float)                                      \
    LOAD_TILES(order##_f32_f16, Order, float, __half)                                              \
    LOAD_TILES(order##_f32_f32, Order, float, float)

LOAD_TILES_OF(gray, Gray)
LOAD_TILES_OF(rgb, Rgb)
LOAD_TILES_OF(bgr, Bgr)
LOAD_TILES_OF(rgba, Rgba)
LOAD_TILES_OF(bgra, Bgra)
