// What the CUDA half of the extension was built with, and whether its code fits a device.
#pragma once

#include <string>
#include <vector>

namespace ldp {

struct CudaBuild {
    int runtime_version;             // CUDART_VERSION, e.g. 13000 for 13.0
    std::vector<int> architectures;  // __CUDA_ARCH_LIST__, e.g. 800, 900, 1200
};

struct DeviceCode {
    std::string error;  // CUDA's words if no code in here fits the device, else empty
    int binary = 0;     // compute capability of the machine code in use, e.g. 90
    int ptx = 0;        // compute capability of the PTX it was made from
};

CudaBuild cuda_build();

// Asks the runtime which of the compiled variants it would run on `device`. Makes the device's context.
DeviceCode device_code(int device);

}  // namespace ldp
