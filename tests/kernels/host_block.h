// Stands in for CUDA, as host_cuda.h does, where the threads of a block wait for each other: each
// has a stack of its own, and runs until it waits. Blocks are run one after another.
#pragma once

#include <ucontext.h>

#include <memory>
#include <vector>

#include "host_cuda.h"

// One block runs at a time, so what all its threads share may be static.
#define __shared__ static

static ucontext_t scheduler;
static ucontext_t* running;

class Barrier {
  public:
    void reset(unsigned threads) { threads_ = threads; }
    void wait() {
        const unsigned long turn = turn_;
        if (++waiting_ == threads_) {
            waiting_ = 0;
            ++turn_;
        }
        while (turn == turn_) swapcontext(running, &scheduler);
    }

  private:
    unsigned threads_ = 0, waiting_ = 0;
    unsigned long turn_ = 0;
};

static Barrier block_barrier;

inline void __syncthreads() { block_barrier.wait(); }

// What lanes of a warp show each other (tensor_cores.cuh).
struct Warp {
    Barrier barrier;
    const __half* rows[32];
    unsigned first[32][4], second[32][2];
};
static Warp block_warps[32];

inline Warp& own_warp() { return block_warps[threadIdx.x / 32]; }

inline void load_fragments(const __half* row, unsigned (&words)[4]) {
    Warp& warp = own_warp();
    const unsigned lane = threadIdx.x % 32;
    warp.rows[lane] = row;
    warp.barrier.wait();
    for (unsigned i = 0; i < 4; ++i)
        std::memcpy(&words[i], warp.rows[8 * i + lane / 4] + lane % 4 * 2, sizeof words[i]);
    warp.barrier.wait();
}

// Value 0 or 1 of a word of two.
inline float value_of(unsigned word, unsigned index) {
    return __half2float(__half{static_cast<std::uint16_t>(word >> 16 * index)});
}

inline void multiply_add(const unsigned (&a)[4], unsigned b0, unsigned b1, float (&sum)[4]) {
    Warp& warp = own_warp();
    const unsigned lane = threadIdx.x % 32;
    std::copy(a, a + 4, warp.first[lane]);
    warp.second[lane][0] = b0;
    warp.second[lane][1] = b1;
    warp.barrier.wait();
    for (unsigned i = 0; i < 4; ++i) {
        // Row lane / 4 or 8 below, column 2 (lane % 4) or the next.
        const unsigned column = lane % 4 * 2 + i % 2;
        double total = sum[i];
        for (unsigned k = 0; k < 16; ++k) {
            const unsigned pair = k % 8 / 2;
            const unsigned left = warp.first[lane / 4 * 4 + pair][k / 8 * 2 + i / 2];
            const unsigned right = warp.second[column * 4 + pair][k / 8];
            total += static_cast<double>(value_of(left, k % 2)) * value_of(right, k % 2);
        }
        sum[i] = static_cast<float>(total);
    }
    warp.barrier.wait();
}

inline void copy_async(__half* shared, const __half* global, bool inside) {
    static const __half zeros[8] = {};
    std::memcpy(shared, inside ? global : zeros, 16);
}

inline void end_group() {}
inline void wait_for_older_groups() {}

// Shared memory of the size that a kernel is launched with, at most.
#define SHARED_HALVES(name) alignas(16) static __half name[1 << 17]

// What a thread of the block that runs does.
static void (*work_of)(void*);
static void* arguments_of;

inline void run_thread() { work_of(arguments_of); }

template <typename Work>
void run_block(unsigned threads, Work& work) {
    constexpr std::size_t stack = 1 << 16;
    const std::unique_ptr<char[]> stacks(new char[threads * stack]);
    std::vector<ucontext_t> contexts(threads);
    std::vector<bool> done(threads, false);
    auto finished = [&](unsigned thread) { done[thread] = true; };
    auto whole = [&] {
        work();
        finished(threadIdx.x);
    };
    work_of = [](void* of) { (*static_cast<decltype(whole)*>(of))(); };
    arguments_of = &whole;
    for (unsigned thread = 0; thread < threads; ++thread) {
        getcontext(&contexts[thread]);
        contexts[thread].uc_stack = {stacks.get() + thread * stack, 0, stack};
        contexts[thread].uc_link = &scheduler;
        makecontext(&contexts[thread], run_thread, 0);
    }
    for (bool left = true; left;) {
        left = false;
        for (unsigned thread = 0; thread < threads; ++thread) {
            if (done[thread]) continue;
            threadIdx = {thread, 0, 0};
            running = &contexts[thread];
            swapcontext(&scheduler, running);
            left = left || !done[thread];
        }
    }
}

// Of blocks of one axis.
template <typename... Parameters, typename... Arguments>
void launch_blocks(void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                   Arguments... arguments) {
    gridDim = grid;
    blockDim = {threads, 1, 1};
    block_barrier.reset(threads);
    for (unsigned first = 0; first < threads; first += 32)
        block_warps[first / 32].barrier.reset(std::min(threads - first, 32u));
    auto work = [=] { kernel(arguments...); };
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block(threads, work);
}
