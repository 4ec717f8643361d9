// store_tiles: the kept region of every tile becomes its part of the frame.
//
//   tiles   (tiles, 3, tile_height, tile_width) __half or float (tile.cuh): red, green, blue in
//           0..1
//   origins (tiles, 2) int32: x, y of each tile's first pixel in the frame, as for load_tiles
//   kept    (tiles, 4) int32: y0, x0, y1, x1 in frame coordinates, ends excluded, cut to the tile
//           and to the frame. Pixels that no region covers keep what they hold. Regions that
//           overlap are written by both tiles, in no order: to blend, see blend_tiles.
//   frame   (height, width, channels) interleaved, uint8 / uint16 / float32, rows pitch_bytes apart
//   alpha   RGBA and BGRA: a frame of the same size and format whose alpha is copied. Pass the
//           frame itself and alpha stays in place: a thread reads its own pixels before it writes
//           them. Null: opaque (the maximum; 1 for float32). Gray, RGB and BGR do not look at it.
//   nonfinite  one uint64, or null: the number of kept values that are NaN or infinite is added to
//           it (finite.cuh)
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
// Thread mapping: blockIdx.z is the tile, y the rows of its region by `store_rows`, x the groups of
// 4 (u8), 2 (u16) or 1 (f32) pixels (frame.cuh). The groups of a row begin where the *frame* is
// aligned to 4 bytes, so a group goes out as whole words (uint8 RGB: 3 words a thread, 384
// neighbouring bytes a warp; RGBA aligned to 16 bytes: one store) for any pitch and any region;
// only the first and last group of a row go sample by sample, and uint8 RGBA frames that begin off
// a word. The planes are read one vector a thread (8 bytes for four __half) where the tile is
// aligned there too, as it is when origins, regions and tile width are multiples of 4, and value by
// value elsewhere. Where a whole region is so, and rows are words apart, a thread asks for the
// vectors of all its rows, planes and alpha before it converts the first (tile.cuh: straight): 96
// bytes for four rows of __half. Any grid is correct in x and y (the loops stride over it);
// gridDim.z is the number of tiles; a block has 128 threads at most.
#include "finite.cuh"

// The words of a group of pixels; alpha is that of the pixels of `alpha`, words that lie like them.
template <typename Order, typename Sample, typename Value>
__device__ __forceinline__ void from_planes(const Vector<Value, Group<Sample>::px> (&planes)[3],
                                            const unsigned (&alpha)[Order::channels],
                                            unsigned (&words)[Order::channels]) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;
    unsigned bits[group * channels];
#pragma unroll
    for (int i = 0; i < group; ++i) {
        unsigned* pixel = bits + i * channels;
        if constexpr (channels == 1) {
            const float red = to_float(planes[0].values[i]);
            const float green = to_float(planes[1].values[i]);
            const float blue = to_float(planes[2].values[i]);
            pixel[0] = Depth<Sample>::mean((red + green) + blue);
        } else {
            pixel[Order::red] = Depth<Sample>::sample(planes[0].values[i]);
            pixel[Order::green] = Depth<Sample>::sample(planes[1].values[i]);
            pixel[Order::blue] = Depth<Sample>::sample(planes[2].values[i]);
        }
        if constexpr (channels == 4) {
            pixel[3] = Depth<Sample>::bits(sample_at<Sample>(alpha, i * channels + 3));
        }
    }
    to_words<Sample>(bits, words);
}

template <typename Sample, int channels>
__device__ __forceinline__ void fill_opaque(unsigned (&words)[channels]) {
#pragma unroll
    for (int i = 0; i < channels; ++i) words[i] = Depth<Sample>::opaque();
}

