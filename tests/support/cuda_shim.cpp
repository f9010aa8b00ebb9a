// The runtime of cuda_shim.h. The threads of a block take turns on one of the CPU's, and change at barriers.
//
// With RACES, ThreadSanitizer is told that they are threads, and that only barriers order what they do.
#include <memory>
#include <ucontext.h>
#include <vector>

#ifdef RACES
#include <sanitizer/tsan_interface.h>
static void ordered_before(void* point) { __tsan_release(point); }
static void ordered_after(void* point) { __tsan_acquire(point); }
static void* this_thread() { return __tsan_get_current_fiber(); }
static void* new_thread() { return __tsan_create_fiber(0); }
static void change_to(void* thread) { __tsan_switch_to_fiber(thread, __tsan_switch_to_fiber_no_sync); }
#else
static void ordered_before(void*) {}
static void ordered_after(void*) {}
static void* this_thread() { return nullptr; }
static void* new_thread() { return nullptr; }
static void change_to(void*) {}
#endif

struct Index { unsigned x; };
Index threadIdx, blockIdx, gridDim;

struct Barrier {
    unsigned size, arrived, turn;
    char points[2];  // of even and of odd turns: who is late must not be ordered after the next turn
    void wait();
};
using Entry = void (*)(const unsigned long*);
constexpr unsigned stack_bytes = 1 << 17;
static std::vector<std::unique_ptr<char[]>> stacks;
static std::vector<void*> names;  // to ThreadSanitizer
static std::vector<ucontext_t> contexts;
static ucontext_t caller;
static void* callers_name;
static Barrier block_barrier, warp_barriers[32];
static char start;
static unsigned finished;
static Entry kernel;
static const unsigned long* arguments;
static unsigned char exchanged[32][32][32];

static void next_thread() {
    const unsigned me = threadIdx.x, other = (me + 1) % contexts.size();
    threadIdx = {other};
    change_to(names[other]);
    swapcontext(&contexts[me], &contexts[other]);
}
void Barrier::wait() {
    const unsigned now = turn;
    ordered_before(&points[now % 2]);
    if (++arrived == size) { arrived = 0; turn++; }
    while (turn == now) next_thread();
    ordered_after(&points[now % 2]);
}
static void all_blocks() {
    ordered_after(&start);
    for (unsigned b = 0; b < gridDim.x; b++) {
        blockIdx = {b};
        kernel(arguments);
        block_barrier.wait();
    }
    if (++finished == contexts.size()) {
        change_to(callers_name);
        setcontext(&caller);
    }
    while (true) next_thread();
}

extern "C" {
void shim_wait_for_block() { block_barrier.wait(); }
void shim_wait_for_warp() { warp_barriers[threadIdx.x / 32].wait(); }
unsigned char* shim_exchanged(unsigned lane) { return exchanged[threadIdx.x / 32][lane]; }

void shim_launch(Entry entry, unsigned blocks, unsigned threads, const unsigned long* raw) {
    gridDim = {blocks};
    kernel = entry;
    arguments = raw;
    finished = 0;
    block_barrier.size = threads;
    for (Barrier& barrier : warp_barriers) barrier.size = 32;
    while (stacks.size() < threads) {
        stacks.emplace_back(new char[stack_bytes]);
        names.push_back(new_thread());
    }
    callers_name = this_thread();
    contexts.resize(threads);
    for (unsigned t = 0; t < threads; t++) {
        getcontext(&contexts[t]);
        contexts[t].uc_stack.ss_sp = stacks[t].get();
        contexts[t].uc_stack.ss_size = stack_bytes;
        makecontext(&contexts[t], all_blocks, 0);
    }
    ordered_before(&start);
    threadIdx = {0};
    change_to(names[0]);
    swapcontext(&caller, &contexts[0]);
    ordered_after(&block_barrier.points[(block_barrier.turn - 1) % 2]);
}
}
