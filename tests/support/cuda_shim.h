// Enough of CUDA to run the text of a kernel on the CPU: the threads of a block by turns, block after block.
// The runtime lies in cuda_shim.cpp, so that a kernel is compiled without the standard library's headers.
struct Index { unsigned x; };
extern Index threadIdx, blockIdx, gridDim;
extern "C" {
void shim_wait_for_block();
void shim_wait_for_warp();
unsigned char* shim_exchanged(unsigned lane);
double exp(double); double expm1(double); double log(double); double log1p(double); double sqrt(double);
double tanh(double); double pow(double, double); double fabs(double); double fmax(double, double);
float expf(float); float expm1f(float); float logf(float); float log1pf(float); float sqrtf(float);
float tanhf(float); float powf(float, float); float fabsf(float); float fmaxf(float, float); float fmaf(float, float, float); float exp2f(float);
}

#define __global__
#define __device__
#define __noinline__
#define __shared__ static
#define __launch_bounds__(n)

static inline void __syncthreads() { shim_wait_for_block(); }
static inline void __syncwarp() { shim_wait_for_warp(); }
static inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
static inline unsigned atomicAdd(unsigned* at, unsigned by) { return __atomic_fetch_add(at, by, __ATOMIC_SEQ_CST); }
template <typename T> static T __shfl_xor_sync(unsigned, T value, int step) {
    const unsigned lane = threadIdx.x & 31;
    __builtin_memcpy(shim_exchanged(lane), &value, sizeof(T));
    shim_wait_for_warp();
    T other;
    __builtin_memcpy(&other, shim_exchanged(lane ^ step), sizeof(T));
    shim_wait_for_warp();
    return other;
}

template <typename To, typename From> static inline To bits_as(From x) {
    static_assert(sizeof(To) == sizeof(From));
    To y;
    __builtin_memcpy(&y, &x, sizeof(To));
    return y;
}
static inline float __uint_as_float(unsigned x) { return bits_as<float>(x); }
static inline unsigned __float_as_uint(float x) { return bits_as<unsigned>(x); }
static inline double __longlong_as_double(long long x) { return bits_as<double>(x); }
static inline float half_to_float(unsigned short x) { return (float)bits_as<_Float16>(x); }
static inline unsigned short float_to_half(float x) { return bits_as<unsigned short>((_Float16)x); }
static inline float exp2_of(float x) { return exp2f(x); }

// The arguments of a kernel are 8 bytes each.
template <unsigned long... I> struct Numbers {};
template <typename... A, unsigned long... I>
static void call(void (*kernel)(A...), const unsigned long* raw, Numbers<I...>) {
    kernel(bits_as<A>(raw[I])...);
}
template <typename... A> static void call(void (*kernel)(A...), const unsigned long* raw) {
    call(kernel, raw, Numbers<__integer_pack(sizeof...(A))...>());
}
#define ENTRY extern "C" void entry(const unsigned long* raw) { call(run, raw); }
