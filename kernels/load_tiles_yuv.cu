// load_tiles_yuv: a Y'CbCr frame of 8 bits becomes the batch of tiles that the engine eats.
//
//   y, cb, cr  planes of the frame and their pitches in bytes; formats, sizes, chroma: yuv.cuh
//   matrix     YuvToRgb, by value
//   origins    (tiles, 2) int32: x, y of each tile's first pixel in the frame, odd or even. The
//              frame is continued by reflection of its *pixels*, as load_tiles continues it.
//   tiles      as for load_tiles (tile.cuh), with tile_planes: red, green, blue, __half or float.
//              0..1 for the colours of RGB, a little outside for other codes.
//
// In float32: luma' = (Y - black) * luma, then red = red_cr * (Cr - 128) + luma' and so on with
// fused multiply-adds, so that grays come out with three equal values.
//
// Bytes per pixel of a tile (read once + written once; halos are read again, from the cache):
//
//                __half tiles   float tiles
//   nv12, i420      1.5 + 6       1.5 + 12
//   yuyv            2   + 6       2   + 12
//
// Thread mapping: that of load_tiles with groups of 4 pixels. A thread that goes straight
// (tile.cuh) reads a word of luma in each of its rows and a word of chroma for each two (nv12), or
// two words a row in one load (yuyv), all before it uses the first; chroma is converted once for
// the rows that share it. Groups that begin off a word at an even x are read as words and shifted;
// those at an odd x, or across the border, pixel by pixel. Any grid is correct in x and y;
// gridDim.z is the number of tiles.
#include "tile.cuh"
#include "yuv.cuh"

template <typename Value>
__device__ __forceinline__ void to_planes(const YuvToRgb& matrix, const Codes& codes,
                                          Vector<Value, 4> (&planes)[3]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const float luma = (codes.luma[i] - matrix.black) * matrix.luma;
        const float cb = codes.cb[i];
        const float cr = codes.cr[i];
        from_float(fmaf(matrix.red_cr, cr, luma), planes[0].values[i]);
        from_float(fmaf(matrix.green_cr, cr, fmaf(matrix.green_cb, cb, luma)),
                   planes[1].values[i]);
        from_float(fmaf(matrix.blue_cb, cb, luma), planes[2].values[i]);
    }
}

template <typename Format, typename Value>
__device__ __forceinline__ void load_tiles_yuv(const Planes<const unsigned char>& frame, int height,
                                               int width, const YuvToRgb& matrix,
                                               const int2* __restrict__ origins,
                                               void* __restrict__ tiles, int tile_planes,
                                               int tile_height, int tile_width) {
    const int2 origin = origins[blockIdx.z];
    const Tile<Value> tile =
        tile_of(static_cast<Value*>(tiles), blockIdx.z, tile_height, tile_width, tile_planes);
    // Of the tile's first group, and with it of all that lie in the frame.
    const bool straight =
        tile.template in_vectors<4>(0) && Format::straight(frame, origin.x, origin.y);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * 4;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y) * load_rows;

    for (int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y) * load_rows;
         y < tile_height; y += step_y) {
        const int frame_y = origin.y + y;
        const bool rows_whole = straight && y + load_rows <= tile_height && frame_y >= 0 &&
                                frame_y + load_rows <= height;
        for (int x = (blockIdx.x * blockDim.x + threadIdx.x) * 4; x < tile_width; x += step_x) {
            const int frame_x = origin.x + x;
            Vector<Value, 4> planes[3];
            if (rows_whole && frame_x >= 0 && frame_x + 4 <= width) {
                typename Format::template Rows<load_rows> rows;
                rows.read(frame, frame_x, frame_y);
#pragma unroll
                for (int i = 0; i < load_rows; ++i) {
                    to_planes(matrix, rows.codes(i), planes);
                    write_vectors(tile, tile.at(x, y + i), planes);
                }
                continue;
            }
#pragma unroll 1
            for (int i = y; i < min(y + load_rows, tile_height); ++i) {
                const int row_y = reflected(origin.y + i, height);
                Codes codes;
                if (frame_x % 2 != 0 || !Format::read_group(frame, frame_x, row_y, width, codes)) {
#pragma unroll
                    for (int pixel = 0; pixel < 4; ++pixel) {
                        const int column = reflected(frame_x + pixel, width);
                        Format::read_pixel(frame, column, row_y, pixel, codes);
                    }
                }
                to_planes(matrix, codes, planes);
                write_pixels(tile, x, i, planes);
            }
        }
    }
}

#define LOAD_TILES_YUV(name, Format, Value)                                                        \
    extern "C" __global__ void __launch_bounds__(256) load_tiles_##name(                           \
        const void* __restrict__ y, long long y_pitch_bytes, const void* __restrict__ cb,          \
        long long cb_pitch_bytes, const void* __restrict__ cr, long long cr_pitch_bytes,           \
        int height, int width, YuvToRgb matrix, const int2* __restrict__ origins,                  \
        void* __restrict__ tiles, int tile_planes, int tile_height, int tile_width) {              \
        load_tiles_yuv<Format, Value>(                                                             \
            {static_cast<const unsigned char*>(y), y_pitch_bytes,                                  \
             static_cast<const unsigned char*>(cb), cb_pitch_bytes,                                \
             static_cast<const unsigned char*>(cr), cr_pitch_bytes},                               \
            height, width, matrix, origins, tiles, tile_planes, tile_height, tile_width);          \
    }

ALL_YUV_FRAMES(LOAD_TILES_YUV)
