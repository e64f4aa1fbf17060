// Torch's current stream, and the device guard.
#include <ldp/tensors.h>

#ifdef USE_CUDA

// Weak: a CPU-only torch has no such function, and the extension has to load there too.
extern "C" __attribute__((weak)) int32_t aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);

namespace ldp {
namespace {

void good(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

}  // namespace

OnDevice::OnDevice(const Tensor& tensor) {
    const int device = tensor.get_device();
    good(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device) {
        good(cudaSetDevice(device), "cudaSetDevice");
        changed_ = true;
    }
    void* stream = nullptr;
    if (aoti_torch_get_current_cuda_stream == nullptr || aoti_torch_get_current_cuda_stream(device, &stream) != 0) {
        // The destructor of what was never constructed does not run.
        if (changed_) cudaSetDevice(previous_);
        throw std::runtime_error("ldp_fast: expected torch's current CUDA stream, got none from this build of torch");
    }
    stream_ = static_cast<cudaStream_t>(stream);
}

OnDevice::~OnDevice() {
    if (changed_) cudaSetDevice(previous_);
}

}  // namespace ldp

#endif
