"""What nvcc makes of the kernels, run on the CPU: PTX translated to C++, in the harness of tests/cuda_on_cpu."""
