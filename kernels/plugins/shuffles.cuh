// unshuffle: an image's blocks of side x side pixels become channels, as the first convolution
// reads them; shuffle_add: channels become the pixels of blocks, and the image is added.
//
//   image    (N, planes, side height, side width) float or __half, planes (TensorRT's kLINEAR)
//   blocks   (N, height, width, octets * 8) __half, channels last: channel c * side^2 + dy * side +
//            dx is plane c at row dy and column dx of a block; those beyond are zero (unshuffle) or
//            not read (shuffle_add)
//   out      (N, channels, side height, side width), of the image's type: shuffle_add's
//
// Only the first `channels` planes of the image are added: one more may tell the noise level.
//
// Bytes: unshuffle reads the image and writes as much (4 planes of __half at 1088 x 1920: 33 MB, 11
// us at 3.0 TB/s); shuffle_add reads blocks and image and writes the output (42 MB, 14 us).
// TensorRT 8.6 pads 4 planes to 8 channels at full size, and shuffles, slices and adds in turn.
//
// Thread mapping: a thread has one block of pixels, whose columns it moves in pairs: neighbours in
// x move neighbouring words of each plane. blockIdx.x and threadIdx.x are the columns of blocks,
// blockIdx.y the row, blockIdx.z the image; `side` is even.
#include "channels_last.cuh"

template <typename Value, int side>
__device__ __forceinline__ size_t pixel_of(int channel, size_t image, int planes, int height,
                                           int width, int y, int x) {
    const int plane = channel / (side * side);
    const int row = y * side + channel / side % side;
    return ((image * planes + plane) * height * side + row) * width * side + x * side +
           channel % side;
}

template <typename Value, int side>
__global__ void __launch_bounds__(128)
    unshuffle(const Value* __restrict__ image, __half* blocks, int planes, int height, int width,
              int octets) {
    static_assert(side % 2 == 0, "columns are moved in pairs");
    const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int y = static_cast<int>(blockIdx.y);
    const size_t n = blockIdx.z;
    if (x >= width) return;
    __half* place = blocks + ((n * height + y) * width + x) * octets * 8;
#pragma unroll 2
    for (int octet = 0; octet < octets; ++octet) {
        Octet result;
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            const int channel = octet * 8 + e;
            Vector<Value, 2> pair;
            from_float(0.0f, pair.values[0]);
            from_float(0.0f, pair.values[1]);
            if (channel < planes * side * side) {
                read_vector(image + pixel_of<Value, side>(channel, n, planes, height, width, y, x),
                            pair);
            }
            from_float(to_float(pair.values[0]), result.values[e]);
            from_float(to_float(pair.values[1]), result.values[e + 1]);
        }
        write_vector(place + octet * 8, result);
    }
}

template <typename Value, int side>
__global__ void __launch_bounds__(128)
    shuffle_add(const __half* __restrict__ blocks, const Value* __restrict__ image, Value* out,
                int planes, int channels, int height, int width, int octets) {
    static_assert(side % 2 == 0, "columns are moved in pairs");
    const int x = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
    const int y = static_cast<int>(blockIdx.y);
    const size_t n = blockIdx.z;
    if (x >= width) return;
    const __half* place = blocks + ((n * height + y) * width + x) * octets * 8;
#pragma unroll 2
    for (int octet = 0; octet < octets; ++octet) {
        Octet given;
        read_vector(place + octet * 8, given);
#pragma unroll
        for (int e = 0; e < 8; e += 2) {
            const int channel = octet * 8 + e;
            if (channel < channels * side * side) {
                Vector<Value, 2> pair;
                read_vector(image + pixel_of<Value, side>(channel, n, planes, height, width, y, x),
                            pair);
#pragma unroll
                for (int i = 0; i < 2; ++i) {
                    from_float(to_float(pair.values[i]) + to_float(given.values[e + i]),
                               pair.values[i]);
                }
                write_vector(out + pixel_of<Value, side>(channel, n, channels, height, width, y, x),
                             pair);
            }
        }
    }
}
