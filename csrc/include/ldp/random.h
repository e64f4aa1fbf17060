// Counter-based random numbers: the same on CPU and GPU, in any order, without state.
//
// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014): number n of a seed is the
// finaliser of seed + (n + 1) * golden ratio. The seed comes from a tensor, so that a captured graph can change it.
#pragma once

#include <ldp/host_device.h>

namespace ldp {

LDP_HOST_DEVICE uint64_t random_bits(uint64_t seed, uint64_t counter) {
    uint64_t z = seed + (counter + 1u) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

// The upper 24 bits as a float in [0, 1).
LDP_HOST_DEVICE float uniform_of_bits(uint64_t bits) {
    return static_cast<float>(static_cast<uint32_t>(bits >> 40)) * 5.9604644775390625e-8f;
}

LDP_HOST_DEVICE float random_uniform(uint64_t seed, uint64_t counter) {
    return uniform_of_bits(random_bits(seed, counter));
}

}  // namespace ldp
