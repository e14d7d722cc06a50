// Runs the mixture's CUDA kernel on a CPU: each thread of a block is a thread, 32 of them are a warp, and blocks and
// warps have a barrier. The kernel's source is included without changes.
#include <barrier>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

struct Index { int x; };
static thread_local Index threadIdx, blockIdx, blockDim;
static std::unique_ptr<std::barrier<>> block_barrier;
static std::vector<std::unique_ptr<std::barrier<>>> warp_barriers;
static std::vector<float> lanes;
float joint[1024];

static void __syncthreads() { block_barrier->arrive_and_wait(); }

static float __shfl_xor_sync(unsigned, float value, int step)
{
    std::barrier<>& warp = *warp_barriers[threadIdx.x / 32];
    lanes[threadIdx.x] = value;
    warp.arrive_and_wait();
    const float other = lanes[threadIdx.x ^ step];
    warp.arrive_and_wait();
    return other;
}

#define __global__
#define __shared__
#include "kernel.cu"

extern "C" void run(const float* product, const float* offsets, const float* constants, float* likelihoods,
                    int faces, int components, int size, int threads)
{
    lanes.resize(threads);
    for (int face = 0; face < faces; ++face) {
        block_barrier = std::make_unique<std::barrier<>>(threads);
        warp_barriers.clear();
        for (int warp = 0; warp < threads / 32; ++warp) {
            warp_barriers.push_back(std::make_unique<std::barrier<>>(32));
        }
        std::vector<std::thread> block;
        for (int thread = 0; thread < threads; ++thread) {
            block.emplace_back([=] {
                threadIdx.x = thread, blockIdx.x = face, blockDim.x = threads;
                finish_likelihood(product, offsets, constants, likelihoods, components, size);
            });
        }
        for (std::thread& thread : block) {
            thread.join();
        }
    }
}
