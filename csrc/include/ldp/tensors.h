// From torch's tensors to pointers, with checks that speak in sentences. For <op>_op.cpp files only.
#pragma once

#include <ldp/narrow.h>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>

#ifdef USE_CUDA
#include <cuda_runtime_api.h>
#endif

namespace ldp {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

template <typename T>
struct ScalarOf;
#define LDP_SCALAR(T, torchs, text)                              \
    template <>                                                  \
    struct ScalarOf<T> {                                         \
        static constexpr ScalarType value = ScalarType::torchs;  \
        static constexpr const char* name = text;                \
    };
LDP_SCALAR(float, Float, "float32")
LDP_SCALAR(double, Double, "float64")
LDP_SCALAR(int32_t, Int, "int32")
LDP_SCALAR(int64_t, Long, "int64")
LDP_SCALAR(uint8_t, Byte, "uint8")
LDP_SCALAR(int16_t, Short, "int16")
LDP_SCALAR(BFloat16, BFloat16, "bfloat16")
LDP_SCALAR(Half, Half, "float16")
#undef LDP_SCALAR

inline void check(bool good, const char* op, const std::string& argument, const std::string& expected, const std::string& got) {
    if (!good) throw std::runtime_error(std::string(op) + ": " + argument + ": expected " + expected + ", got " + got);
}

inline std::string shape_of(const Tensor& tensor) {
    std::string text = "[";
    for (int64_t d = 0; d < tensor.dim(); ++d) text += (d ? ", " : "") + std::to_string(tensor.size(d));
    return text + "]";
}

// Checks dtype, shape (-1: any), contiguity and that the tensor is where `like` is. Returns its data.
template <typename T>
T* data(const char* op, const char* argument, const Tensor& tensor, std::initializer_list<int64_t> shape, const Tensor& like) {
    check(tensor.scalar_type() == ScalarOf<T>::value, op, argument, ScalarOf<T>::name, "another dtype");
    bool fits = tensor.dim() == static_cast<int64_t>(shape.size());
    std::string wanted = "[";
    int64_t d = 0;
    for (const int64_t size : shape) {
        fits = fits && (size < 0 || tensor.size(d) == size);
        wanted += (d++ ? ", " : "") + (size < 0 ? std::string("any") : std::to_string(size));
    }
    check(fits, op, argument, "shape " + wanted + "]", shape_of(tensor));
    check(tensor.is_contiguous(), op, argument, "a contiguous tensor", "strides");
    check(tensor.is_cuda() == like.is_cuda() && (!like.is_cuda() || tensor.get_device() == like.get_device()), op, argument,
          "a tensor on the device of the first one", "one elsewhere");
    return static_cast<T*>(tensor.data_ptr());
}

template <typename T>
T* data_or_null(const char* op, const char* argument, const OptionalTensor& tensor, std::initializer_list<int64_t> shape, const Tensor& like) {
    return tensor.has_value() ? data<T>(op, argument, *tensor, shape, like) : nullptr;
}

// Half-precision data comes as void*: the host has no arithmetic type for it.
inline void* half_data_or_null(const char* op, const char* argument, const OptionalTensor& tensor, std::initializer_list<int64_t> shape, const Tensor& like) {
    if (!tensor.has_value()) return nullptr;
    check(tensor->scalar_type() == ScalarType::Half, op, argument, "float16", "another dtype");
    int64_t numel = 1;
    for (const int64_t size : shape) numel *= size;
    check(tensor->numel() == numel && tensor->is_contiguous(), op, argument, "a contiguous tensor of " + std::to_string(numel) + " elements", shape_of(*tensor));
    check(tensor->is_cuda() == like.is_cuda() && (!like.is_cuda() || tensor->get_device() == like.get_device()), op,
          argument, "a tensor on the device of the first one", "one elsewhere");
    return tensor->data_ptr();
}

#ifdef USE_CUDA
// Makes a tensor's device current for a scope, and knows torch's stream there.
class OnDevice {
public:
    explicit OnDevice(const Tensor& tensor);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    cudaStream_t stream() const { return stream_; }

private:
    int previous_ = 0;
    bool changed_ = false;
    cudaStream_t stream_ = nullptr;
};
#endif

// Calls cpu() or cuda(stream), by the device of a tensor. Without CUDA in the build a CUDA tensor is an error.
#ifdef USE_CUDA
#define LDP_DISPATCH(op, tensor, cpu_call, cuda_call)   \
    do {                                                \
        if ((tensor).is_cuda()) {                       \
            const ::ldp::OnDevice on_device(tensor);    \
            const cudaStream_t stream = on_device.stream(); \
            cuda_call;                                  \
        } else {                                        \
            cpu_call;                                   \
        }                                               \
    } while (false)
#else
#define LDP_DISPATCH(op, tensor, cpu_call, cuda_call)                                                            \
    do {                                                                                                         \
        if ((tensor).is_cuda())                                                                                  \
            throw std::runtime_error(std::string(op) +                                                           \
                                     ": expected an extension built with CUDA for CUDA tensors, got one built "  \
                                     "without; install again with LDP_FAST_CUDA=1 (docs/installation.md)");      \
        cpu_call;                                                                                                \
    } while (false)
#endif

}  // namespace ldp
