"""Runs the CUDA kernels of csrc on the CPU, under sanitizers (cuda_on_cpu.h); `harness` builds and runs the drivers."""
