// An array of random floats for a driver.
#pragma once

#include <vector>

#include "testing.h"

namespace cuda_on_cpu {

// In memory of exactly its size, at an address that is a multiple of a float alone: vectors may assume no more.
struct Array {
    device_buffer<float> memory;
    size_t count;
    Array(size_t n, uint64_t seed) : memory(n + 1), count(n) {
        const std::vector<float> values = random_floats(n, seed, -2.0f, 2.0f);
        for (size_t i = 0; i < n; ++i) data()[i] = values[i];
    }
    explicit Array(size_t n) : memory(n + 1), count(n) {}
    float* data() { return memory.data() + 1; }
    const float* data() const { return memory.data() + 1; }
    size_t size() const { return count; }
    float& operator[](size_t i) { return data()[i]; }
};

}  // namespace cuda_on_cpu
