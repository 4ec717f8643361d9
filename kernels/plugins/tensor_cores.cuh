// Tensor cores and asynchronous copies, a warp's instructions as functions (sm_80 and later; the
// tests' host build has its own in host_block.h).
//
// Fragments lie as PTX says of mma.m16n8k16: with g = lane / 4 and t = lane % 4 a lane holds of the
// sum, 16 x 8, rows g and g + 8 at columns 2 t and 2 t + 1.
#pragma once

#include "channels_last.cuh"

#ifdef __CUDACC__

// Four matrices of 8 x 8: the row of 16 bytes that lane l points to is row l % 8 of matrix l / 8.
// Of each a lane gets row g, columns 2 t and 2 t + 1.
__device__ __forceinline__ void load_fragments(const __half* row, unsigned (&words)[4]) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(address));
}

// sum += a b, a of 16 x 16, b of 16 x 8 (its columns' values lie beside each other).
__device__ __forceinline__ void multiply_add(const unsigned (&a)[4], unsigned b0, unsigned b1,
                                             float (&sum)[4]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 16 bytes, or zeros where `inside` is false; `global` must be readable all the same.
__device__ __forceinline__ void copy_async(__half* shared, const __half* global, bool inside) {
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :
                 : "r"(address), "l"(global), "r"(inside ? 16 : 0)
                 : "memory");
}

__device__ __forceinline__ void end_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all but the newest group have arrived, as far as this thread asked for them.
__device__ __forceinline__ void wait_for_older_groups() {
    asm volatile("cp.async.wait_group 1;" ::: "memory");
}

#endif
