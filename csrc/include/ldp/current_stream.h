// Torch's current CUDA stream, asked of the torch that is loaded.
#pragma once

#include <cstdint>

namespace ldp {

// Whether a torch with CUDA is loaded whose stream can be asked for.
bool has_current_stream();

// The stream (a cudaStream_t) that torch would launch on now. Throws where there is no torch with CUDA, and where torch
// knows none for the device.
void* current_stream(int32_t device);

}  // namespace ldp
