// The runtime of cuda_shim.h.
#include <barrier>
#include <thread>
#include <vector>

struct Index { unsigned x; };
thread_local Index threadIdx, blockIdx;
Index gridDim;
static std::barrier<>* block_barrier;
static std::barrier<>* warp_barriers[32];
static unsigned char exchanged[32][32][32];

extern "C" {
void shim_wait_for_block() { block_barrier->arrive_and_wait(); }
void shim_wait_for_warp() { warp_barriers[threadIdx.x / 32]->arrive_and_wait(); }
unsigned char* shim_exchanged(unsigned lane) { return exchanged[threadIdx.x / 32][lane]; }

void shim_launch(void (*entry)(const unsigned long*), unsigned blocks, unsigned threads, const unsigned long* raw) {
    gridDim = {blocks};
    std::barrier<> all(threads);
    block_barrier = &all;
    for (unsigned w = 0; w < threads / 32; w++) warp_barriers[w] = new std::barrier<>(32);
    std::vector<std::thread> running;
    for (unsigned t = 0; t < threads; t++)
        running.emplace_back([=, &all] {
            threadIdx = {t};
            for (unsigned b = 0; b < blocks; b++) {
                blockIdx = {b};
                entry(raw);
                all.arrive_and_wait();
            }
        });
    for (auto& thread : running) thread.join();
    for (unsigned w = 0; w < threads / 32; w++) delete warp_barriers[w];
}
}
