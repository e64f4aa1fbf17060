// What a GPU's memory allows the hash grid: scattered reductions of two floats into a table, gathers of two floats from
// it, and a plain copy, each in a kernel that does nothing else. Called through ctypes by microbenchmarks.py.
//
// Entries are picked by a hash of the thread's number, eight by each thread as an encoding's corners are, so that
// neither neighbours nor repetitions help. A table below the L2's size is measured warm, as in training.
#include <ldp/launch.h>
#include <ldp/warp.h>

#include <cfloat>
#include <string>

namespace {

constexpr int kThreads = 256;
constexpr int kAccesses = 8;
constexpr int kWarmUps = 3;

__device__ __forceinline__ uint32_t mixed(uint32_t x) {
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

__device__ __forceinline__ uint32_t picked(uint32_t thread, int access, uint32_t entries, uint32_t round) {
    return mixed(thread * kAccesses + access + round * 0x9e3779b9u) & (entries - 1);
}

__global__ void __launch_bounds__(kThreads) scatter_kernel(float* table, uint32_t entries, uint32_t round) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
#pragma unroll
    for (int i = 0; i < kAccesses; ++i) ldp::atomic_add2(table + 2ull * picked(thread, i, entries, round), 1.0f, 0.5f);
}

__global__ void __launch_bounds__(kThreads) gather_kernel(float* table, uint32_t entries, uint32_t round) {
    const uint32_t thread = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < kAccesses; ++i) {
        const float2 entry = ldp::load_read_only<float2>(table + 2ull * picked(thread, i, entries, round));
        sum += entry.x + entry.y;
    }
    if (sum == FLT_MAX) table[0] = sum;  // never; keeps the loads
}

__global__ void __launch_bounds__(kThreads) copy_kernel(float* table, uint32_t entries, uint32_t) {
    const uint32_t half = entries / 4, stride = gridDim.x * blockDim.x;  // of the table, in units of 16 bytes
    auto* data = reinterpret_cast<float4*>(table);
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < half; i += stride) data[half + i] = data[i];
}

void good(const char* what, cudaError_t status) { ldp::check_cuda(what, status); }

double seconds_of(int kind, uint32_t entries, long long accesses, int rounds) {
    const long long threads = kind == 2 ? entries / 4 : accesses / kAccesses;
    const auto blocks = static_cast<unsigned>(ldp::ceil_div(threads, kThreads));
    void (*const kernel)(float*, uint32_t, uint32_t) = kind == 0   ? scatter_kernel
                                                       : kind == 1 ? gather_kernel
                                                                   : copy_kernel;
    float* table = nullptr;
    cudaStream_t stream = nullptr;
    cudaEvent_t start = nullptr, end = nullptr;
    good("cudaMalloc", cudaMalloc(&table, 8ull * entries));
    good("cudaStreamCreate", cudaStreamCreate(&stream));
    good("cudaMemsetAsync", cudaMemsetAsync(table, 0, 8ull * entries, stream));
    good("cudaEventCreate", cudaEventCreate(&start));
    good("cudaEventCreate", cudaEventCreate(&end));
    for (int i = 0; i < kWarmUps; ++i) LDP_LAUNCH(kernel, dim3(blocks), dim3(kThreads), 0, stream, table, entries, 0u);
    good("cudaEventRecord", cudaEventRecord(start, stream));
    for (int i = 0; i < rounds; ++i)
        LDP_LAUNCH(kernel, dim3(blocks), dim3(kThreads), 0, stream, table, entries, static_cast<uint32_t>(i));
    good("cudaEventRecord", cudaEventRecord(end, stream));
    good("cudaEventSynchronize", cudaEventSynchronize(end));
    float milliseconds = 0.0f;
    good("cudaEventElapsedTime", cudaEventElapsedTime(&milliseconds, start, end));
    cudaEventDestroy(start);
    cudaEventDestroy(end);
    cudaStreamDestroy(stream);
    good("cudaFree", cudaFree(table));
    return milliseconds * 1e-3 / rounds;
}

}  // namespace

// kind: 0 scatter, 1 gather, 2 copy (of one half of the table to the other). entries: of 8 bytes, a power of two.
// Writes the seconds of one launch. Returns null, or CUDA's words, which stay valid until the next call.
extern "C" const char* ldp_measure(int kind, unsigned entries, long long accesses, int rounds, double* seconds) {
    static std::string error;
    try {
        *seconds = seconds_of(kind, entries, accesses, rounds);
        return nullptr;
    } catch (const std::exception& caught) {
        error = caught.what();
        return error.c_str();
    }
}
