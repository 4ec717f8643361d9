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
// = 128/255 + cb . mean, cr . mean with the mean rgb of the pixels that share them; all in units of
// 255 codes, cut to 0..1, times 255 rounded once, to nearest with ties to even. A NaN becomes 0 in
// luma and 128, no colour, in chroma.
//
// Bytes per pixel kept (read once + written once):
//
//                __half tiles   float tiles
//   nv12, i420      6 + 1.5       12 + 1.5
//   yuyv            6 + 2         12 + 2
//
// Thread mapping: blockIdx.z is the tile, y the rows of its region by `store_rows`, x its groups of
// 4 pixels, which begin at multiples of 4 in the frame. So a thread writes one word of luma in each
// row and one of chroma for each pair of rows (nv12), and reads vectors of 4 values where the
// tile's origin and width are multiples of 4 too: then those of all its rows and planes before it
// uses the first (tile.cuh: straight; the planes lie in words too). Any grid is correct in x and y; gridDim.z is the number of
// tiles.
#include "tile.cuh"
#include "yuv.cuh"

__device__ __forceinline__ float weighted(const float (&weights)[3], const float (&rgb)[3],
                                          float offset) {
    return fmaf(weights[2], rgb[2], fmaf(weights[1], rgb[1], fmaf(weights[0], rgb[0], offset)));
}

// The code, in the lowest byte, of a number whose 0..1 are the codes 0..255.
__device__ __forceinline__ unsigned code_of(float unit) {
    return __float_as_uint(fmaf(__saturatef(unit), 255.0f, 12582912.0f));
}

__device__ __forceinline__ unsigned chroma_code(const float (&weights)[3], const float (&sum)[3],
                                                float share) {
    const float chroma = weighted(weights, sum, 0.0f);
    return code_of(fmaf(chroma == chroma ? chroma : 0.0f, share, 128.0f / 255.0f));
}

// Codes of a group of 4 pixels in the rows that share chroma: words as Format::write takes them.
template <int rows, typename Value>
__device__ __forceinline__ unsigned codes_of(const Vector<Value, 4> (&planes)[rows][3],
                                             const RgbToYuv& matrix, unsigned (&luma)[rows]) {
    float sums[2][3];
#pragma unroll
    for (int row = 0; row < rows; ++row) {
        unsigned codes[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            float rgb[3];
            float(&sum)[3] = sums[i >> 1];
#pragma unroll
            for (int c = 0; c < 3; ++c) {
                rgb[c] = to_float(planes[row][c].values[i]);
                sum[c] = row == 0 && i % 2 == 0 ? rgb[c] : sum[c] + rgb[c];
            }
            codes[i] = code_of(weighted(matrix.luma, rgb, matrix.black));
        }
        luma[row] = bytes_of(codes[0], codes[1], codes[2], codes[3]);
    }
    constexpr float share = 0.5f / rows;
    return bytes_of(chroma_code(matrix.cb, sums[0], share), chroma_code(matrix.cr, sums[0], share),
                    chroma_code(matrix.cb, sums[1], share), chroma_code(matrix.cr, sums[1], share));
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
    constexpr int shares = store_rows / rows;
    const int2 origin = origins[blockIdx.z];
    const int4 region = kept[blockIdx.z];
    const int top = (max(max(region.x, origin.y), 0) + rows - 1) & -rows;
    const int left = (max(max(region.y, origin.x), 0) + 1) & -2;
    const int bottom = min(min(region.z, origin.y + tile_height), height) & -rows;
    const int right = min(min(region.w, origin.x + tile_width), width) & -2;
    const Tile<const Value> tile = tile_of(static_cast<const Value*>(tiles), blockIdx.z,
                                           tile_height, tile_width, padded_channels, channels_last);
    const int begin = left & -4;
    const bool straight =
        tile.template in_vectors<4>(begin - origin.x) && Format::straight(frame, begin, top);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * 4;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y) * store_rows;

    for (int y = top + static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y) * store_rows;
         y < bottom; y += step_y) {
        const int tile_y = y - origin.y;
        for (int x = begin + static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 4;
             x < right; x += step_x) {
            const int tile_x = x - origin.x;
            const int first = max(left - x, 0);
            const int last = min(right - x, 4);
            unsigned luma[rows];
            if (straight && y + store_rows <= bottom && first == 0 && last == 4) {
                const Value* in = tile.in_plane(tile_x, tile_y);
                const typename Format::Target target(frame, x, y);
                Vector<Value, 4> planes[shares][rows][3];
#pragma unroll
                for (int i = 0; i < store_rows; ++i) {
                    read_vectors(tile, in + i * tile.width, planes[i / rows][i % rows]);
                }
#pragma unroll
                for (int i = 0; i < shares; ++i) {
                    const unsigned chroma = codes_of(planes[i], matrix, luma);
                    target.write(i, luma, chroma);
                }
                continue;
            }
#pragma unroll 1
            for (int i = y; i < min(y + store_rows, bottom); i += rows) {
                Vector<Value, 4> planes[rows][3];
#pragma unroll
                for (int j = 0; j < rows; ++j) {
                    read_pixels(tile, tile_x, i - origin.y + j, first, last, planes[j]);
                }
                const unsigned chroma = codes_of(planes, matrix, luma);
                Format::write(frame, x, i, luma, chroma, first, last);
            }
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
