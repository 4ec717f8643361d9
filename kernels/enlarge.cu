// enlarge: a frame that is to be restored at 2, 3 or 4 times its size becomes tiles of the enlarged
// frame, by bicubic interpolation (mirnet_edge/frames/bicubic.py has the definition and its source).
//
// enlarge_tiles
//   planes      (3, height, plane_width) __half or float: red, green, blue of the frame at its own
//               size, of which the first `width` columns count (load_tiles makes them, of one tile).
//               plane_width is even, and the first row begins on two values.
//   origins     (tiles, 2) int32: x, y of each tile's first pixel in the *enlarged* frame, which is
//               continued by reflection without repeating its border, as load_tiles continues one.
//   tiles       (tiles, tile_planes, tile_height, tile_width) of the same type (tile.cuh); planes
//               beyond the first three are not touched. Neither cut to 0..1 nor rounded to samples.
//
// enlarge_alpha
//   frame       (height, width, 4) interleaved, uint8 / uint16 / float32, rows pitch_bytes apart
//   enlarged    (scale height, scale width, 4), whose alpha alone is written: that of the frame,
//               enlarged, cut to 0..maximum (float32: 0..1) and rounded to nearest, ties to even
//
// Pixel x of an enlarged row is phase x % scale of pixel i = x / scale, and lies at i + (phase +
// 0.5) / scale - 0.5. Four pixels reach it, from i - 2 on where that is left of i, else from i - 1;
// Keys' kernel (a = -0.5) gives weights that depend on the phase alone and sum to one: 128ths,
// 27ths and 1024ths, which are constants of the code. Beyond its border the *frame* goes on
// mirrored, the border pixel repeated. First the rows are mixed, then the columns, in float32 with
// fused multiply-adds; a __half is rounded once at the end. Against NumPy's twin in float32, which
// adds in another order: within 1e-6 for values of 0..1, and a rounding step of __half.
//
// Bytes per pixel of a tile (the frame's are read once for scale^2 pixels, halos and neighbouring
// rows again from the cache):
//
//              __half          float
//   x2         6 / 4 + 6       12 / 4 + 12
//   x3         6 / 9 + 6       12 / 9 + 12
//   x4         6 / 16 + 6      12 / 16 + 12
//
// Thread mapping: blockIdx.z is the tile, y its rows by `scale`, x groups of 4 (x2, x4) or 12 (x3)
// pixels of a row, which are the phases of 2, 1 or 4 pixels of the frame. A thread reads the 5 rows
// of 6, 5 or 8 pixels around these (as pairs, but for x4), plane by plane, and writes `scale` rows
// in vectors of 4: a warp writes 256 neighbouring bytes of __half in each. Separably that is 10, 9
// and 8 fused multiply-adds a value instead of 16. Groups go that *straight* way where origins are
// multiples of the group and of `scale`, as those of engines are, and all pixels that reach them
// are in the frame; others go pixel by pixel. Any grid is correct in x and y; gridDim.z is the
// number of tiles. enlarge_alpha: a thread a pixel, any grid.
#include "tile.cuh"

template <int scale>
struct Block {
    enum {
        sources = scale == 2 ? 2 : scale == 3 ? 4 : 1,  // pixels of the frame, along a row
        px = scale * sources,
        rows = 5,
        columns = sources + 4
    };
};

// The weight of the pixel `tap` of the four that reach a phase.
template <int scale>
__device__ __forceinline__ float weight(int phase, int tap) {
    if constexpr (scale == 2) {
        constexpr float weights[2][4] = {{-3, 29, 111, -9}, {-9, 111, 29, -3}};
        return weights[phase][tap] / 128;
    } else if constexpr (scale == 3) {
        constexpr float weights[3][4] = {{-1, 9, 21, -2}, {0, 27, 0, 0}, {-2, 21, 9, -1}};
        return weights[phase][tap] / 27;
    } else {
        constexpr float weights[4][4] = {
            {-45, 399, 745, -75}, {-7, 93, 987, -49}, {-49, 987, 93, -7}, {-75, 745, 399, -45}};
        return weights[phase][tap] / 1024;
    }
}

// The first of the four, from the pixel two to the left of the phase's own.
template <int scale>
__device__ __forceinline__ int first_of(int phase) {
    return 2 * phase + 1 < scale ? 0 : 1;
}

// The weights of a phase that is not known when this is compiled: chosen, not indexed, so that no
// table lies in local memory.
template <int scale>
__device__ __forceinline__ void choose_weights(int phase, float (&weights)[4]) {
#pragma unroll
    for (int tap = 0; tap < 4; ++tap) {
        weights[tap] = weight<scale>(0, tap);
#pragma unroll
        for (int known = 1; known < scale; ++known) {
            if (phase == known) weights[tap] = weight<scale>(known, tap);
        }
    }
}

