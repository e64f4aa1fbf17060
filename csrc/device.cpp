// The device guard.
#include <ldp/tensors.h>

#ifdef USE_CUDA

#include <ldp/current_stream.h>

namespace ldp {
namespace {

void good(cudaError_t status, const char* what) {
    if (status != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

}  // namespace

OnDevice::OnDevice(const Tensor& tensor) {
    const int device = tensor.get_device();
    // Asked first: what throws here has changed nothing.
    stream_ = static_cast<cudaStream_t>(current_stream(device));
    good(cudaGetDevice(&previous_), "cudaGetDevice");
    if (previous_ != device) {
        good(cudaSetDevice(device), "cudaSetDevice");
        changed_ = true;
    }
}

OnDevice::~OnDevice() {
    if (changed_) cudaSetDevice(previous_);
}

}  // namespace ldp

#endif
