// store_tiles_yuv: the kept region of every tile becomes its part of a Y'CbCr frame of 8 bits.
//
//   tiles      as for store_tiles: NCHW or channels last (tile.cuh), __half or float
//   origins    (tiles, 2) int32: x, y of each tile's first pixel in the frame, odd or even
//   kept       (tiles, 4) int32: y0, x0, y1, x1 in frame coordinates, ends excluded, cut to the
//              tile and to the frame. The borders are even (yuyv: those in x), so that the pixels
//              which share a chroma sample are of one tile and the sample is written once. What
//              remains odd after the cuts is cut further, to whole chroma samples. Tiling's regions
//              are even where `multiple` and `blend` are multiples of 4.
//   matrix     RgbToYuv, by value
//   y, cb, cr  planes of the frame and their pitches in bytes; formats, sizes, chroma: yuv.cuh
//
// In float32 with fused multiply-adds, red first: Y = black + luma . rgb for each pixel; Cb and Cr
// = 128 + cb . mean, cr . mean with the mean rgb of the pixels that share them; rounded to nearest
// with ties to even, cut to 0..255. A NaN becomes 0 in luma and 128, no colour, in chroma.
//
// Bytes per pixel kept (read once + written once):
//
//                __half tiles   float tiles
//   nv12, i420      6 + 1.5       12 + 1.5
//   yuyv            6 + 2         12 + 2
//
// Thread mapping: blockIdx.z is the tile, y the pairs of rows of its region (yuyv: the rows), x its
// groups of 4 pixels, which begin at multiples of 4 in the frame. So a thread writes one word of
// luma in each row and one of chroma, and reads vectors of 4 values where the tile's origin and
// width are multiples of 4 too. Any grid is correct in x and y; gridDim.z is the number of tiles.
#include "tile.cuh"
#include "yuv.cuh"

__device__ __forceinline__ float weighted(const float (&weights)[3], const float (&rgb)[3],
                                          float offset) {
    return fmaf(weights[2], rgb[2], fmaf(weights[1], rgb[1], fmaf(weights[0], rgb[0], offset)));
}

__device__ __forceinline__ unsigned char chroma_code(const float (&weights)[3],
                                                     const float (&sum)[3], float share) {
    const float chroma = weighted(weights, sum, 0.0f);
    const float code = fmaf(chroma == chroma ? chroma : 0.0f, share, 128.0f);
    return static_cast<unsigned char>(rounded(code, 255.0f));
}

// Codes of the group of 4 pixels at x, y of a tile, in as many rows as share chroma.
template <int rows, typename Value>
__device__ __forceinline__ void codes_of(Tile<const Value> tile, int x, int y, int first, int last,
                                         const RgbToYuv& matrix, unsigned char (&luma)[rows][4],
                                         unsigned char (&chroma)[4]) {
    float sums[2][3] = {};
#pragma unroll
    for (int row = 0; row < rows; ++row) {
        Vector<Value, 4> planes[3];
        read_pixels(tile, x, y + row, first, last, planes);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float rgb[3];
#pragma unroll
            for (int c = 0; c < 3; ++c) {
                rgb[c] = to_float(planes[c].values[i]);
                sums[i >> 1][c] += rgb[c];
            }
            const float code = weighted(matrix.luma, rgb, matrix.black);
            luma[row][i] = static_cast<unsigned char>(rounded(code, 255.0f));
        }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        chroma[2 * i] = chroma_code(matrix.cb, sums[i], 0.5f / rows);
        chroma[2 * i + 1] = chroma_code(matrix.cr, sums[i], 0.5f / rows);
    }
}

template <typename Format, typename Value>
__device__ __forceinline__ void store_tiles_yuv(const void* __restrict__ tiles, int tile_height,
                                                int tile_width, int padded_channels,
                                                int channels_last, const int2* __restrict__ origins,
                                                const int4* __restrict__ kept,
                                                const RgbToYuv& matrix,
                                                const Planes<unsigned char>& frame, int height,
                                                int width) {
    constexpr int rows = Format::rows;
    const int2 origin = origins[blockIdx.z];
    const int4 region = kept[blockIdx.z];
    const int top = (max(max(region.x, origin.y), 0) + rows - 1) & -rows;
    const int left = (max(max(region.y, origin.x), 0) + 1) & -2;
    const int bottom = min(min(region.z, origin.y + tile_height), height) & -rows;
    const int right = min(min(region.w, origin.x + tile_width), width) & -2;
    const Tile<const Value> tile = tile_of(static_cast<const Value*>(tiles), blockIdx.z,
                                           tile_height, tile_width, padded_channels, channels_last);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * 4;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y) * rows;

    for (int y = top + static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y) * rows; y < bottom;
         y += step_y) {
        for (int x = (left & -4) + static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 4;
             x < right; x += step_x) {
            const int first = max(left - x, 0);
            const int last = min(right - x, 4);
            unsigned char luma[rows][4];
            unsigned char chroma[4];
            codes_of(tile, x - origin.x, y - origin.y, first, last, matrix, luma, chroma);
            Format::write(frame, x, y, luma, chroma, first, last);
        }
    }
}

#define STORE_TILES_YUV(name, Format, Value)                                                       \
    extern "C" __global__ void __launch_bounds__(256) store_tiles_##name(                          \
        const void* __restrict__ tiles, int tile_height, int tile_width, int padded_channels,      \
        int channels_last, const int2* __restrict__ origins, const int4* __restrict__ kept,        \
        RgbToYuv matrix, void* y, long long y_pitch_bytes, void* cb, long long cb_pitch_bytes,     \
        void* cr, long long cr_pitch_bytes, int height, int width) {                               \
        store_tiles_yuv<Format, Value>(                                                            \
            tiles, tile_height, tile_width, padded_channels, channels_last, origins, kept, matrix, \
            {static_cast<unsigned char*>(y), y_pitch_bytes, static_cast<unsigned char*>(cb),       \
             cb_pitch_bytes, static_cast<unsigned char*>(cr), cr_pitch_bytes},                     \
            height, width);                                                                        \
    }

#define STORE_TILES_YUV_OF(format, Format)                                                         \
    STORE_TILES_YUV(format##_u8_f16, Format, __half)                                               \
    STORE_TILES_YUV(format##_u8_f32, Format, float)

STORE_TILES_YUV_OF(nv12, Nv12)
STORE_TILES_YUV_OF(i420, I420)
STORE_TILES_YUV_OF(yuyv, Yuyv)
