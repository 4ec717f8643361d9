// store_tiles_yuv: the kept region of every tile becomes its part of a Y'CbCr frame of 8 bits.
//
//   tiles      as for store_tiles (tile.cuh): red, green, blue, __half or float
//   origins    (tiles, 2) int32: x, y of each tile's first pixel in the frame, odd or even
//   kept       (tiles, 4) int32: y0, x0, y1, x1 in frame coordinates, ends excluded, cut to the
//              tile and to the frame. The borders are even (yuyv: those in x), so that the pixels
//              which share a chroma sample are of one tile and the sample is written once. What
//              remains odd after the cuts is cut further, to whole chroma samples. Tiling's regions
//              are even where `multiple` and `blend` are multiples of 4.
//   matrix     RgbToYuv, by value
//   y, cb, cr  planes of the frame and their pitches in bytes; formats, sizes, chroma: yuv.cuh
//   nonfinite  one uint64, or null: the number of stored values of the tiles that are NaN or
//              infinite is added to it (finite.cuh)
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
// Thread mapping: blockIdx.z is the tile, y the rows of its region by `yuv_rows`, x its runs of 8
// pixels, two groups of 4, which begin at multiples of 8 in the frame. Where tile and planes are
// aligned to 8 pixels a thread goes straight (tile.cuh): it reads vectors of 16 bytes, those of all
// its rows and planes before it uses the first, and writes two words of luma in each row and two of
// chroma for the rows that share it. All else goes group by group. Any grid is correct in x and y;
// gridDim.z is the number of tiles; a block has 128 threads at most.
#include "finite.cuh"
#include "yuv.cuh"

enum { yuv_rows = 2 };

// Blocks of 128 threads on a multiprocessor, so that a thread has the registers to ask for all its
// vectors at once. With 48, for ten blocks of __half, the compiler lets the sixth wait for the
// first: 23.5 us on an H200 (3840 x 2160, nv12), and 22.1 with nine.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
enum { half_blocks = 9 };
#else
enum { half_blocks = 8 };
#endif
enum { float_blocks = 6 };

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
// `zero` stays zero, or becomes NaN where some value is not finite, and with it its luma.
template <int rows, typename Value>
__device__ __forceinline__ unsigned codes_of(const Vector<Value, 4> (&planes)[rows][3],
                                             const RgbToYuv& matrix, unsigned (&luma)[rows],
                                             float& zero) {
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
            const float number = weighted(matrix.luma, rgb, matrix.black);
            zero = fmaf(number, 0.0f, zero);
            codes[i] = code_of(number);
        }
        luma[row] = bytes_of(codes[0], codes[1], codes[2], codes[3]);
    }
    constexpr float share = 0.5f / rows;
    return bytes_of(chroma_code(matrix.cb, sums[0], share), chroma_code(matrix.cr, sums[0], share),
                    chroma_code(matrix.cb, sums[1], share), chroma_code(matrix.cr, sums[1], share));
}

// Reads 8 values as two groups, in vectors of 16 bytes.
template <typename Value>
__device__ __forceinline__ void read_groups(const Value* in, Vector<Value, 4>& first,
                                            Vector<Value, 4>& second) {
    constexpr int count = 16 / sizeof(Value);
    Vector<Value, count> vectors[8 / count];
#pragma unroll
    for (int i = 0; i < 8 / count; ++i) read_vector(in + i * count, vectors[i]);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        first.values[i] = vectors[0].values[i];
        second.values[i] = vectors[(4 + i) / count].values[(4 + i) % count];
    }
}

// The straight way: `in` is the first value of the 8 pixels in the first row.
template <typename Format, typename Value>
__device__ __forceinline__ void store_straight(const Tile<const Value>& tile, const Value* in,
                                               const RgbToYuv& matrix,
                                               const Planes<unsigned char>& frame, int x, int y,
                                               unsigned long long* nonfinite) {
    constexpr int rows = Format::rows;
    constexpr int shares = yuv_rows / rows;
    Vector<Value, 4> groups[shares][2][rows][3];
#pragma unroll
    for (int i = 0; i < yuv_rows; ++i) {
#pragma unroll
        for (int c = 0; c < 3; ++c) {
            read_groups(in + i * tile.width + c * tile.plane,
                        groups[i / rows][0][i % rows][c], groups[i / rows][1][i % rows][c]);
        }
    }
    const typename Format::Target target(frame, x, y);
    float zero = 0.0f;
#pragma unroll
    for (int i = 0; i < shares; ++i) {
        Pair luma[rows], chroma;
#pragma unroll
        for (int group = 0; group < 2; ++group) {
            unsigned codes[rows];
            chroma.values[group] = codes_of(groups[i][group], matrix, codes, zero);
#pragma unroll
            for (int j = 0; j < rows; ++j) luma[j].values[group] = codes[j];
        }
        target.write(i, luma, chroma);
    }
    count_nonfinite(zero, tile, in, yuv_rows, 8, nonfinite);
}

