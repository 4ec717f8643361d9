// What the tile kernels share: how a pixel lies in a frame, how its samples become numbers, and how
// a thread reads several of them at once.
//
// A frame is interleaved: pixel x of row y begins at byte y * pitch_bytes + x * channels *
// sizeof(Sample). The pointer and the pitch are multiples of the sample's size; nothing else is
// asked of them, so rows of 1919 RGB pixels, crops of larger frames and negative pitches (the
// bottom row first) are fine.
//
// A thread owns *groups*: the neighbouring pixels whose samples fill `channels` 32-bit words, that
// is 4 pixels of uint8, 2 of uint16, 1 of float32. So a group is 12 bytes of an RGB frame whatever
// the depth, moved in words, and neighbouring threads move neighbouring groups.
//
// Samples become numbers and numbers samples without the conversion instructions, of which a
// multiprocessor issues 16 a cycle, where it issues 64 or 128 of the others. Floats of 2^23 to 2^24
// are the whole numbers, told apart by the last bits of their fraction: a sample put there by one
// byte permutation is 2^23 + sample, and what has 1.5 * 2^23 added to it is rounded to nearest,
// ties to even, and lies there to be taken. (From 1.5 * 2^23 so that neither -0.5 nor 2^16 leaves
// the range.)
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

// What is moved in one instruction. Written by the intrinsic for it: nvcc 13.0 takes assignments
// of vectors apart at times, and stored one of three planes of __half in four pieces, which made
// the second level cache write twice the sectors.
template <int bytes>
struct Packet;
template <>
struct Packet<2> { typedef unsigned short type; };
template <>
struct Packet<4> { typedef unsigned type; };
template <>
struct Packet<8> { typedef uint2 type; };
template <>
struct Packet<16> { typedef uint4 type; };

// To global memory alone: the intrinsic says so, and fails anywhere else.
template <typename Vec>
__device__ __forceinline__ void write_vector(void* out, const Vec& vector) {
    typedef typename Packet<sizeof(Vec)>::type Whole;
    __stwb(static_cast<Whole*>(out), reinterpret_cast<const Whole&>(vector));
}

template <typename Vec>
__device__ __forceinline__ void read_vector(const void* in, Vec& vector) {
    typedef typename Packet<sizeof(Vec)>::type Whole;
    reinterpret_cast<Whole&>(vector) = *static_cast<const Whole*>(in);
}

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

// The nearest integer of a number in 0..65535, ties to even (numpy.rint), in the lower half of the
// word; the upper half means nothing.
__device__ __forceinline__ unsigned rounded(float scaled) {
    return __float_as_uint(scaled + 12582912.0f);
}

// Four bytes, each the lowest of a word, as a word.
__device__ __forceinline__ unsigned bytes_of(unsigned first, unsigned second, unsigned third,
                                             unsigned fourth) {
    return __byte_perm(__byte_perm(first, second, 0x0040), __byte_perm(third, fourth, 0x0040),
                       0x5410);
}

// What samples stand for, those of a word and those to be put into one.
//
//   at       sample i of a word
//   unit     the value 0..1 of sample i of a word
//   bits     a sample as the lowest bits of a word
//   sample   the same of the sample of a value; the other bits mean nothing
//   mean     the same of the mean of three values, whose sum is given
//   opaque   a word of the greatest samples
//   word     a word of its samples' bits
//
// As a __half, a sample is its product with the reciprocal, rounded to float and to __half: that is
// the division, for all 256 and all 65536 samples (tested). fmaf takes the bias off before it
// rounds, so the product is that of the sample alone.
//
// A value is cut before it is scaled, which needs no instruction of its own: saturated(v) * maximum
// is cut(v * maximum) for every v, as the product is monotonic and is exact at 0 and 1; NaN is 0 in
// both. The product of a __half and 255 has 11 + 8 bits and is exact, so that one fmaf scales and
// rounds. With 65535 it is not, and a fmaf would round four of all __half otherwise than numpy.
template <typename Sample>
struct Depth {
    enum { bytes = sizeof(Sample), maximum = bytes == 1 ? 255 : 65535 };

    static __device__ __forceinline__ float biased(unsigned word, int i) {
        return __uint_as_float(
            __byte_perm(word, 0x4b000000, bytes == 1 ? 0x7440 + i : 0x7410 + 0x22 * i));
    }
    static __device__ __forceinline__ Sample at(unsigned word, int i) {
        return static_cast<Sample>(word >> (8 * bytes * i));
    }
    static __device__ __forceinline__ void unit(unsigned word, int i, __half& out) {
        constexpr float reciprocal = 1.0f / maximum;
        from_float(fmaf(biased(word, i), reciprocal, -8388608.0f * reciprocal), out);
    }
    static __device__ __forceinline__ void unit(unsigned word, int i, float& out) {
        out = divided(biased(word, i) - 8388608.0f, maximum, 1.0f / maximum);
    }
    static __device__ __forceinline__ unsigned bits(Sample sample) { return sample; }
    static __device__ __forceinline__ unsigned sample(float unit) {
        return rounded(__saturatef(unit) * maximum);
    }
    static __device__ __forceinline__ unsigned sample(__half unit) {
        if (bytes != 1) return sample(to_float(unit));
        return __float_as_uint(fmaf(__saturatef(to_float(unit)), maximum, 12582912.0f));
    }
    static __device__ __forceinline__ unsigned opaque() { return 0xffffffff; }
    static __device__ __forceinline__ unsigned mean(float sum) {
        return rounded(cut(sum * (maximum / 3), maximum));
    }
    static __device__ __forceinline__ unsigned word(const unsigned* bits) {
        if constexpr (bytes == 1) return bytes_of(bits[0], bits[1], bits[2], bits[3]);
        return __byte_perm(bits[0], bits[1], 0x5410);
    }
};

