// luma_sums: sums of luma over a grid of 8 x 8 cells, to tell a scene cut from motion.
//
//   frame     (height, width, channels) interleaved, uint8 / uint16 / float32, rows pitch_bytes
//             apart; yuyv: (height, width, 2), luma first. The Y plane of NV12 and I420 is gray_u8.
//   row_step  every row_step-th row of a cell is read, from its first on; 1 reads the frame
//   sums      (8, 8) uint64, rows of cells first; added to, so set to zero before
//
// Cell i of an axis of n pixels is pixels i n / 8 .. (i + 1) n / 8 - 1, rounded down; it is empty
// where n < 8. A cell's sum is of 256 x luma: 77 red + 150 green + 29 blue (BT.601; a Y or a gray
// sample weighs 256), in units of the sample's step; float32 is cut to 0..1 and rounded to 16 bits
// first. Dividing by 256 x maximum x the pixels read (columns x ceil(rows / row_step)) gives the
// mean in 0..1: for the host to do, on 64 numbers.
//
// Whole numbers only: the sums do not depend on the order in which threads arrive, and the same
// frame always gives the same bits. 64 bits hold any frame.
//
// Bytes: the rows that are read, once (pixel bytes / row_step a pixel), and 512 out. At row_step 4
// a 3840 x 2160 RGB frame costs 6.2 MB, a quarter of its load kernel's reading; its NV12, 2.1 MB.
//
// Thread mapping: blockIdx.y is the cell, blockIdx.x and y rows of it, x its groups of 4 (uint8),
// 2 (uint16) or 1 (float32) pixels (frame.cuh). A thread keeps its sum and adds it once, so few
// threads with many rows each are better than many: grid (2, 64), block (32, 8). Any is correct.
#include "frame.cuh"

struct LumaChroma { enum { channels = 2 }; };

__device__ __forceinline__ unsigned level(unsigned char sample) { return sample; }
__device__ __forceinline__ unsigned level(unsigned short sample) { return sample; }
__device__ __forceinline__ unsigned level(float sample) {
    return Depth<unsigned short>::sample(sample) & 65535;
}

template <typename Order, bool colour = (Order::channels > 2)>
struct Luma {
    template <typename Sample>
    static __device__ __forceinline__ unsigned of(const Sample* pixel) {
        return 256 * level(pixel[0]);
    }
};

template <typename Order>
struct Luma<Order, true> {
    template <typename Sample>
    static __device__ __forceinline__ unsigned of(const Sample* pixel) {
        return 77 * level(pixel[Order::red]) + 150 * level(pixel[Order::green]) +
               29 * level(pixel[Order::blue]);
    }
};

// Sum of the pixels x..right - 1 of a row, at most a group of them.
template <typename Sample, typename Order>
__device__ __forceinline__ unsigned group_sum(const Sample* row, int x, int right, int width) {
    constexpr int channels = Order::channels;
    constexpr int group = Group<Sample>::px;
    unsigned words[channels];
    unsigned sum = 0;
    if (x + group <= right && read_words<Sample, channels>(row, x, width, words)) {
        Sample samples[group * channels];
#pragma unroll
        for (int i = 0; i < group * channels; ++i) samples[i] = sample_at<Sample>(words, i);
#pragma unroll
        for (int i = 0; i < group; ++i) sum += Luma<Order>::of(samples + i * channels);
        return sum;
    }
#pragma unroll
    for (int i = 0; i < group; ++i) {
        if (x + i < right) {
            sum += Luma<Order>::of(row + static_cast<long long>(x + i) * channels);
        }
    }
    return sum;
}

template <typename Sample, typename Order>
__device__ __forceinline__ void luma_sums(const void* __restrict__ frame, long long pitch_bytes,
                                          int height, int width, int row_step,
                                          unsigned long long* sums) {
    constexpr int cells = 8;
    constexpr int group = Group<Sample>::px;
    const int step_x = static_cast<int>(blockDim.x) * group;
    const int step_y = static_cast<int>(gridDim.x * blockDim.y) * row_step;

    for (int cell = blockIdx.y; cell < cells * cells; cell += gridDim.y) {
        const long long row_cell = cell / cells;
        const long long column_cell = cell % cells;
        const int top = static_cast<int>(row_cell * height / cells);
        const int bottom = static_cast<int>((row_cell + 1) * height / cells);
        const int left = static_cast<int>(column_cell * width / cells);
        const int right = static_cast<int>((column_cell + 1) * width / cells);
        const int first_row = static_cast<int>(blockIdx.x * blockDim.y + threadIdx.y) * row_step;
        const int first_column = static_cast<int>(threadIdx.x) * group;
        unsigned long long sum = 0;
        for (int y = top + first_row; y < bottom; y += step_y) {
            const Sample* row = row_at<Sample>(frame, pitch_bytes, y);
            for (int x = left + first_column; x < right; x += step_x) {
                sum += group_sum<Sample, Order>(row, x, right, width);
            }
        }
        if (sum != 0) atomicAdd(sums + cell, sum);
    }
}

#define LUMA_SUMS(name, Order, Sample)                                                             \
    extern "C" __global__ void __launch_bounds__(256) luma_sums_##name(                            \
        const void* __restrict__ frame, long long pitch_bytes, int height, int width,              \
        int row_step, unsigned long long* sums) {                                                  \
        luma_sums<Sample, Order>(frame, pitch_bytes, height, width, row_step, sums);               \
    }

#define LUMA_SUMS_OF(order, Order)                                                                 \
    LUMA_SUMS(order##_u8, Order, unsigned char)                                                    \
    LUMA_SUMS(order##_u16, Order, unsigned short)                                                  \
    LUMA_SUMS(order##_f32, Order, float)

LUMA_SUMS_OF(gray, Gray)
LUMA_SUMS_OF(rgb, Rgb)
LUMA_SUMS_OF(bgr, Bgr)
LUMA_SUMS_OF(rgba, Rgba)
LUMA_SUMS_OF(bgra, Bgra)
LUMA_SUMS(yuyv_u8, LumaChroma, unsigned char)
