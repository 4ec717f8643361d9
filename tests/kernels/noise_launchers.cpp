// The kernels of the noise estimator as host functions, as launchers.cpp has the others: a file of its
// own, for these alone compute so much that they are worth the compiler's time to optimize them.
#include "host_cuda.h"

#include "noise_level.cu"

extern "C" void launch_noise_blocks(decltype(&noise_blocks) kernel, dim3 grid, dim3 block,
                                    const float* crops, float* features) {
    launch(kernel, grid, block, crops, features);
}

extern "C" void launch_noise_convolve(decltype(&noise_convolve_1) kernel, dim3 grid, dim3 block,
                                      const float* features, const float* kernels,
                                      const float* biases, float* out) {
    launch(kernel, grid, block, features, kernels, biases, out);
}

extern "C" void launch_noise_pool(decltype(&noise_pool) kernel, dim3 grid, dim3 block,
                                  const float* sums, float* means) {
    launch(kernel, grid, block, sums, means);
}

extern "C" void launch_noise_head(decltype(&noise_head) kernel, dim3 grid, dim3 block,
                                  const float* means, const float* linear_1, const float* bias_1,
                                  const float* linear_2, const float* bias_2, float* output) {
    launch(kernel, grid, block, means, linear_1, bias_1, linear_2, bias_2, output);
}
