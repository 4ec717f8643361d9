// What the store kernels share to count values that are not finite, as FP16 makes them where it
// overflows: they are stored as something that can be seen, so the count is what tells.
//
// Looking costs an instruction a value and no bytes: a product with zero is zero, or NaN where the
// value is NaN or infinite, and so is the sum of all products of a thread. Where that is NaN, which
// never happens with an engine that works, the thread reads its values again, counts, and adds the
// number to `nonfinite`, a uint64 in memory of the device, or null: one atomic for a thread's
// pixels of some rows. Whoever launches the kernels sets it to zero.
#pragma once

#include "tile.cuh"

// Zero, or NaN where some value is not finite.
template <typename Value, int group>
__device__ __forceinline__ float vanished(const Vector<Value, group> (&planes)[3]) {
    float zero = 0.0f;
#pragma unroll
    for (int c = 0; c < 3; ++c) {
#pragma unroll
        for (int i = 0; i < group; ++i) zero = fmaf(to_float(planes[c].values[i]), 0.0f, zero);
    }
    return zero;
}

// Counts in the three planes of a rectangle of the tile, whose first red is `in`, where `zero` is
// none: NaN, the sum of its products with zero.
template <typename Value>
__device__ __forceinline__ void count_nonfinite(float zero, const Tile<const Value>& tile,
                                                const Value* in, int rows, int columns,
                                                unsigned long long* nonfinite) {
    if (zero == zero || nonfinite == nullptr) return;
    unsigned count = 0;
#pragma unroll 1
    for (int row = 0; row < 3 * rows; ++row) {
        const Value* values = in + (row % 3) * tile.plane + (row / 3) * tile.width;
#pragma unroll 1
        for (int x = 0; x < columns; ++x) {
            const float value = to_float(values[x]) * 0.0f;
            count += value != value;
        }
    }
    // None where finite numbers of a sum have become infinite together.
    if (count != 0) atomicAdd(nonfinite, static_cast<unsigned long long>(count));
}
