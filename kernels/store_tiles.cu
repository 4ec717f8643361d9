// store_tiles: the kept region of every tile becomes its part of the frame.
//
//   tiles   (tiles, padded_channels, tile_height, tile_width), or channels last (tile.cuh), __half
//           or float: red, green, blue in 0..1; the other channels are not read
//   origins (tiles, 2) int32: x, y of each tile's first pixel in the frame, as for load_tiles
//   kept    (tiles, 4) int32: y0, x0, y1, x1 in frame coordinates, ends excluded, cut to the tile
//           and to the frame. Pixels that no region covers keep what they hold. Regions that
//           overlap are written by both tiles, in no order: to blend, see blend_tiles.
//   frame   (height, width, channels) interleaved, uint8 / uint16 / float32, rows pitch_bytes apart
//   alpha   RGBA and BGRA: a frame of the same size and format whose alpha is copied. Pass the
//           frame itself and alpha stays in place: a thread reads its own pixels before it writes
//           them. Null: opaque (the maximum; 1 for float32). Gray, RGB and BGR do not look at it.
//
// Sample = value * maximum in float32, cut to 0..maximum, rounded to nearest with ties to even
// (numpy.rint); NaN becomes 0. Gray is the mean of the three, rounded once: (red + green + blue) *
// (maximum / 3), whose factor is a whole number. float32 frames get the value cut to 0..1 and not
// rounded, NaN as 0; their gray is the sum / 3, cut likewise. Alpha is copied as it is.
//
// Bytes per pixel kept (read once + written once):
//
//              __half tiles   float tiles
//   gray   u8      6 + 1         12 + 1
//   rgb    u8      6 + 3         12 + 3
//   rgba   u8     10 + 4         16 + 4      4 of the read: the alpha source (null: 6 + 4, 12 + 4)
//   u16, f32: 2x, 4x the written and the alpha bytes
//
// Thread mapping: blockIdx.z is the tile, y the rows of its region, x the groups of 4 (u8), 2 (u16)
// or 1 (f32) pixels (frame.cuh). The groups of a row begin where the *frame* is aligned to 4 bytes,
// so a group goes out as whole words (uint8 RGB: 3 words a thread, 384 neighbouring bytes a warp)
// for any pitch and any region; only the first and last group of a row go sample by sample, and
// uint8 RGBA frames that begin off a word. The planes are read one vector a thread (8 bytes for
// four __half) where the tile is aligned there too, as it is when origins, regions and tile width
// are multiples of 4, and value by value elsewhere. Any grid is correct in x and y (the loops
// stride over it); gridDim.z is the number of tiles.
#include "tile.cuh"

// Fills the last sample of each pixel of the group that begins at x: from the alpha frame, cut to
// columns left..right - 1, or with the maximum where there is none.
template <typename Sample, int channels>
__device__ __forceinline__ void read_alpha(const void* alpha, long long pitch_bytes, int x, int y,
                                           int left, int right, int width,
                                           Sample (&samples)[Group<Sample>::px * channels]) {
    constexpr int group = Group<Sample>::px;
    if (channels != 4 || alpha == nullptr) {
#pragma unroll
        for (int i = 0; i < group; ++i) {
            samples[i * channels + channels - 1] = Depth<Sample>::sample(1.0f);
        }
        return;
    }
    const Sample* row = row_at<Sample>(alpha, pitch_bytes, y);
    const bool whole = x >= left && x + group <= right;
    if (whole && read_words<Sample, channels>(row, x, width, samples)) return;
#pragma unroll
    for (int i = 0; i < group; ++i) {
        const int alpha_x = min(max(x + i, left), right - 1);
        samples[i * channels + channels - 1] =
            row[static_cast<long long>(alpha_x) * channels + channels - 1];
    }
}

// Writes pixels first..last - 1 of a group: as words where `words` says that it begins on one.
template <typename Sample, int channels>
__device__ __forceinline__ void write_samples(
    Sample* out, const Sample (&samples)[Group<Sample>::px * channels], int first, int last,
    bool words) {
    constexpr int group = Group<Sample>::px;
    if (words && first == 0 && last == group) {
#pragma unroll
        for (int i = 0; i < channels; ++i) {
            Vector<Sample, group> word;
#pragma unroll
            for (int j = 0; j < group; ++j) word.values[j] = samples[i * group + j];
            reinterpret_cast<Vector<Sample, group>*>(out)[i] = word;
        }
        return;
    }
#pragma unroll
    for (int i = 0; i < group; ++i) {
        if (i < first || i >= last) continue;
#pragma unroll
        for (int c = 0; c < channels; ++c) out[i * channels + c] = samples[i * channels + c];
    }
}

