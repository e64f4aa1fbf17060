// The pybind11 module ldp_fast._C. Operators are not bound here: they are registered with torch, in library.cpp.
//
// torch 2.10 brings headers of pybind11 that refuse to be read under TORCH_TARGET_VERSION. No header of torch's own is
// included here, so that nothing depends on the macro but what build_info() says.
constexpr unsigned long long torch_target = TORCH_TARGET_VERSION;
#undef TORCH_TARGET_VERSION

#include <ldp/current_stream.h>
#include <ldp/widest_lanes.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "frozen_conv/frozen_conv.h"
#include "hash_grid/layout.h"
#include "latent_field/latent_field.h"
#ifdef USE_CUDA
#include <ldp/build_info.h>
#endif

namespace py = pybind11;

namespace {

std::string compiler() {
#if defined(__clang__)
    return "Clang " __clang_version__;
#elif defined(__GNUC__)
    return "GCC " __VERSION__;
#elif defined(_MSC_VER)
    return "MSVC " + std::to_string(_MSC_FULL_VER);
#else
    return "unknown";
#endif
}

py::dict build_info() {
    py::dict info;
    info["compiler"] = compiler();
#if defined(_MSVC_LANG)
    info["cxx_standard"] = static_cast<long>(_MSVC_LANG);
#else
    info["cxx_standard"] = static_cast<long>(__cplusplus);
#endif
    info["torch_target"] = std::to_string(torch_target >> 56 & 0xff) + "." + std::to_string(torch_target >> 48 & 0xff);
    info["debug"] = LDP_DEBUG != 0;
#ifdef USE_CUDA
    const ldp::CudaBuild cuda = ldp::cuda_build();
    info["cuda"] = std::to_string(cuda.runtime_version / 1000) + "." + std::to_string(cuda.runtime_version % 1000 / 10);
    py::list architectures;
    for (const int a : cuda.architectures) architectures.append(std::to_string(a / 100) + "." + std::to_string(a / 10 % 10));
    info["architectures"] = architectures;
#else
    info["cuda"] = py::none();
    info["architectures"] = py::list();
#endif
    return info;
}

py::dict device_code(int device) {
#ifdef USE_CUDA
    const ldp::DeviceCode code = ldp::device_code(device);
    if (!code.error.empty()) throw std::runtime_error("device_code: no code for device " + std::to_string(device) + ": " + code.error);
    py::dict found;
    found["binary"] = code.binary;
    found["ptx"] = code.ptx;
    return found;
#else
    throw std::runtime_error("device_code: expected a build with CUDA for device " + std::to_string(device) + ", got one without");
#endif
}

int64_t frozen_conv_workspace(int kind, int64_t batch, int64_t height, int64_t width, int64_t in, int64_t out,
                              bool activated, int threads) {
    ldp::FrozenConvParams params{};
    params.kind = static_cast<ldp::ConvKind>(kind);
    params.batch = batch, params.height = height, params.width = width, params.in = in, params.out_channels = out;
    const float present = 0.0f;
    params.scale = activated ? &present : nullptr;
    params.threads = threads;
    return ldp::frozen_conv_workspace(params);
}

int64_t latent_field_workspace(int encoding, int hidden, int layers, int channels, bool bias, int64_t size,
                               bool backward) {
#ifdef USE_CUDA
    ldp::LatentFieldParams params{};
    params.encoding = encoding, params.hidden = hidden, params.layers = layers, params.channels = channels;
    params.bias = bias, params.size = size;
    return ldp::latent_field_workspace_cuda(params, backward);
#else
    throw std::runtime_error("latent_field_workspace: expected a build with CUDA, got one without");
#endif
}

}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
    m.doc() = "The compiled half of ldp_fast; import torch first. See csrc/.";
    py::class_<ldp::HashGridLayout>(m, "HashGridLayout", "Levels of a hash grid, in tiny-cuda-nn's convention (csrc/hash_grid/layout.h).")
        .def(py::init(&ldp::hash_grid_layout), py::arg("n_levels"), py::arg("log2_table_size"), py::arg("base_resolution"),
             py::arg("per_level_scale"), py::arg("tiled") = false)
        .def_readonly("offsets", &ldp::HashGridLayout::offsets, "[L + 1], in entries of the table.")
        .def_readonly("resolutions", &ldp::HashGridLayout::resolutions, "[L], vertices along each axis.")
        .def_readonly("scales", &ldp::HashGridLayout::scales, "[L], cells along each axis.")
        .def_readonly("dense", &ldp::HashGridLayout::dense, "[L], whether every vertex has an entry of its own.");
    m.def("build_info", &build_info,
          "What the extension was built with: compiler, cxx_standard, torch_target, debug, cuda (None without), architectures.");
    m.def("device_code", &device_code, py::arg("device"),
          "Which compiled variant runs on a CUDA device: compute capability of its machine code and of its PTX.");
    m.def("has_current_stream", &ldp::has_current_stream,
          "Whether a torch is loaded whose current CUDA stream can be asked for (csrc/current_stream.cpp).");
    m.def("current_stream", [](int device) { return reinterpret_cast<uintptr_t>(ldp::current_stream(device)); }, py::arg("device"),
          "The address of the stream that operators launch on: torch.cuda.current_stream(device).cuda_stream.");
    m.def("vector_lanes", &ldp::widest_lanes, "Floats in a vector of the widest instructions that operators use on this CPU: 16, 8 or 4.");
    m.def("latent_field_workspace", &latent_field_workspace, py::arg("encoding"), py::arg("hidden"), py::arg("layers"),
          py::arg("channels"), py::arg("bias"), py::arg("size"), py::arg("backward"),
          "Floats of workspace that latent_field or its backward needs on the current CUDA device "
          "(csrc/latent_field/latent_field_plan.h).");
    m.def("frozen_conv_workspace", &frozen_conv_workspace, py::arg("kind"), py::arg("batch"), py::arg("height"),
          py::arg("width"), py::arg("in"), py::arg("out"), py::arg("activated"), py::arg("threads"),
          "Floats of workspace that frozen_conv needs (csrc/frozen_conv/frozen_conv.h).");
}