// The straight way: `in` is the first row's vector of the tile, `out` its place in the frame and
// `alpha` in the alpha frame, or null.
template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void store_straight(const Tile<const Value>& tile, const Value* in,
                                               Sample* out, long long pitch_bytes,
                                               const Sample* alpha, long long alpha_pitch_bytes,
                                               unsigned long long* nonfinite) {
    constexpr int channels = Order::channels;
    Vector<Value, Group<Sample>::px> planes[store_rows][3];
    float zero = 0.0f;
    unsigned alphas[store_rows][channels];
#pragma unroll
    for (int i = 0; i < store_rows; ++i) {
        read_vectors(tile, in + i * tile.width, planes[i]);
        fill_opaque<Sample>(alphas[i]);
    }
    if (alpha != nullptr) {
#pragma unroll
        for (int i = 0; i < store_rows; ++i) {
            Words<channels>::read(row_at<Sample>(alpha, alpha_pitch_bytes, i), alphas[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < store_rows; ++i) {
        unsigned words[channels];
        from_planes<Order, Sample>(planes[i], alphas[i], words);
        Words<channels>::write(row_at<Sample>(out, pitch_bytes, i), words);
        zero += vanished(planes[i]);
    }
    count_nonfinite(zero, tile, in, store_rows, Group<Sample>::px, nonfinite);
}

// Alpha of the group that begins at x, from columns left..right - 1 of the row.
template <typename Sample, int channels>
__device__ __forceinline__ void read_alpha(const Sample* row, int x, int left, int right, int width,
                                           unsigned (&words)[channels]) {
    constexpr int group = Group<Sample>::px;
    if (x >= left && x + group <= right && read_words(row, x, width, words)) return;
    unsigned bits[group * channels] = {};
#pragma unroll
    for (int i = 0; i < group; ++i) {
        const long long alpha_x = min(max(x + i, left), right - 1);
        bits[i * channels + channels - 1] =
            Depth<Sample>::bits(row[alpha_x * channels + channels - 1]);
    }
    to_words<Sample>(bits, words);
}

// Where the first group of a row begins, at `left` or before it: on a word, if any pixel does.
template <int channels, typename Sample>
__device__ __forceinline__ int begin_of(const Sample* row, int left) {
    constexpr int group = Group<Sample>::px;
    constexpr int pixel_bytes = channels * sizeof(Sample);
    const size_t address = reinterpret_cast<size_t>(row);
    int phase = 0;
    while (phase < group - 1 && (address + phase * pixel_bytes) % 4 != 0) ++phase;
    return left - ((left - phase) & (group - 1));
}

// Writes pixels first..last - 1 of a group: as words where it is whole and begins on one.
template <typename Sample, int channels>
__device__ __forceinline__ void write_samples(Sample* out, const unsigned (&words)[channels],
                                              int first, int last) {
    constexpr int group = Group<Sample>::px;
    if (first == 0 && last == group && reinterpret_cast<size_t>(out) % 4 == 0) {
#pragma unroll
        for (int i = 0; i < channels; ++i) reinterpret_cast<unsigned*>(out)[i] = words[i];
        return;
    }
#pragma unroll
    for (int i = 0; i < group; ++i) {
        if (i < first || i >= last) continue;
#pragma unroll
        for (int c = 0; c < channels; ++c) {
            out[i * channels + c] = sample_at<Sample>(words, i * channels + c);
        }
    }
}

// The general way, of one group, of which columns left..right - 1 are stored.
template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void store_group(const Tile<const Value>& tile, const int2& origin,
                                            Sample* row, const Sample* alpha, int x, int y,
                                            int left, int right, int width,
                                            unsigned long long* nonfinite) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;
    const int first = max(left - x, 0);
    const int last = min(right - x, static_cast<int>(group));
    if (first >= last) return;
    Vector<Value, group> planes[3];
    read_pixels(tile, x - origin.x, y - origin.y, first, last, planes);
    unsigned alphas[channels];
    fill_opaque<Sample>(alphas);
    if (alpha != nullptr) read_alpha(alpha, x, left, right, width, alphas);
    unsigned words[channels];
    from_planes<Order, Sample>(planes, alphas, words);
    write_samples(row + static_cast<long long>(x) * channels, words, first, last);
    // Of the pixels beside first..last - 1, `planes` has copies of these.
    count_nonfinite(vanished(planes), tile, tile.at(x + first - origin.x, y - origin.y), 1,
                    last - first, nonfinite);
}

template <typename Sample, typename Order, typename Value>
__device__ __forceinline__ void store_tiles(const void* __restrict__ tiles, int tile_height,
                                            int tile_width, const int2* __restrict__ origins,
                                            const int4* __restrict__ kept, void* frame,
                                            long long pitch_bytes, int height, int width,
                                            const void* alpha, long long alpha_pitch_bytes,
                                            unsigned long long* nonfinite) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;
    if (channels != 4) alpha = nullptr;

    const int2 origin = origins[blockIdx.z];
    const auto [top, left, bottom, right] =
        region_of(kept[blockIdx.z], origin, tile_height, tile_width, height, width);
    const Tile<const Value> tile =
        tile_of(static_cast<const Value*>(tiles), blockIdx.z, tile_height, tile_width);
    // Of the region's first group, and with it of all that are whole: where the rows are not a
    // multiple of words apart, groups begin elsewhere in each and none goes straight.
    const int begin = begin_of<channels>(row_at<Sample>(frame, pitch_bytes, top), left);
    const long long corner = static_cast<long long>(begin) * channels;
    Sample* out = row_at<Sample>(frame, pitch_bytes, top) + corner;
    const Sample* copied =
        alpha == nullptr ? nullptr : row_at<Sample>(alpha, alpha_pitch_bytes, top) + corner;
    const bool straight = tile.template in_vectors<group>(begin - origin.x) &&
                          aligned(out, pitch_bytes, Words<channels>::bytes) &&
                          aligned(copied, alpha_pitch_bytes, Words<channels>::bytes);
    const int step_x = static_cast<int>(gridDim.x * blockDim.x) * group;
    const int step_y = static_cast<int>(gridDim.y * blockDim.y) * store_rows;

    for (int y = top + static_cast<int>(blockIdx.y * blockDim.y + threadIdx.y) * store_rows;
         y < bottom; y += step_y) {
        const bool rows_whole = straight && y + store_rows <= bottom;
        for (int offset = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x) * group;
             offset < right - left + group - 1; offset += step_x) {
            const int x = begin + offset;
            if (rows_whole && x >= left && x + group <= right) {
                const long long sample = static_cast<long long>(offset) * channels;
                const Sample* in_alpha =
                    alpha == nullptr ? nullptr
                                     : row_at<Sample>(copied, alpha_pitch_bytes, y - top) + sample;
                store_straight<Sample, Order>(
                    tile, tile.at(x - origin.x, y - origin.y),
                    row_at<Sample>(out, pitch_bytes, y - top) + sample, pitch_bytes, in_alpha,
                    alpha_pitch_bytes, nonfinite);
                continue;
            }
#pragma unroll 1
            for (int i = y; i < min(y + store_rows, bottom); ++i) {
                Sample* row = row_at<Sample>(frame, pitch_bytes, i);
                const Sample* alpha_row =
                    alpha == nullptr ? nullptr : row_at<Sample>(alpha, alpha_pitch_bytes, i);
                store_group<Sample, Order>(tile, origin, row, alpha_row,
                                           begin_of<channels>(row, left) + offset, i, left, right,
                                           width, nonfinite);
            }
        }
    }
}

#define STORE_TILES(name, Order, Sample, Value)                                                    \
    extern "C" __global__ void __launch_bounds__(                                                  \
        128, sizeof(Value) == 2 ? 8 : 6) store_tiles_##name(                                       \
        const void* __restrict__ tiles, int tile_height, int tile_width,                           \
        const int2* __restrict__ origins, const int4* __restrict__ kept, void* frame,              \
        long long pitch_bytes, int height, int width, const void* alpha,                           \
        long long alpha_pitch_bytes, unsigned long long* nonfinite) {                              \
        store_tiles<Sample, Order, Value>(tiles, tile_height, tile_width, origins, kept, frame,    \
                                          pitch_bytes, height, width, alpha, alpha_pitch_bytes,    \
                                          nonfinite);                                              \
    }

ALL_FRAMES(STORE_TILES)
