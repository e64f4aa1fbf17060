// launch_driver: <ldp/launch.h> as nvcc compiles it, on a runtime that has two devices and no GPU.
#include <ldp/launch.h>

#include <cstdio>
#include <cstdlib>
#include <string>

#include "fake_runtime.h"

using fake_runtime::runtime;

namespace {

__global__ void one_kernel(int* out) { *out = 1; }
__global__ void other_kernel(int* out) { *out = 2; }

void expect(bool condition, const char* what) {
    if (condition) return;
    std::fprintf(stderr, "expected %s\n", what);
    std::exit(70);
}

template <typename F>
int calls_of(const char* name, F&& f) {
    const int before = runtime().calls[name];
    f();
    return runtime().calls[name] - before;
}

void start(size_t shared) { LDP_LAUNCH(one_kernel, 1, 32, shared, nullptr, nullptr); }

int allowed_on(int device) { return runtime().allowed[{device, reinterpret_cast<const void*>(&one_kernel)}]; }

void shared_memory() {
    start(1024);
    expect(allowed_on(0) == 0, "a small kernel to ask for nothing");
    start(100000);
    expect(allowed_on(0) == 232448 - 768, "all the dynamic shared memory that there is");
    start(60000);
    expect(allowed_on(0) == 232448 - 768, "a smaller launch to take nothing back from another thread's larger one");
    expect(calls_of("cudaFuncSetAttribute", [] { start(100000); }) == 0, "one question for a kernel and a device");
    runtime().device = 1;
    start(60000);
    expect(allowed_on(1) == 101376 - 768, "the second device to be asked for its own");
    bool thrown = false;
    try {
        start(200000);
    } catch (const std::exception& error) {
        thrown = std::string(error.what()) == "one_kernel: invalid argument";
    }
    expect(thrown, "too much shared memory to be an error that names the kernel");
    expect(runtime().last == cudaSuccess, "the error to be forgotten");
    start(0);
    runtime().device = 0;
}

void occupancy() {
    constexpr const char* kName = "cudaOccupancyMaxActiveBlocksPerMultiprocessor";
    const auto ask = [](size_t shared) { return ldp::resident_blocks(other_kernel, 128, shared); };
    expect(ask(0) == 3 && calls_of(kName, [&] { ask(0); }) == 0, "one question for a kernel");
    expect(ask(100000) == 3, "the question to come after the kernel was allowed so much");
    runtime().resident = 2;
    runtime().device = 1;
    expect(ask(0) == 2, "a second device to be asked for itself");
    expect(ldp::blocks_for(1000, other_kernel, 128, 0, 4) == 4 * 2 * 11, "four waves of what the device holds");
    expect(ldp::blocks_for(5, other_kernel, 128, 0, 4) == 5, "no more blocks than there is work");
    expect(ldp::blocks_for(0, other_kernel, 128, 0, 4) == 1, "one block at least");
    expect(ldp::blocks_for(int64_t{1} << 40, other_kernel, 128, 0, 1) == 22, "a very large size to fit");
    runtime().device = 0;
    expect(ldp::blocks_for(1000, other_kernel, 128, 0, 1) == 30, "the first device to be what it was");
    ldp::prefer_shared(other_kernel);
    const int again = calls_of("cudaFuncSetAttribute", [] { ldp::prefer_shared(other_kernel); });
    expect(runtime().hint.size() == 1 && again == 0, "one hint");
}

}  // namespace

int main() {
    shared_memory();
    occupancy();
    return 0;
}