// The general way, of one group, in the rows that share chroma: columns left..right - 1.
template <typename Format, typename Value>
__device__ __forceinline__ void store_group(const Tile<const Value>& tile, const int2& origin,
                                            const RgbToYuv& matrix,
                                            const Planes<unsigned char>& frame, int x, int y,
                                            int left, int right, unsigned long long* nonfinite) {
    constexpr int rows = Format::rows;
    const int first = max(left - x, 0);
    const int last = min(right - x, 4);
    if (first >= last) return;
    Vector<Value, 4> planes[rows][3];
#pragma unroll
    for (int i = 0; i < rows; ++i) {
        read_pixels(tile, x - origin.x, y - origin.y + i, first, last, planes[i]);
    }
    unsigned luma[rows];
    float zero = 0.0f;
    const unsigned chroma = codes_of(planes, matrix, luma, zero);
    Format::write(frame, x, y, luma, chroma, first, last);
    // Of the pixels beside first..last - 1, `planes` has copies of these.
    count_nonfinite(zero, tile, tile.at(x + first - origin.x, y - origin.y), rows, last - first,
                    nonfinite);
}

template <typename Format, typename Value>
__device__ __forceinline__ void store_tiles_yuv(const void* __restrict__ tiles, int tile_height,
                                                int tile_width,
                                                const int2* __restrict__ origins,
                                                const int4* __restrict__ kept,
                                                const RgbToYuv& matrix,
                                                const Planes<unsigned char>& frame, int height,
                                                int width, unsigned long long* nonfinite) {
    constexpr int rows = Format::rows;
    const int2 origin = origins[blockIdx.z];
    const Region region =
        region_of(kept[blockIdx.z], origin, tile_height, tile_width, height, width);
    const int top = (region.top + rows - 1) & -rows;
    const int left = (region.left + 1) & -2;
    const int bottom = region.bottom & -rows;
    const int right = region.right & -2;
    const Tile<const Value> tile =
        tile_of(static_cast<const Value*>(tiles), blockIdx.z, tile_height, tile_width);
    const int begin = left & -8;
    const bool straight = tile.template in_vectors<16 / sizeof(Value)>(begin - origin.x) &&
                          Format::Target::fits(frame, begin);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * 8;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y) * yuv_rows;

    for (int y = top + static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y) * yuv_rows;
         y < bottom; y += step_y) {
        for (int x = begin + static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * 8; x < right;
             x += step_x) {
            if (straight && y + yuv_rows <= bottom && x >= left && x + 8 <= right) {
                store_straight<Format>(tile, tile.at(x - origin.x, y - origin.y), matrix,
                                       frame, x, y, nonfinite);
                continue;
            }
#pragma unroll 1
            for (int row = y; row < min(y + yuv_rows, bottom); row += rows) {
#pragma unroll 1
                for (int group = x; group < x + 8; group += 4) {
                    store_group<Format>(tile, origin, matrix, frame, group, row, left, right,
                                        nonfinite);
                }
            }
        }
    }
}

#define STORE_TILES_YUV(name, Format, Value)                                                       \
    extern "C" __global__ void __launch_bounds__(                                                  \
        128, sizeof(Value) == 2 ? half_blocks : float_blocks) store_tiles_##name(                  \
        const void* __restrict__ tiles, int tile_height, int tile_width,                           \
        const int2* __restrict__ origins, const int4* __restrict__ kept, RgbToYuv matrix, void* y, \
        long long y_pitch_bytes, void* cb, long long cb_pitch_bytes, void* cr,                     \
        long long cr_pitch_bytes, int height, int width, unsigned long long* nonfinite) {          \
        store_tiles_yuv<Format, Value>(                                                            \
            tiles, tile_height, tile_width, origins, kept, matrix,                                 \
            {static_cast<unsigned char*>(y), y_pitch_bytes, static_cast<unsigned char*>(cb),       \
             cb_pitch_bytes, static_cast<unsigned char*>(cr), cr_pitch_bytes},                     \
            height, width, nonfinite);                                                             \
    }

ALL_YUV_FRAMES(STORE_TILES_YUV)
