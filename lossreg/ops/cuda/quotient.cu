// totals / counts, or 0 where a count is 0. Without totals, `total` is divided by each count.
extern "C" __global__ void run(
    long long n, const double* totals, double total, const double* counts, double* quotients
) {
    for (long long i = (long long)blockIdx.x * 256 + threadIdx.x; i < n; i += (long long)gridDim.x * 256)
        quotients[i] = counts[i] == 0.0 ? 0.0 : (totals ? totals[i] : total) / counts[i];
}
