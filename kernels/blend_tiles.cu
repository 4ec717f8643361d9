// blend_tiles: where a tile fades in, its pixels become those of the blended frame, in place; then
// any store_tiles kernel stores the tile's settled region as it would store a tile that was cut.
//
//   ring      ring_tiles tiles as for store_tiles (tile.cuh), __half or float. Tile t of a frame,
//             in reading order, lies at t % ring_tiles.
//   origins   (tiles of the frame, 2) int32: x, y of each tile's first pixel in the frame
//   settled   (tiles of the frame, 4) int32: y0, x0, y1, x1 in frame coordinates, ends excluded:
//             rows and columns Span.start .. Span.stop - Span.fade_out (mirnet_edge/tiling)
//   cursor    one int32 in memory of the device, so that a captured launch moves on with it
//   batch     tiles of a launch, and gridDim.z: this one blends *cursor * batch and those after it.
//             Where the last launch reaches beyond the frame's last tile, origins and settled have
//             rows for that too, and the regions there are empty (y1 <= y0).
//   columns   tiles in a row of tiles
//   ramp      (blend) float32: the weights with which a tile fades in; its neighbour fades out with
//             1 - ramp. The first `blend` rows of a settled region are faded unless the tile is in
//             the first row of tiles, its first `blend` columns unless it is in the first column.
//
// A pixel that fades in has up to three partners: the tiles to the left, above, and above left.
// Across, it becomes own * ramp + left * (1 - ramp); then the same down, with what the two tiles
// above make across. That is the sum of mirnet_edge/host/seams.py, in float32, rounded once to the
// tile's type.
//
// Tiles read each other where they fade *out*, which lies outside every settled region, and write
// where they fade in: so the order of tiles, and their being in one launch, does not matter. Of
// earlier launches only `columns` + 1 tiles are read: a ring of columns + 1 + tiles per launch is
// enough, and the frame's tiles are never resident all at once. Launch after the engine has
// written these tiles, before the store, and before the engine overwrites their partners.
//
// Bytes per faded pixel: its own value and one partner's are read (three partners' in a corner,
// where rows and columns fade), one is written: __half 12 + 6, float 24 + 12; the store kernel then
// finds it in the cache. Of a 256 x 256 tile with a halo of 16, 15 % of the pixels fade at blend
// 16: 2.7 bytes a pixel beside the 9 of storing __half as uint8 RGB. Gathering in the store kernels
// would save a third of that, and would need a second kernel of each of them.
//
// Thread mapping: blockIdx.z is the tile, y its settled rows, x the columns of a row that fade: all
// in the first `blend` rows, `blend` in the others. Any grid is correct in x and y.
#include "tile.cuh"

// A tile that is read at frame coordinates.
template <typename Value>
struct Placed {
    Tile<Value> tile;
    int2 origin;

    __device__ __forceinline__ Value* at(int x, int y) const {
        return tile.at(x - origin.x, y - origin.y);
    }
};

template <typename Value>
struct Ring {
    Value* values;
    int tiles, height, width;
    const int2* origins;

    __device__ __forceinline__ Placed<Value> operator[](int index) const {
        return {tile_of(values, index % tiles, height, width), origins[index]};
    }
};

__device__ __forceinline__ float mixed(float own, float partner, float weight) {
    return fmaf(own, weight, partner * (1.0f - weight));
}

template <typename Value>
__device__ __forceinline__ void blend_tiles(const Ring<Value>& ring,
                                            const int4* __restrict__ settled,
                                            const int* __restrict__ cursor, int batch, int columns,
                                            const float* __restrict__ ramp, int blend) {
    const int index = *cursor * batch + static_cast<int>(blockIdx.z);
    const int4 region = settled[index];
    const int fade_y = index >= columns ? blend : 0;
    const int fade_x = index % columns != 0 ? blend : 0;
    const int to_above = fade_y != 0 ? columns : 0;
    const int to_left = fade_x != 0 ? 1 : 0;
    const Placed<Value> own = ring[index];
    const Placed<Value> left = ring[index - to_left];
    const Placed<Value> above = ring[index - to_above];
    const Placed<Value> above_left = ring[index - to_above - to_left];
    const int step_x = static_cast<int>(gridDim.x * blockDim.x);
    const int step_y = static_cast<int>(gridDim.y * blockDim.y);

    for (int y = region.x + blockIdx.y * blockDim.y + threadIdx.y; y < region.z; y += step_y) {
        const int row = y - region.x;
        const bool down = row < fade_y;
        const float row_weight = down ? ramp[row] : 1.0f;
        const int right = down ? region.w : min(region.y + fade_x, region.w);
        for (int x = region.y + blockIdx.x * blockDim.x + threadIdx.x; x < right; x += step_x) {
            const int column = x - region.y;
            const bool across = column < fade_x;
            const float weight = across ? ramp[column] : 1.0f;
            Value* out = own.at(x, y);
#pragma unroll
            for (int c = 0; c < 3; ++c) {
                const size_t channel = c * own.tile.plane;
                float value = to_float(out[channel]);
                if (across) value = mixed(value, to_float(left.at(x, y)[channel]), weight);
                if (down) {
                    float upper = to_float(above.at(x, y)[channel]);
                    if (across) {
                        upper = mixed(upper, to_float(above_left.at(x, y)[channel]), weight);
                    }
                    value = mixed(value, upper, row_weight);
                }
                from_float(value, out[channel]);
            }
        }
    }
}

#define BLEND_TILES(name, Value)                                                                   \
    extern "C" __global__ void __launch_bounds__(256) blend_tiles_##name(                          \
        void* ring, int ring_tiles, int tile_height, int tile_width,                               \
        const int2* __restrict__ origins, const int4* __restrict__ settled,                        \
        const int* __restrict__ cursor, int batch, int columns, const float* __restrict__ ramp,    \
        int blend) {                                                                               \
        blend_tiles<Value>({static_cast<Value*>(ring), ring_tiles, tile_height, tile_width,        \
                            origins},                                                              \
                           settled, cursor, batch, columns, ramp, blend);                          \
    }

BLEND_TILES(f16, __half)
BLEND_TILES(f32, float)