template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void store_tiles(const void* __restrict__ tiles, int tile_height,
                                            int tile_width, int padded_channels, int channels_last,
                                            const int2* __restrict__ origins,
                                            const int4* __restrict__ kept, void* frame,
                                            long long pitch_bytes, int height, int width,
                                            const void* alpha, long long alpha_pitch_bytes) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;
    constexpr int pixel_bytes = channels * sizeof(Sample);

    const int2 origin = origins[blockIdx.z];
    const int4 region = kept[blockIdx.z];
    const int top = max(max(region.x, origin.y), 0);
    const int left = max(max(region.y, origin.x), 0);
    const int bottom = min(min(region.z, origin.y + tile_height), height);
    const int right = min(min(region.w, origin.x + tile_width), width);
    const Tile<const Value> tile = tile_of(static_cast<const Value*>(tiles), blockIdx.z,
                                           tile_height, tile_width, padded_channels, channels_last);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * group;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y);

    for (int y = top + blockIdx.y * blockDim.y + threadIdx.y; y < bottom; y += step_y) {
        Sample* row = row_at<Sample>(frame, pitch_bytes, y);
        int phase = 0;
        const size_t address = reinterpret_cast<size_t>(row);
        while (phase < group - 1 && (address + phase * pixel_bytes) % 4 != 0) ++phase;
        const bool words = (address + phase * pixel_bytes) % 4 == 0;
        const int begin = left - ((left - phase) & (group - 1));

        for (int x = begin + static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * group;
             x < right; x += step_x) {
            const int first = max(left - x, 0);
            const int last = min(right - x, static_cast<int>(group));
            Vector<Value, group> planes[3];
            read_pixels(tile, x - origin.x, y - origin.y, first, last, planes);
            Sample samples[group * channels];
            read_alpha<Sample, channels>(alpha, alpha_pitch_bytes, x, y, left, right, width,
                                         samples);
#pragma unroll
            for (int i = 0; i < group; ++i) {
                const float red = to_float(planes[0].values[i]);
                const float green = to_float(planes[1].values[i]);
                const float blue = to_float(planes[2].values[i]);
                Sample* pixel = samples + i * channels;
                if (channels == 1) {
                    pixel[0] = Depth<Sample>::mean((red + green) + blue);
                } else {
                    pixel[Order::red] = Depth<Sample>::sample(red);
                    pixel[Order::green] = Depth<Sample>::sample(green);
                    pixel[Order::blue] = Depth<Sample>::sample(blue);
                }
            }
            Sample* out = row + static_cast<long long>(x) * channels;
            write_samples<Sample, channels>(out, samples, first, last, words);
        }
    }
}

#define STORE_TILES(name, Order, Sample, Value)                                                    \
    extern "C" __global__ void __launch_bounds__(256) store_tiles_##name(                          \
        const void* __restrict__ tiles, int tile_height, int tile_width, int padded_channels,      \
        int channels_last, const int2* __restrict__ origins, const int4* __restrict__ kept,        \
        void* frame, long long pitch_bytes, int height, int width, const void* alpha,              \
        long long alpha_pitch_bytes) {                                                             \
        store_tiles<Sample, Order, Value>(tiles, tile_height, tile_width, padded_channels,         \
                                          channels_last, origins, kept, frame, pitch_bytes,        \
                                          height, width, alpha, alpha_pitch_bytes);                \
    }

#define STORE_TILES_OF(order, Order)                                                               \
    STORE_TILES(order##_u8_f16, Order, unsigned char, __half)                                      \
    STORE_TILES(order##_u8_f32, Order, unsigned char, float)                                       \
    STORE_TILES(order##_u16_f16, Order, unsigned short, __half)                                    \
    STORE_TILES(order##_u16_f32, Order, unsigned short, float)                                     \
    STORE_TILES(order##_f32_f16, Order, float, __half)                                             \
    STORE_TILES(order##_f32_f32, Order, float, float)

STORE_TILES_OF(gray, Gray)
STORE_TILES_OF(rgb, Rgb)
STORE_TILES_OF(bgr, Bgr)
STORE_TILES_OF(rgba, Rgba)
STORE_TILES_OF(bgra, Bgra)
