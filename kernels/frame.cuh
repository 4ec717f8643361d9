// What the tile kernels share: how a pixel lies in a frame, how its samples become numbers, and how
// a thread reads several of them at once.
//
// A frame is interleaved: pixel x of row y begins at byte y * pitch_bytes + x * channels *
// sizeof(Sample). The pointer and the pitch are multiples of the sample's size; nothing else is
// asked of them, so rows of 1919 RGB pixels, crops of larger frames and negative pitches (the
// bottom row first) are fine.
//
// A thread owns a *group*: the neighbouring pixels whose samples fill `channels` 32-bit words, that
// is 4 pixels of uint8, 2 of uint16, 1 of float32. So a thread moves 12 bytes of an RGB frame
// whatever the depth, in words, and neighbouring threads move neighbouring groups.
//
// Compiles with nvcc, with NVRTC (of the toolkit's headers only cuda_fp16.h is used) and, for the
// tests, with g++ behind a header that stands in for CUDA.
#pragma once

#ifdef __CUDACC__
#include <cuda_fp16.h>
#endif

struct Gray { enum { channels = 1, red = 0, green = 0, blue = 0 }; };
struct Rgb { enum { channels = 3, red = 0, green = 1, blue = 2 }; };
struct Bgr { enum { channels = 3, red = 2, green = 1, blue = 0 }; };
struct Rgba { enum { channels = 4, red = 0, green = 1, blue = 2 }; };
struct Bgra { enum { channels = 4, red = 2, green = 1, blue = 0 }; };

template <typename Sample>
struct Group { enum { px = 4 / sizeof(Sample) }; };

// Values of one plane that a thread reads or writes in one instruction.
template <typename Value, int count>
struct alignas(count * sizeof(Value)) Vector { Value values[count]; };

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ void from_float(float value, float& out) { out = value; }
__device__ __forceinline__ void from_float(float value, __half& out) {
    out = __float2half_rn(value);
}

// sample / maximum, rounded as the division is: one Newton step repairs the product with the
// reciprocal. Equal to the division for all 65536 samples (tested), in three instructions instead
// of the division's dozen and its slow branch.
__device__ __forceinline__ float divided(float sample, float maximum, float reciprocal) {
    const float quotient = sample * reciprocal;
    return fmaf(fmaf(-quotient, maximum, sample), reciprocal, quotient);
}

// Within 0..maximum. fmaxf drops a NaN: it becomes 0.
__device__ __forceinline__ float cut(float scaled, float maximum) {
    return fminf(fmaxf(scaled, 0.0f), maximum);
}

// Nearest integer, ties to even (numpy.rint), within 0..maximum.
__device__ __forceinline__ float rounded(float scaled, float maximum) {
    return rintf(cut(scaled, maximum));
}

template <typename Sample>
struct Depth;

template <>
struct Depth<unsigned char> {
    static __device__ __forceinline__ float unit(unsigned char sample) {
        return divided(sample, 255.0f, 1.0f / 255.0f);
    }
    static __device__ __forceinline__ unsigned char sample(float unit) {
        return static_cast<unsigned char>(rounded(unit * 255.0f, 255.0f));
    }
    static __device__ __forceinline__ unsigned char mean(float sum) {
        return static_cast<unsigned char>(rounded(sum * 85.0f, 255.0f));
    }
};

template <>
struct Depth<unsigned short> {
    static __device__ __forceinline__ float unit(unsigned short sample) {
        return divided(sample, 65535.0f, 1.0f / 65535.0f);
    }
    static __device__ __forceinline__ unsigned short sample(float unit) {
        return static_cast<unsigned short>(rounded(unit * 65535.0f, 65535.0f));
    }
    static __device__ __forceinline__ unsigned short mean(float sum) {
        return static_cast<unsigned short>(rounded(sum * 21845.0f, 65535.0f));
    }
};

// float32 frames are taken as they are, outside 0..1 too, and given cut to 0..1, not rounded.
template <>
struct Depth<float> {
    static __device__ __forceinline__ float unit(float sample) { return sample; }
    static __device__ __forceinline__ float sample(float unit) { return cut(unit, 1.0f); }
    static __device__ __forceinline__ float mean(float sum) { return cut(sum / 3.0f, 1.0f); }
};

// Position of `index` in a row of `size` samples continued by reflection that does not repeat the
// border sample, at any distance: a triangle wave of period 2 (size - 1).
__device__ __forceinline__ int reflected(int index, int size) {
    if (index >= 0 && index < size) return index;
    if (size == 1) return 0;
    const int period = 2 * (size - 1);
    int phase = index % period;
    if (phase < 0) phase += period;
    return phase < size ? phase : period - phase;
}

template <typename Sample>
__device__ __forceinline__ Sample* row_at(void* frame, long long pitch_bytes, int y) {
    return reinterpret_cast<Sample*>(static_cast<char*>(frame) + y * pitch_bytes);
}

template <typename Sample>
__device__ __forceinline__ const Sample* row_at(const void* frame, long long pitch_bytes, int y) {
    return reinterpret_cast<const Sample*>(static_cast<const char*>(frame) + y * pitch_bytes);
}

// The samples of the group that begins at pixel x, read as words. Where it does not begin on a
// word, one word more is read and the samples are shifted out of the pairs. False, and nothing is
// read, where any of that would leave the row: such pixels are read one by one. (A float32 sample
// is a word, and reading one by one is the same.)
template <typename Sample, int channels>
__device__ __forceinline__ bool read_words(const Sample* row, int x, int width,
                                           Sample (&samples)[Group<Sample>::px * channels]) {
    constexpr int per_word = Group<Sample>::px;
    constexpr int pixel_bytes = channels * sizeof(Sample);
    if (per_word == 1) return false;
    const long long first_byte = static_cast<long long>(x) * pixel_bytes;
    const int shift_bytes = static_cast<int>((reinterpret_cast<size_t>(row) + first_byte) & 3);
    const long long start_byte = first_byte - shift_bytes;
    const int size_bytes = 4 * (channels + (shift_bytes != 0));
    if (start_byte < 0 || start_byte + size_bytes > static_cast<long long>(width) * pixel_bytes) {
        return false;
    }
    const unsigned* source =
        reinterpret_cast<const unsigned*>(reinterpret_cast<const char*>(row) + start_byte);
    unsigned words[channels + 1];
#pragma unroll
    for (int i = 0; i < channels; ++i) words[i] = source[i];
    words[channels] = shift_bytes != 0 ? source[channels] : 0;
#pragma unroll
    for (int i = 0; i < channels; ++i) {
        const unsigned long long pair =
            static_cast<unsigned long long>(words[i + 1]) << 32 | words[i];
        const unsigned word = static_cast<unsigned>(pair >> (8 * shift_bytes));
#pragma unroll
        for (int j = 0; j < per_word; ++j) {
            samples[i * per_word + j] = static_cast<Sample>(word >> (j * 8 * sizeof(Sample)));
        }
    }
    return true;
}
