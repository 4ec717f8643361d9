// Stands in for CUDA, as host_cuda.h does, where the threads of a block wait for each other: they
// are threads of the host, and blocks are run one after another.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "host_cuda.h"

// One block runs at a time, so what all its threads share may be static.
#define __shared__ static

class Barrier {
  public:
    void reset(unsigned threads) { threads_ = threads; }
    void wait() {
        std::unique_lock<std::mutex> lock(mutex_);
        const unsigned long turn = turn_;
        if (++waiting_ == threads_) {
            waiting_ = 0;
            ++turn_;
            all_.notify_all();
        } else {
            all_.wait(lock, [&] { return turn != turn_; });
        }
    }

  private:
    std::mutex mutex_;
    std::condition_variable all_;
    unsigned threads_ = 0, waiting_ = 0;
    unsigned long turn_ = 0;
};

static Barrier block_barrier;

inline void __syncthreads() { block_barrier.wait(); }

// Of blocks of one axis.
template <typename... Parameters, typename... Arguments>
void launch_blocks(void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                   Arguments... arguments) {
    gridDim = grid;
    blockDim = {threads, 1, 1};
    block_barrier.reset(threads);
    for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
        for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
            for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
                std::vector<std::thread> block;
                for (unsigned thread = 0; thread < threads; ++thread)
                    block.emplace_back([=] {
                        threadIdx = {thread, 0, 0};
                        kernel(arguments...);
                    });
                for (std::thread& thread : block) thread.join();
            }
}