// float32 frames are taken as they are, outside 0..1 too, and given cut to 0..1, not rounded.
template <>
struct Depth<float> {
    static __device__ __forceinline__ float at(unsigned word, int) { return __uint_as_float(word); }
    template <typename Value>
    static __device__ __forceinline__ void unit(unsigned word, int, Value& out) {
        from_float(__uint_as_float(word), out);
    }
    static __device__ __forceinline__ unsigned bits(float sample) {
        return __float_as_uint(sample);
    }
    template <typename Value>
    static __device__ __forceinline__ unsigned sample(Value unit) {
        return bits(__saturatef(to_float(unit)));
    }
    static __device__ __forceinline__ unsigned opaque() { return bits(1.0f); }
    static __device__ __forceinline__ unsigned mean(float sum) {
        return bits(__saturatef(sum / 3.0f));
    }
    static __device__ __forceinline__ unsigned word(const unsigned* bits) { return bits[0]; }
};

// The words of a group of pixels of the frame, read and written in one instruction where one of its
// width exists and `bytes` divides their address. (There is none of 12 bytes.)
template <int channels>
struct Words {
    enum { words = channels == 3 ? 1 : channels, bytes = 4 * words };
    typedef Vector<unsigned, words> Vec;

    static __device__ __forceinline__ void read(const void* source, unsigned (&out)[channels]) {
#pragma unroll
        for (int i = 0; i < channels; i += words) {
            Vec vector;
            read_vector(static_cast<const Vec*>(source) + i / words, vector);
#pragma unroll
            for (int j = 0; j < words; ++j) out[i + j] = vector.values[j];
        }
    }
    static __device__ __forceinline__ void write(void* target, const unsigned (&in)[channels]) {
#pragma unroll
        for (int i = 0; i < channels; i += words) {
            Vec vector;
#pragma unroll
            for (int j = 0; j < words; ++j) vector.values[j] = in[i + j];
            write_vector(static_cast<Vec*>(target) + i / words, vector);
        }
    }
};

// Whether an address and a pitch, and with them all rows of a thread, are multiples of `bytes`.
__device__ __forceinline__ bool aligned(const void* address, long long pitch_bytes, int bytes) {
    return ((reinterpret_cast<size_t>(address) | pitch_bytes) & (bytes - 1)) == 0;
}

// The words of a group of pixels whose samples' bits are given.
template <typename Sample, int channels>
__device__ __forceinline__ void to_words(const unsigned (&bits)[Group<Sample>::px * channels],
                                         unsigned (&words)[channels]) {
#pragma unroll
    for (int i = 0; i < channels; ++i) {
        words[i] = Depth<Sample>::word(bits + i * Group<Sample>::px);
    }
}

// Sample i of a group's words.
template <typename Sample>
__device__ __forceinline__ Sample sample_at(const unsigned* words, int i) {
    return Depth<Sample>::at(words[i / Group<Sample>::px], i % Group<Sample>::px);
}

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

// The group that begins at pixel x, read as words. Where it does not begin on a word, one word more
// is read and the words are shifted out of the pairs. False, and nothing is read, where any of that
// would leave the row: such pixels are read one by one. (A float32 sample is a word, and reading
// one by one is the same.)
template <typename Sample, int channels>
__device__ __forceinline__ bool read_words(const Sample* row, int x, int width,
                                           unsigned (&words)[channels]) {
    constexpr int pixel_bytes = channels * sizeof(Sample);
    if (Group<Sample>::px == 1) return false;
    const long long first_byte = static_cast<long long>(x) * pixel_bytes;
    const int shift_bytes = static_cast<int>((reinterpret_cast<size_t>(row) + first_byte) & 3);
    const long long start_byte = first_byte - shift_bytes;
    const int size_bytes = 4 * (channels + (shift_bytes != 0));
    if (start_byte < 0 || start_byte + size_bytes > static_cast<long long>(width) * pixel_bytes) {
        return false;
    }
    const unsigned* source =
        reinterpret_cast<const unsigned*>(reinterpret_cast<const char*>(row) + start_byte);
    unsigned read[channels + 1];
#pragma unroll
    for (int i = 0; i < channels; ++i) read[i] = source[i];
    read[channels] = shift_bytes != 0 ? source[channels] : 0;
#pragma unroll
    for (int i = 0; i < channels; ++i) {
        const unsigned long long pair =
            static_cast<unsigned long long>(read[i + 1]) << 32 | read[i];
        words[i] = static_cast<unsigned>(pair >> (8 * shift_bytes));
    }
    return true;
}
