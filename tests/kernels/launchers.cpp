// Every kernel as a host function, but for those of noise_launchers.cpp. The kernels of one shape
// share a launcher, named after them.
#include "host_cuda.h"

#include "blend_tiles.cu"
#include "enlarge.cu"
#include "fill_plane.cu"
#include "luma_sums.cu"
#include "load_tiles.cu"
#include "load_tiles_yuv.cu"
#include "store_tiles.cu"
#include "store_tiles_yuv.cu"
#include "tile_loop.cu"

extern "C" void launch_load_tiles(decltype(&load_tiles_rgb_u8_f16) kernel, dim3 grid, dim3 block,
                                  const void* frame, long long pitch_bytes, int height, int width,
                                  const int2* origins, void* tiles, int tile_planes,
                                  int tile_height, int tile_width) {
    launch(kernel, grid, block, frame, pitch_bytes, height, width, origins, tiles, tile_planes,
           tile_height, tile_width);
}

extern "C" void launch_store_tiles(decltype(&store_tiles_rgb_u8_f16) kernel, dim3 grid, dim3 block,
                                   const void* tiles, int tile_height, int tile_width,
                                   const int2* origins, const int4* kept, void* frame,
                                   long long pitch_bytes, int height, int width, const void* alpha,
                                   long long alpha_pitch_bytes, unsigned long long* nonfinite) {
    launch(kernel, grid, block, tiles, tile_height, tile_width, origins, kept, frame, pitch_bytes,
           height, width, alpha, alpha_pitch_bytes, nonfinite);
}

extern "C" void launch_load_tiles_yuv(decltype(&load_tiles_nv12_u8_f16) kernel, dim3 grid,
                                      dim3 block, const void* y, long long y_pitch_bytes,
                                      const void* cb, long long cb_pitch_bytes, const void* cr,
                                      long long cr_pitch_bytes, int height, int width,
                                      const YuvToRgb* matrix, const int2* origins, void* tiles,
                                      int tile_planes, int tile_height, int tile_width) {
    launch(kernel, grid, block, y, y_pitch_bytes, cb, cb_pitch_bytes, cr, cr_pitch_bytes, height,
           width, *matrix, origins, tiles, tile_planes, tile_height, tile_width);
}

extern "C" void launch_store_tiles_yuv(decltype(&store_tiles_nv12_u8_f16) kernel, dim3 grid,
                                       dim3 block, const void* tiles, int tile_height,
                                       int tile_width, const int2* origins, const int4* kept,
                                       const RgbToYuv* matrix, void* y, long long y_pitch_bytes,
                                       void* cb, long long cb_pitch_bytes, void* cr,
                                       long long cr_pitch_bytes, int height, int width,
                                       unsigned long long* nonfinite) {
    launch(kernel, grid, block, tiles, tile_height, tile_width, origins, kept, *matrix, y,
           y_pitch_bytes, cb, cb_pitch_bytes, cr, cr_pitch_bytes, height, width, nonfinite);
}

extern "C" void launch_blend_tiles(decltype(&blend_tiles_f16) kernel, dim3 grid, dim3 block,
                                   void* ring, int ring_tiles, int tile_height, int tile_width,
                                   const int2* origins, const int4* settled, const int* cursor,
                                   int batch, int columns, const float* ramp, int blend) {
    launch(kernel, grid, block, ring, ring_tiles, tile_height, tile_width, origins, settled, cursor,
           batch, columns, ramp, blend);
}

extern "C" void launch_enlarge_tiles(decltype(&enlarge_tiles_x2_f16) kernel, dim3 grid, dim3 block,
                                     const void* planes, int plane_width, int height, int width,
                                     const int2* origins, void* tiles, int tile_planes,
                                     int tile_height, int tile_width) {
    launch(kernel, grid, block, planes, plane_width, height, width, origins, tiles, tile_planes,
           tile_height, tile_width);
}

extern "C" void launch_enlarge_alpha(decltype(&enlarge_alpha_x2_u8) kernel, dim3 grid, dim3 block,
                                     const void* frame, long long pitch_bytes, int height,
                                     int width, void* enlarged, long long enlarged_pitch_bytes) {
    launch(kernel, grid, block, frame, pitch_bytes, height, width, enlarged, enlarged_pitch_bytes);
}

extern "C" void launch_fill_plane(decltype(&fill_plane_f16) kernel, dim3 grid, dim3 block,
                                  void* tiles, int planes, int tile_height, int tile_width,
                                  const float* value) {
    launch(kernel, grid, block, tiles, planes, tile_height, tile_width, *value);
}

extern "C" void launch_luma_sums(decltype(&luma_sums_rgb_u8) kernel, dim3 grid, dim3 block,
                                 const void* frame, long long pitch_bytes, int height, int width,
                                 int row_step, unsigned long long* sums) {
    launch(kernel, grid, block, frame, pitch_bytes, height, width, row_step, sums);
}

extern "C" void launch_take_row(decltype(&take_row) kernel, dim3 grid, dim3 block,
                                const unsigned* table, int words, const int* cursor, int ring_rows,
                                unsigned* out) {
    launch(kernel, grid, block, table, words, cursor, ring_rows, out);
}

extern "C" void launch_put_row(decltype(&put_row) kernel, dim3 grid, dim3 block,
                               const unsigned* row, int words, const int* cursor, int ring_rows,
                               unsigned* table) {
    launch(kernel, grid, block, row, words, cursor, ring_rows, table);
}

extern "C" void launch_advance(decltype(&advance) kernel, dim3 grid, dim3 block, int* cursor) {
    launch(kernel, grid, block, cursor);
}

extern "C" void launch_lap(decltype(&lap) kernel, dim3 grid, dim3 block, unsigned long long* clock,
                           int index) {
    launch(kernel, grid, block, clock, index);
}

extern "C" void halves_of(const float* values, __half* halves, int count) {
    for (int i = 0; i < count; ++i) halves[i] = __float2half_rn(values[i]);
}

extern "C" void floats_of(const __half* halves, float* values, int count) {
    for (int i = 0; i < count; ++i) values[i] = __half2float(halves[i]);
}
