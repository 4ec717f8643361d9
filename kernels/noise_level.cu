// noise_level: how noisy a frame is, by a small convolutional network on squares of it
// (mirnet_edge/frames/noise_estimator.py, which is its twin in NumPy).
//
//   noise_blocks      crops (n, 3, 64, 64) → features (n, 48, 16, 16): 4 x 4 pixels as channels
//   noise_convolve_1  48 → 32 channels, 3x3 with zeros around, bias, leaky rectifier
//   noise_convolve_2  32 → 32
//   noise_convolve_3  32 → 64, summed over each thread's 4 positions: sums (n, 64, 64), threads first
//   noise_pool        sums → means over all positions (n, 64)
//   noise_head        64 → 32, leaky rectifier, → 1: output (n), the level before its softplus
//
//   crops     float32 in 0..1, as load_tiles cuts them. NaN becomes 0, and what is below -2 or above
//             3, which no frame of the host may be, 0 or 1: no level would come of infinity.
//   features  float32, planes of 16 x 16
//   kernels   float32, (outputs / 8, inputs, 3, 3, 8): the 8 outputs of a thread side by side
//   biases    (outputs); of the head: linear1 (32, 64), its bias (32), linear2 (32), its bias (1)
//
// All of them begin on 16 bytes.
//
// Work: 10.6 million multiply-adds a crop, 170 million for 16: 64 us of all units of a Jetson AGX
// Orin at 1.3 GHz. So one block a crop would leave most of a large GPU idle, and a launch a layer it
// is. Features of 16 crops are 0.8 MB and come from the L2 cache, as the kernels' 166 KB do. Nothing
// is shared within a block: a thread keeps 8 outputs at 4 neighbouring positions in registers, for
// which an input channel costs it 288 multiply-adds and 90 numbers read, 72 of them the same for
// all threads of a block, which then come in one piece. float32 all through, in a fixed order: the
// same crops always give the same bits.
//
// Thread mapping: noise_blocks: y is the crop, x its 3072 groups of 4 pixels, any block.
// noise_convolve: blockIdx.x is the group of 8 outputs, of which the grid has all; blockIdx.y the
// crop; 64 threads are the 16 rows' 4 groups of positions. noise_pool: blockIdx.x is the crop, a
// thread a channel: 64. noise_head: blockIdx.x is the crop, one thread.

namespace noise {

constexpr int side = 16;
constexpr int positions = side * side;
constexpr int outputs_of_thread = 8;
constexpr int positions_of_thread = 4;
constexpr int groups = side / positions_of_thread;
constexpr int threads = side * groups;
constexpr int block_px = 4;
constexpr int crop_px = side * block_px;
constexpr int pooled = 64;
constexpr int hidden = 32;

__device__ __forceinline__ float leaky(float value) { return fmaxf(value, 0.1f * value); }

__device__ __forceinline__ float sane(float value) {
    if (value >= -2.0f && value <= 3.0f) return value;
    return value > 0.0f ? 1.0f : 0.0f;  // NaN is not
}

__device__ __forceinline__ void read_4(const float* __restrict__ from, float* to) {
    const float4 read = *reinterpret_cast<const float4*>(from);
    to[0] = read.x;
    to[1] = read.y;
    to[2] = read.z;
    to[3] = read.w;
}

// A row of an input plane around a thread's positions, one more on either side; zeros beyond the
// picture, for which pixels within are read all the same: no branch keeps the loads apart.
__device__ __forceinline__ void read_row(const float* __restrict__ plane, int y, int x,
                                         float (&values)[positions_of_thread + 2]) {
    constexpr int last = positions_of_thread + 1;
    const bool inside = y >= 0 && y < side;
    const float* row = plane + min(max(y, 0), side - 1) * side;
    const float left = row[max(x - 1, 0)];
    const float right = row[min(x + positions_of_thread, side - 1)];
    read_4(row + x, values + 1);
#pragma unroll
    for (int i = 1; i < last; ++i) values[i] = inside ? values[i] : 0.0f;
    values[0] = inside && x > 0 ? left : 0.0f;
    values[last] = inside && x + positions_of_thread < side ? right : 0.0f;
}

// What a thread reads of an input channel.
struct Channel {
    float values[3][positions_of_thread + 2];
    float weights[9][outputs_of_thread];