// Position of `index` in a row of `size` samples continued mirrored, the border sample repeated.
__device__ __forceinline__ int mirrored(int index, int size) {
    if (index >= 0 && index < size) return index;
    const int period = 2 * size;
    int phase = index % period;
    if (phase < 0) phase += period;
    return min(phase, period - 1 - phase);
}

// The four pixels along one axis that reach one of the enlarged frame.
template <int scale>
struct Taps {
    int at[4];
    float weights[4];

    __device__ __forceinline__ Taps(int position, int size) {
        const int phase = position % scale;
        const int first = position / scale - 2 + first_of<scale>(phase);
        choose_weights<scale>(phase, weights);
#pragma unroll
        for (int tap = 0; tap < 4; ++tap) at[tap] = mirrored(first + tap, size);
    }
};

__device__ __forceinline__ float mix(const float (&weights)[4], float first, float second,
                                     float third, float fourth) {
    return fmaf(weights[3], fourth,
                fmaf(weights[2], third, fmaf(weights[1], second, weights[0] * first)));
}

// One value of the enlarged frame; read(x, y) is that of a pixel of the frame.
template <int scale, typename Read>
__device__ __forceinline__ float mixed(const Taps<scale>& across, const Taps<scale>& down,
                                       const Read& read) {
    float columns[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        const int x = across.at[i];
        columns[i] = mix(down.weights, read(x, down.at[0]), read(x, down.at[1]),
                         read(x, down.at[2]), read(x, down.at[3]));
    }
    return mix(across.weights, columns[0], columns[1], columns[2], columns[3]);
}

// The pixels around a group, of one plane; `in` is the first of them.
template <int scale, typename Value>
__device__ __forceinline__ void read_around(
    const Value* in, int plane_width,
    float (&around)[Block<scale>::rows][Block<scale>::columns]) {
    constexpr int columns = Block<scale>::columns;
#pragma unroll
    for (int row = 0; row < Block<scale>::rows; ++row) {
        const Value* values = in + static_cast<long long>(row) * plane_width;
        if constexpr (columns % 2 == 0) {
#pragma unroll
            for (int x = 0; x < columns; x += 2) {
                Vector<Value, 2> pair;
                read_vector(values + x, pair);
                around[row][x] = to_float(pair.values[0]);
                around[row][x + 1] = to_float(pair.values[1]);
            }
        } else {
#pragma unroll
            for (int x = 0; x < columns; ++x) around[row][x] = to_float(values[x]);
        }
    }
}

// The straight way, of one plane: `out` is the group's place in it.
template <int scale, typename Value>
__device__ __forceinline__ void enlarge_straight(const Value* in, int plane_width, Value* out,
                                                 int tile_width) {
    constexpr int columns = Block<scale>::columns;
    float around[Block<scale>::rows][columns];
    read_around<scale>(in, plane_width, around);
#pragma unroll
    for (int row = 0; row < scale; ++row) {
        const int top = first_of<scale>(row);
        const float down[4] = {weight<scale>(row, 0), weight<scale>(row, 1), weight<scale>(row, 2),
                               weight<scale>(row, 3)};
        float line[columns];
#pragma unroll
        for (int x = 0; x < columns; ++x) {
            line[x] = mix(down, around[top][x], around[top + 1][x], around[top + 2][x],
                          around[top + 3][x]);
        }
#pragma unroll
        for (int first = 0; first < Block<scale>::px; first += 4) {
            Vector<Value, 4> vector;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int phase = (first + i) % scale;
                const int left = (first + i) / scale + first_of<scale>(phase);
                const float across[4] = {weight<scale>(phase, 0), weight<scale>(phase, 1),
                                         weight<scale>(phase, 2), weight<scale>(phase, 3)};
                from_float(mix(across, line[left], line[left + 1], line[left + 2], line[left + 3]),
                           vector.values[i]);
            }
            write_vector(out + static_cast<long long>(row) * tile_width + first, vector);
        }
    }
}

