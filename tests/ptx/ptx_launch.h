// Put before a .cu file that is compiled for the harness: LDP_LAUNCH then runs what nvcc made of the kernel, which a
// translated file (translate.py) has registered under the kernel's name; a kernel that none has is an error.
#pragma once

#include <ldp/launch.h>

#include <string>
#include <vector>

namespace ptx {

using Function = void (*)(const unsigned char* parameters);

struct Registration {
    Registration(const char* name, size_t bytes, Function function);
};

// Ends the process where no kernel of this name is registered, or one with parameters of another size.
Function find(const std::string& kernel, size_t bytes);

// "hash_grid_kernel<2, float>", without namespaces.
std::string plain_name(std::string pretty_function);

template <auto Kernel>
std::string name_of() {
    return plain_name(__PRETTY_FUNCTION__);
}

// Parameters where CUDA has them: one after another, each aligned to its type.
template <typename T>
void append(std::vector<unsigned char>& bytes, const T& value) {
    static_assert(std::is_trivially_copyable_v<T>);
    bytes.resize((bytes.size() + alignof(T) - 1) / alignof(T) * alignof(T));
    const auto* data = reinterpret_cast<const unsigned char*>(&value);
    bytes.insert(bytes.end(), data, data + sizeof(T));
}

template <typename... Parameters, typename... Arguments>
void run(const std::string& name, void (*)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
         Arguments&&... arguments) {
    std::vector<unsigned char> bytes;
    (append<std::decay_t<Parameters>>(bytes, static_cast<Parameters>(arguments)), ...);
    struct Call {
        Function function;
        const unsigned char* parameters;
    } call{find(name, bytes.size()), bytes.data()};
    const auto body = [](void* context) {
        const auto& [function, parameters] = *static_cast<const Call*>(context);
        function(parameters);
    };
    ::cuda_on_cpu::run(name.c_str(), grid, block, shared_bytes, body, &call);
}

template <auto Kernel, typename... Arguments>
void launch(dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t, Arguments&&... arguments) {
    run(name_of<Kernel>(), Kernel, grid, block, shared_bytes, std::forward<Arguments>(arguments)...);
}

}  // namespace ptx

#undef LDP_LAUNCH
#define LDP_LAUNCH(kernel, grid, block, shared_bytes, stream, ...) \
    ::ptx::launch<kernel>(grid, block, shared_bytes, stream, __VA_ARGS__)
