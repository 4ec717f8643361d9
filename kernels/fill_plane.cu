// fill_plane: the last plane of every tile becomes one value: the noise level that a network is told.
//
//   tiles   (tiles, planes, tile_height, tile_width) __half or float (tile.cuh); the other planes are
//           not touched
//   value   float, rounded to nearest even for __half
//
// Once a frame and beside its graphs: batches load their pixels around it, and a graph that was
// captured at one level serves them all. (cuMemset in two dimensions would do the same, where tiles
// are the device's own memory; an integrated GPU has them in mapped memory of the host.)
//
// Bytes: a plane of each tile, written once. At 1920 x 1080 in one tile of __half 4.1 MB.
//
// Thread mapping: blockIdx.z is the tile, x its values as 16-byte vectors, where the plane begins on
// one and holds whole ones, else one by one. Any grid is correct in x; gridDim.z is the number of
// tiles.
#include "tile.cuh"

template <typename Value>
__device__ __forceinline__ void fill_plane(void* tiles, int planes, int tile_height, int tile_width,
                                           float value) {
    constexpr int group = 16 / sizeof(Value);
    const Tile<Value> tile = tile_of(static_cast<Value*>(tiles), blockIdx.z, tile_height,
                                     tile_width, planes);
    Value* out = tile.values + (planes - 1) * tile.plane;
    const size_t thread = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
    Vector<Value, group> vector;
#pragma unroll
    for (int i = 0; i < group; ++i) from_float(value, vector.values[i]);
    if (tile.plane % group == 0 && reinterpret_cast<size_t>(out) % 16 == 0) {
        for (size_t i = thread; i < tile.plane / group; i += step) {
            write_vector(out + i * group, vector);
        }
        return;
    }
    for (size_t i = thread; i < tile.plane; i += step) out[i] = vector.values[0];
}

#define FILL_PLANE(name, Value)                                                                    \
    extern "C" __global__ void __launch_bounds__(256) fill_plane_##name(                           \
        void* tiles, int planes, int tile_height, int tile_width, float value) {                   \
        fill_plane<Value>(tiles, planes, tile_height, tile_width, value);                          \
    }

FILL_PLANE(f16, __half)
FILL_PLANE(f32, float)