    __device__ __forceinline__ void read(const float* __restrict__ plane,
                                         const float* __restrict__ kernel, int y, int x) {
#pragma unroll
        for (int dy = 0; dy < 3; ++dy) read_row(plane, y + dy - 1, x, values[dy]);
#pragma unroll
        for (int i = 0; i < 9; ++i) {
            read_4(kernel + i * outputs_of_thread, weights[i]);
            read_4(kernel + i * outputs_of_thread + 4, weights[i] + 4);
        }
    }
};

template <int inputs, bool sums>
__device__ __forceinline__ void convolve(const float* __restrict__ features,
                                         const float* __restrict__ kernels,
                                         const float* __restrict__ biases,
                                         float* __restrict__ out) {
    const int thread = static_cast<int>(threadIdx.x);
    const int crop = static_cast<int>(blockIdx.y);
    const int first = static_cast<int>(blockIdx.x) * outputs_of_thread;
    const int outputs = static_cast<int>(gridDim.x) * outputs_of_thread;
    const int y = thread / groups;
    const int x = thread % groups * positions_of_thread;
    const float* planes = features + crop * inputs * positions;
    const float* kernel = kernels + first * inputs * 9;

    float result[outputs_of_thread][positions_of_thread];
#pragma unroll
    for (int o = 0; o < outputs_of_thread; ++o) {
#pragma unroll
        for (int i = 0; i < positions_of_thread; ++i) result[o][i] = biases[first + o];
    }
    Channel now;
    now.read(planes, kernel, y, x);
#pragma unroll 2
    for (int c = 0; c < inputs; ++c) {
        // Begun a channel ahead: few warps share a multiprocessor, and these come from L2.
        const int ahead = min(c + 1, inputs - 1);
        Channel next;
        next.read(planes + ahead * positions, kernel + ahead * 9 * outputs_of_thread, y, x);
#pragma unroll
        for (int tap = 0; tap < 9; ++tap) {
#pragma unroll
            for (int o = 0; o < outputs_of_thread; ++o) {
#pragma unroll
                for (int i = 0; i < positions_of_thread; ++i) {
                    const float value = now.values[tap / 3][i + tap % 3];
                    result[o][i] = fmaf(now.weights[tap][o], value, result[o][i]);
                }
            }
        }
        now = next;
    }
#pragma unroll
    for (int o = 0; o < outputs_of_thread; ++o) {
#pragma unroll
        for (int i = 0; i < positions_of_thread; ++i) result[o][i] = leaky(result[o][i]);
        if (sums) {
            const float sum = (result[o][0] + result[o][1]) + (result[o][2] + result[o][3]);
            out[(crop * threads + thread) * outputs + first + o] = sum;
        } else {
            float4* row = reinterpret_cast<float4*>(
                out + (crop * outputs + first + o) * positions + y * side + x);
            *row = {result[o][0], result[o][1], result[o][2], result[o][3]};
        }
    }
}

}  // namespace noise

extern "C" __global__ void __launch_bounds__(256) noise_blocks(const float* __restrict__ crops,
                                                             float* __restrict__ features) {
    using namespace noise;
    constexpr int channels = 3 * block_px * block_px;
    constexpr int groups_of_crop = 3 * crop_px * side;
    const int crop = static_cast<int>(blockIdx.y);
    const int step = static_cast<int>(gridDim.x * blockDim.x);
    int group = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    for (; group < groups_of_crop; group += step) {
        const int x = group % side;
        const int row = group / side % crop_px;
        const int plane = group / side / crop_px;
        float pixels[block_px];
        read_4(crops + (crop * groups_of_crop + group) * block_px, pixels);
        const int channel = (plane * block_px + row % block_px) * block_px;
        float* out = features + (crop * channels + channel) * positions + row / block_px * side + x;
#pragma unroll
        for (int i = 0; i < block_px; ++i) out[i * positions] = sane(pixels[i]);
    }
}

extern "C" __global__ void __launch_bounds__(64)
    noise_convolve_1(const float* __restrict__ features, const float* __restrict__ kernels,
                     const float* __restrict__ biases, float* __restrict__ out) {
    noise::convolve<48, false>(features, kernels, biases, out);
}

extern "C" __global__ void __launch_bounds__(64)
    noise_convolve_2(const float* __restrict__ features, const float* __restrict__ kernels,
                     const float* __restrict__ biases, float* __restrict__ out) {
    noise::convolve<32, false>(features, kernels, biases, out);
}

extern "C" __global__ void __launch_bounds__(64)
    noise_convolve_3(const float* __restrict__ features, const float* __restrict__ kernels,
                     const float* __restrict__ biases, float* __restrict__ sums) {
    noise::convolve<32, true>(features, kernels, biases, sums);
}

extern "C" __global__ void __launch_bounds__(64)
    noise_pool(const float* __restrict__ sums, float* __restrict__ means) {
    using namespace noise;
    const int crop = static_cast<int>(blockIdx.x);
    const int channel = static_cast<int>(threadIdx.x);
    float total = 0.0f;
#pragma unroll 16
    for (int i = 0; i < threads; ++i) total += sums[(crop * threads + i) * pooled + channel];
    means[crop * pooled + channel] = total / positions;
}

extern "C" __global__ void __launch_bounds__(32)
    noise_head(const float* __restrict__ means, const float* __restrict__ linear_1,
               const float* __restrict__ bias_1, const float* __restrict__ linear_2,
               const float* __restrict__ bias_2, float* __restrict__ output) {
    using namespace noise;
    const int crop = static_cast<int>(blockIdx.x);
    float mean[pooled];
#pragma unroll
    for (int c = 0; c < pooled; c += 4) read_4(means + crop * pooled + c, mean + c);
    float result = bias_2[0];
#pragma unroll 2
    for (int h = 0; h < hidden; ++h) {
        // Four sums, so that a multiply-add need not wait for the one before.
        float parts[4] = {bias_1[h], 0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int c = 0; c < pooled; c += 4) {
            float weights[4];
            read_4(linear_1 + h * pooled + c, weights);
#pragma unroll
            for (int i = 0; i < 4; ++i) parts[i] = fmaf(weights[i], mean[c + i], parts[i]);
        }
        const float sum = (parts[0] + parts[1]) + (parts[2] + parts[3]);
        result = fmaf(linear_2[h], leaky(sum), result);
    }
    output[crop] = result;
}
