// Finds torch's function for the current CUDA stream when it is first wanted.
//
// It stands in libtorch_cuda, which a CPU-only torch lacks; one extension has to load in both, so it cannot be linked.
// A weak declaration would do only if the library were among our dependencies or in the process' global scope. It is
// neither: Python loads torch with RTLD_LOCAL, and linkers with --as-needed drop a library of which nothing but a weak
// symbol is wanted. So the loaded library is asked by its name, without loading one.
#include <ldp/current_stream.h>

#include <atomic>
#include <stdexcept>
#include <string>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <dlfcn.h>
#endif

namespace ldp {
namespace {

// In torch's stable C interface since 2.0: 0, or an error; the stream is written to the second argument.
using Function = int32_t (*)(int32_t device, void** stream);
constexpr const char* kName = "aoti_torch_get_current_cuda_stream";

Function look() {
#if defined(_WIN32)
    const HMODULE library = GetModuleHandleA("torch_cuda.dll");
    return library ? reinterpret_cast<Function>(GetProcAddress(library, kName)) : nullptr;
#else
    if (void* const found = dlsym(RTLD_DEFAULT, kName)) return reinterpret_cast<Function>(found);
    // The handle is kept: while it is, the library stays.
    void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Function>(dlsym(library, kName)) : nullptr;
#endif
}

// What was not there may be loaded later, so only what was found is kept.
Function function() {
    static std::atomic<Function> kept{nullptr};
    Function found = kept.load(std::memory_order_acquire);
    if (found == nullptr) {
        found = look();
        if (found != nullptr) kept.store(found, std::memory_order_release);
    }
    return found;
}

}  // namespace

bool has_current_stream() { return function() != nullptr; }

void* current_stream(int32_t device) {
    const Function ask = function();
    if (ask == nullptr)
        throw std::runtime_error(
            std::string("ldp_fast: expected a torch with CUDA, whose libtorch_cuda has ") + kName + ", found none loaded");
    void* stream = nullptr;
    if (ask(device, &stream) != 0)
        throw std::runtime_error("ldp_fast: expected torch's current CUDA stream of device " + std::to_string(device) +
                                 ", got an error from torch");
    return stream;
}

}  // namespace ldp
