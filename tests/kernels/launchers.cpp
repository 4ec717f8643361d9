// Every kernel as a host function. The kernels of one shape share a launcher; grids are smaller
// than tiles and frames, so that the loops that stride over them run too.
#include "host_cuda.h"

#include "blend_tiles.cu"
#include "frame_statistics.cu"
#include "load_tiles.cu"
#include "load_tiles_yuv.cu"
#include "store_tiles.cu"
#include "store_tiles_yuv.cu"

extern "C" void launch_load_tiles(decltype(&load_tiles_rgb_u8_f16) kernel, unsigned tile_count,
                                  const void* frame, long long pitch_bytes, int height, int width,
                                  const int2* origins, void* tiles, int tile_height,
                                  int tile_width, int padded_channels, int channels_last) {
    launch(kernel, {2, 2, tile_count}, {2, 3, 1}, frame, pitch_bytes, height, width, origins, tiles,
           tile_height, tile_width, padded_channels, channels_last);
}

extern "C" void launch_store_tiles(decltype(&store_tiles_rgb_u8_f16) kernel, unsigned tile_count,
                                   const void* tiles, int tile_height, int tile_width,
                                   int padded_channels, int channels_last, const int2* origins,
                                   const int4* kept, void* frame, long long pitch_bytes, int height,
                                   int width, const void* alpha, long long alpha_pitch_bytes) {
    launch(kernel, {2, 2, tile_count}, {2, 3, 1}, tiles, tile_height, tile_width, padded_channels,
           channels_last, origins, kept, frame, pitch_bytes, height, width, alpha,
           alpha_pitch_bytes);
}

extern "C" void launch_load_tiles_yuv(decltype(&load_tiles_nv12_u8_f16) kernel, unsigned tile_count,
                                      const void* y, long long y_pitch_bytes, const void* cb,
                                      long long cb_pitch_bytes, const void* cr,
                                      long long cr_pitch_bytes, int height, int width,
                                      const YuvToRgb* matrix, const int2* origins, void* tiles,
                                      int tile_height, int tile_width, int padded_channels,
                                      int channels_last) {
    launch(kernel, {2, 2, tile_count}, {2, 3, 1}, y, y_pitch_bytes, cb, cb_pitch_bytes, cr,
           cr_pitch_bytes, height, width, *matrix, origins, tiles, tile_height, tile_width,
           padded_channels, channels_last);
}

extern "C" void launch_store_tiles_yuv(decltype(&store_tiles_nv12_u8_f16) kernel,
                                       unsigned tile_count, const void* tiles, int tile_height,
                                       int tile_width, int padded_channels, int channels_last,
                                       const int2* origins, const int4* kept,
                                       const RgbToYuv* matrix, void* y, long long y_pitch_bytes,
                                       void* cb, long long cb_pitch_bytes, void* cr,
                                       long long cr_pitch_bytes, int height, int width) {
    launch(kernel, {2, 2, tile_count}, {2, 3, 1}, tiles, tile_height, tile_width, padded_channels,
           channels_last, origins, kept, *matrix, y, y_pitch_bytes, cb, cb_pitch_bytes, cr,
           cr_pitch_bytes, height, width);
}

extern "C" void launch_blend_tiles(decltype(&blend_tiles_f16) kernel, unsigned tile_count,
                                   void* ring, int ring_tiles, int tile_height, int tile_width,
                                   int padded_channels, int channels_last, const int2* origins,
                                   const int4* settled, int first, int columns, const float* ramp,
                                   int blend) {
    launch(kernel, {2, 2, tile_count}, {2, 3, 1}, ring, ring_tiles, tile_height, tile_width,
           padded_channels, channels_last, origins, settled, first, columns, ramp, blend);
}

extern "C" void launch_frame_statistics(decltype(&frame_statistics_rgb_u8) kernel,
                                        const void* frame, long long pitch_bytes, int height,
                                        int width, int row_step, unsigned long long* sums) {
    launch(kernel, {2, 5, 1}, {2, 3, 1}, frame, pitch_bytes, height, width, row_step, sums);
}

extern "C" void halves_of(const float* values, __half* halves, int count) {
    for (int i = 0; i < count; ++i) halves[i] = __float2half_rn(values[i]);
}

extern "C" void floats_of(const __half* halves, float* values, int count) {
    for (int i = 0; i < count; ++i) values[i] = __half2float(halves[i]);
}