template <int scale, typename Value>
__device__ __forceinline__ void enlarge_tiles(const void* __restrict__ planes, int plane_width,
                                              int height, int width,
                                              const int2* __restrict__ origins,
                                              void* __restrict__ tiles, int tile_planes,
                                              int tile_height, int tile_width) {
    constexpr int group = Block<scale>::px;
    constexpr int sources = Block<scale>::sources;

    const int2 origin = origins[blockIdx.z];
    const Tile<Value> tile =
        tile_of(static_cast<Value*>(tiles), blockIdx.z, tile_height, tile_width, tile_planes);
    const Value* frame = static_cast<const Value*>(planes);
    const size_t plane = static_cast<size_t>(height) * plane_width;
    const bool straight =
        tile.template in_vectors<4>(0) && origin.x % group == 0 && origin.y % scale == 0;
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * group;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y) * scale;

    for (int y = static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y) * scale; y < tile_height;
         y += step_y) {
        const int top = (origin.y + y) / scale - 2;
        const bool rows_whole = straight && y + scale <= tile_height && origin.y + y >= 0 &&
                                top >= 0 && top + Block<scale>::rows <= height;
        for (int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * group;
             x < tile_width; x += step_x) {
            const int left = (origin.x + x) / scale - 2;
            if (rows_whole && x + group <= tile_width && origin.x + x >= 0 && left >= 0 &&
                left + sources + 4 <= width) {
                const Value* in = frame + static_cast<long long>(top) * plane_width + left;
#pragma unroll 1
                for (int c = 0; c < 3; ++c) {
                    enlarge_straight<scale>(in + c * plane, plane_width,
                                            tile.at(x, y) + c * tile.plane, tile_width);
                }
                continue;
            }
#pragma unroll 1
            for (int row = y; row < min(y + scale, tile_height); ++row) {
                const Taps<scale> down(reflected(origin.y + row, scale * height), height);
#pragma unroll 1
                for (int column = x; column < min(x + group, tile_width); ++column) {
                    const Taps<scale> across(reflected(origin.x + column, scale * width), width);
#pragma unroll 1
                    for (int c = 0; c < 3; ++c) {
                        const Value* values = frame + c * plane;
                        const float value =
                            mixed<scale>(across, down, [=](int source_x, int source_y) {
                                return to_float(
                                    values[static_cast<long long>(source_y) * plane_width +
                                           source_x]);
                            });
                        from_float(value, *(tile.at(column, row) + c * tile.plane));
                    }
                }
            }
        }
    }
}

__device__ __forceinline__ void store_alpha(float value, unsigned char& out) {
    out = static_cast<unsigned char>(rounded(cut(value, 255.0f)));
}
__device__ __forceinline__ void store_alpha(float value, unsigned short& out) {
    out = static_cast<unsigned short>(rounded(cut(value, 65535.0f)));
}
__device__ __forceinline__ void store_alpha(float value, float& out) { out = __saturatef(value); }

template <int scale, typename Sample>
__device__ __forceinline__ void enlarge_alpha(const void* __restrict__ frame, long long pitch_bytes,
                                              int height, int width, void* __restrict__ enlarged,
                                              long long enlarged_pitch_bytes) {
    const int step_x = static_cast<int>(gridDim.x * blockDim.x);
    const int step_y = static_cast<int>(gridDim.y * blockDim.y);
    for (int y = blockIdx.y * blockDim.y + threadIdx.y; y < scale * height; y += step_y) {
        const Taps<scale> down(y, height);
        Sample* out = row_at<Sample>(enlarged, enlarged_pitch_bytes, y);
        for (int x = blockIdx.x * blockDim.x + threadIdx.x; x < scale * width; x += step_x) {
            const Taps<scale> across(x, width);
            const float value = mixed<scale>(across, down, [=](int source_x, int source_y) {
                return static_cast<float>(
                    row_at<Sample>(frame, pitch_bytes, source_y)[4LL * source_x + 3]);
            });
            store_alpha(value, out[4LL * x + 3]);
        }
    }
}

#define ENLARGE_TILES(name, scale, Value)                                                          \
    extern "C" __global__ void __launch_bounds__(                                                  \
        128, sizeof(Value) == 2 ? 8 : 6) enlarge_tiles_##name(                                     \
        const void* __restrict__ planes, int plane_width, int height, int width,                   \
        const int2* __restrict__ origins, void* __restrict__ tiles, int tile_planes,               \
        int tile_height, int tile_width) {                                                         \
        enlarge_tiles<scale, Value>(planes, plane_width, height, width, origins, tiles,            \
                                    tile_planes, tile_height, tile_width);                         \
    }

#define ENLARGE_ALPHA(name, scale, Sample)                                                         \
    extern "C" __global__ void __launch_bounds__(256) enlarge_alpha_##name(                        \
        const void* __restrict__ frame, long long pitch_bytes, int height, int width,              \
        void* __restrict__ enlarged, long long enlarged_pitch_bytes) {                             \
        enlarge_alpha<scale, Sample>(frame, pitch_bytes, height, width, enlarged,                  \
                                     enlarged_pitch_bytes);                                        \
    }

#define ENLARGE(x, scale)                                                                          \
    ENLARGE_TILES(x##_f16, scale, __half)                                                          \
    ENLARGE_TILES(x##_f32, scale, float)                                                           \
    ENLARGE_ALPHA(x##_u8, scale, unsigned char)                                                    \
    ENLARGE_ALPHA(x##_u16, scale, unsigned short)                                                  \
    ENLARGE_ALPHA(x##_f32, scale, float)

ENLARGE(x2, 2)
ENLARGE(x3, 3)
ENLARGE(x4, 4)
