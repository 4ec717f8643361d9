// Stands in for CUDA when g++ compiles a kernel for the host: put it before the kernel's source.
// Blocks and threads are run one after another; kernels that synchronize or share memory within a
// block are run by host_block.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)

using std::max;
using std::min;

struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };

static dim3 gridDim, blockDim, blockIdx, threadIdx;

// binary16 in software, since not every g++ has _Float16: the conversions are those of the
// hardware, to nearest with ties to even.
struct __half { std::uint16_t bits; };

inline __half __float2half_rn(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    const std::uint32_t sign = bits >> 16 & 0x8000;
    std::uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return {static_cast<std::uint16_t>(sign | 0x7e00)};
    if (magnitude >= 0x47800000) return {static_cast<std::uint16_t>(sign | 0x7c00)};
    if (magnitude < 0x38800000) {
        // Below 2^-14 the unit is 2^-24, which is the last bit of 0.5f: the addition rounds.
        const float shifted = std::fabs(value) + 0.5f;
        std::memcpy(&magnitude, &shifted, sizeof magnitude);
        return {static_cast<std::uint16_t>(sign | (magnitude - 0x3f000000))};
    }
    magnitude += 0xfff + (magnitude >> 13 & 1);
    return {static_cast<std::uint16_t>(sign | ((magnitude - 0x38000000) >> 13))};
}

inline float __half2float(__half value) {
    const int exponent = value.bits >> 10 & 31;
    const int fraction = value.bits & 1023;
    float magnitude;
    if (exponent == 31) {
        magnitude = fraction != 0 ? NAN : INFINITY;
    } else if (exponent == 0) {
        magnitude = std::ldexp(static_cast<float>(fraction), -24);
    } else {
        magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
    }
    return std::copysign(magnitude, (value.bits & 0x8000) != 0 ? -1.0f : 1.0f);
}

inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}

// A store that caches as stores do.
template <typename Word>
void __stwb(Word* address, Word word) {
    *address = word;
}

// Within 0..1; NaN becomes 0, and so does -0, to the sign.
inline float __saturatef(float value) { return value > 0.0f ? std::fmin(value, 1.0f) : 0.0f; }

// Bytes of the pair: low holds numbers 0..3, high 4..7. A hexadecimal digit of the selector is the
// number of the byte that goes there. (Digits from 8 on repeat its sign: none asks for that.)
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
    const std::uint64_t pair = static_cast<std::uint64_t>(high) << 32 | low;
    unsigned word = 0;
    for (int i = 0; i < 4; ++i) {
        const unsigned byte = selector >> 4 * i & 7;
        word |= static_cast<unsigned>(pair >> 8 * byte & 255) << 8 * i;
    }
    return word;
}

inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value) {
    const unsigned long long before = *address;
    *address += value;
    return before;
}

// The GPU's timer, which moves on by a microsecond each time it is read.
extern "C" { inline unsigned long long timer_now_ns = 0; }

inline unsigned long long timer_ns() { return timer_now_ns += 1000; }

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, Arguments... arguments) {
    gridDim = grid;
    blockDim = block;
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x)
                for (threadIdx.z = 0; threadIdx.z < block.z; ++threadIdx.z)
                    for (threadIdx.y = 0; threadIdx.y < block.y; ++threadIdx.y)
                        for (threadIdx.x = 0; threadIdx.x < block.x; ++threadIdx.x)
                            kernel(arguments...);
}
