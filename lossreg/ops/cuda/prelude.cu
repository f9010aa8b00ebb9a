// What every kernel of lossreg is made of: numbers as they lie in memory, functions with NumPy's rules for NaN, and sums
// over a group of threads. A group is one warp or the whole block, and has one row at a time.
//
// Set before this text: GROUP, threads of a group; THREADS, threads of a block; LANES, elements that a thread reads at a
// time; REAL, the type that elements are computed in; INDEX, an integer type that is larger than the number of columns.

typedef long long index_t;

struct half_t { unsigned short bits; };
struct bfloat_t { unsigned short bits; };

template <typename T> struct alignas(sizeof(T) * LANES < 16 ? sizeof(T) * LANES : 16) Pack { T at[LANES]; };

// Memory to registers and back

#ifdef __CUDACC__
__device__ inline float half_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ inline unsigned short float_to_half(float x) {  // to nearest, ties to even
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ inline float exp2_of(float x) {  // to 2^-22.5 of its size
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#endif
template <typename T> __device__ inline REAL real(T x) { return (REAL)x; }
__device__ inline REAL real(half_t x) { return (REAL)half_to_float(x.bits); }
__device__ inline REAL real(bfloat_t x) { return (REAL)__uint_as_float((unsigned)x.bits << 16); }
template <typename T> __device__ inline double wide(T x) { return (double)x; }
__device__ inline double wide(half_t x) { return (double)half_to_float(x.bits); }
__device__ inline double wide(bfloat_t x) { return (double)__uint_as_float((unsigned)x.bits << 16); }

template <typename T> struct Stored { template <typename X> static __device__ inline T of(X x) { return (T)x; } };
template <> struct Stored<half_t> {
    template <typename X> static __device__ inline half_t of(X x) { return half_t{float_to_half((float)x)}; }
};
template <> struct Stored<bfloat_t> {
    template <typename X> static __device__ inline bfloat_t of(X x) {  // to nearest, ties to even; NaN stays NaN
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
        unsigned short rounded;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded) : "f"((float)x));
        return bfloat_t{rounded};
#else
        const unsigned bits = __float_as_uint((float)x);
        const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        return bfloat_t{(unsigned short)(nan ? 0x7fc0u : (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
#endif
    }
};

template <typename T> __device__ inline const T* row_of(const void* base, index_t row, index_t stride) {
    return (const T*)((const char*)base + row * stride);
}
template <typename T> __device__ inline T* row_of(void* base, index_t row, index_t stride) {
    return (T*)((char*)base + row * stride);
}

__device__ inline index_t smaller(index_t a, index_t b) { return a < b ? a : b; }
// How many elements lie before the first that a Pack may begin with
template <typename T> __device__ inline index_t skew(const T* p) {
    return (LANES - (index_t)((unsigned long long)p / sizeof(T) % LANES)) % LANES;
}

// A number of the row as an index of columns: one that is none stays none.
__device__ inline INDEX column(index_t x) {
    const index_t most = (index_t)(~0ULL >> (sizeof(INDEX) == 4 ? 33 : 1));
    return (INDEX)(x < 0 ? -1 : x > most ? most : x);
}

// Functions, as NumPy has them

__device__ inline double infinity() { return __longlong_as_double(0x7ff0000000000000LL); }
__device__ inline double not_a_number() { return __longlong_as_double(0x7ff8000000000000LL); }
template <typename T> __device__ inline T maximum(T a, T b) { return a > b || a != a ? a : b; }
template <typename T> __device__ inline T minimum(T a, T b) { return a < b || a != a ? a : b; }
__device__ inline float f_exp(float x) { return expf(x); }
__device__ inline double f_exp(double x) { return exp(x); }
// e^x for x <= 0, in fewer instructions: 2^y with y = x log2(e), and to first order what y was rounded by.
__device__ inline float f_exp_below(float x) {
    const float z = x < -104.0f ? -104.0f : x, y = z * 1.442695041f, power = exp2_of(y);
    const float r = fmaf(y, 1.904654300e-9f, fmaf(y, -0.6931471825f, z));  // z - y ln 2, ln 2 in two parts
    return fmaf(power, r, power);
}
__device__ inline double f_exp_below(double x) { return exp(x); }
__device__ inline float f_expm1(float x) { return expm1f(x); }
__device__ inline double f_expm1(double x) { return expm1(x); }
__device__ inline float f_log(float x) { return logf(x); }
__device__ inline double f_log(double x) { return log(x); }
__device__ inline float f_log1p(float x) { return log1pf(x); }
__device__ inline double f_log1p(double x) { return log1p(x); }
__device__ inline float f_sqrt(float x) { return sqrtf(x); }
__device__ inline double f_sqrt(double x) { return sqrt(x); }
__device__ inline float f_tanh(float x) { return tanhf(x); }
__device__ inline double f_tanh(double x) { return tanh(x); }
__device__ inline float f_pow(float x, float y) { return powf(x, y); }
__device__ inline double f_pow(double x, double y) { return pow(x, y); }
__device__ inline float f_max(float x, float y) { return fmaxf(x, y); }  // the other one, where one is NaN
__device__ inline double f_max(double x, double y) { return fmax(x, y); }
__device__ inline float f_abs(float x) { return fabsf(x); }
__device__ inline double f_abs(double x) { return fabs(x); }

// An element of a row at an index that was not checked: NaN where there is none

__device__ inline bool is_column(index_t index, index_t columns) { return index >= 0 && index < columns; }

template <typename T> __device__ inline double picked(const T* row, index_t index, index_t columns) {
    return is_column(index, columns) ? wide(row[index]) : not_a_number();
}

// A group of threads

#if GROUP == 32
__device__ inline int lane() { return threadIdx.x & 31; }
__device__ inline index_t first_row() { return ((index_t)blockIdx.x * THREADS + threadIdx.x) / 32; }
__device__ inline index_t row_step() { return (index_t)gridDim.x * (THREADS / 32); }
__device__ inline void wait() { __syncwarp(); }
#else
__device__ inline int lane() { return threadIdx.x; }
__device__ inline index_t first_row() { return blockIdx.x; }
__device__ inline index_t row_step() { return gridDim.x; }
__device__ inline void wait() { __syncthreads(); }
#endif

struct Add { template <typename T> __device__ T operator()(T a, T b) const { return a + b; } };
struct Maximum { template <typename T> __device__ T operator()(T a, T b) const { return maximum(a, b); } };

// The maximum of a row, and the sum of e^(x - maximum) over all elements but one that has it, in one pass: what is known
// of two parts of a row is brought to the larger maximum of both. The sum is NaN if there is a NaN in the row.

struct Peak {
    REAL row_max; double sum_except_max;
    template <int N> __device__ inline void add(const REAL (&x)[N]) {  // N at a time, without a branch
        REAL lower[N], top = row_max, sum = 0;  // of an element and the maximum so far the lower one; NaN is always lower
        #pragma unroll
        for (int i = 0; i < N; i++) {
            lower[i] = x[i] > top ? top : x[i];
            top = f_max(top, x[i]);
        }
        const REAL from = top == (REAL)-infinity() ? (REAL)0 : top;
        #pragma unroll
        for (int i = 0; i < N; i++) sum += f_exp_below(lower[i] - from);
        const REAL factor = row_max == top ? (REAL)1 : f_exp_below(row_max - from);  // brings the sum to the new maximum
        sum_except_max = sum_except_max * (double)factor + (double)sum;
        row_max = top;
    }
};
__device__ inline Peak no_peak() { return Peak{(REAL)-infinity(), 0.0}; }
struct Peaks {
    __device__ Peak operator()(Peak a, Peak b) const {
        const bool first = a.row_max >= b.row_max;
        const Peak high = first ? a : b, low = first ? b : a;
        const REAL distance = low.row_max - high.row_max;
        const double factor = (double)(low.row_max == high.row_max ? (REAL)1 : f_exp_below(distance));
        // The lower maximum is one of the others now. Of equal ones the same bits in either order.
        return Peak{high.row_max, high.sum_except_max + low.sum_except_max * factor + factor};
    }
};

// Of a whole row: the maximum is NaN, if there is one. (The sum is NaN also where two elements are infinite.)
__device__ inline Peak with_nan(Peak x) {
    if (x.sum_except_max != x.sum_except_max && x.row_max < (REAL)infinity()) x.row_max = (REAL)x.sum_except_max;
    return x;
}

template <typename T> __device__ inline T exchange(T x, int step) { return __shfl_xor_sync(0xffffffffu, x, step); }
__device__ inline Peak exchange(Peak x, int step) {
    return Peak{exchange(x.row_max, step), exchange(x.sum_except_max, step)};
}

// In a fixed order, so that every thread of the group gets the same bits, each time
template <int COUNT, typename T, typename Op> __device__ inline T of_lanes(T x, Op op) {
    #pragma unroll
    for (int step = COUNT / 2; step; step >>= 1) x = op(x, exchange(x, step));
    return x;
}
template <typename T, typename Op> __device__ inline T of_block(T x, Op op) {
    constexpr int WARPS = THREADS / 32;  // a power of two
    __shared__ T parts[WARPS];
    x = of_lanes<32>(x, op);
    __syncthreads();
    if ((threadIdx.x & 31) == 0) parts[threadIdx.x / 32] = x;
    __syncthreads();
    return of_lanes<WARPS>(parts[threadIdx.x % WARPS], op);
}
#if GROUP == 32
template <typename T, typename Op> __device__ inline T of_group(T x, Op op) { return of_lanes<32>(x, op); }
#else
template <typename T, typename Op> __device__ inline T of_group(T x, Op op) { return of_block(x, op); }
#endif

// The total of a call: each block leaves the parts of its threads, and the block that is last adds them up in order.
// `ticket` is 0 before and after each call.

__device__ inline void add_up(double part, double* parts, unsigned* ticket, double* total) {
    __shared__ bool is_last;
    part = of_block(part, Add());
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = part;
        __threadfence();
        is_last = atomicAdd(ticket, 1u) == gridDim.x - 1;
    }
    __syncthreads();
    if (!is_last) return;
    __threadfence();
    double sum = 0.0;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += THREADS) sum += ((volatile double*)parts)[i];
    sum = of_block(sum, Add());
    if (threadIdx.x == 0) { *total = sum; *ticket = 0; }
}
