// planted_driver CASE runs one of the kernels of planted.cu in every order and compares with what is right.
#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "planted.h"
#include "testing.h"

using namespace cuda_on_cpu;

namespace {

void reduce(bool barrier) {
    constexpr int kSize = 1000, kBlocks = 8;
    const device_buffer<float> values(random_floats(kSize, 1));
    std::vector<float> expected(kBlocks, 0.0f);
    for (int i = 0; i < kSize; ++i) expected[i / 128] += values[i];
    for_every_order([&] {
        device_buffer<float> sums(kBlocks);
        ldp::reduce(values.data(), sums.data(), kSize, barrier, nullptr);
        compare("sums", sums, expected, 1e-5);
    });
}

void reverse_warp(bool barrier) {
    const device_buffer<float> values(random_floats(32, 2));
    std::vector<float> expected = values.host();
    for (int i = 0; i < 16; ++i) std::swap(expected[i], expected[31 - i]);
    for_every_order([&] {
        device_buffer<float> reversed(32);
        ldp::reverse_warp(values.data(), reversed.data(), barrier, nullptr);
        compare_bits("reversed", reversed, expected);
    });
}

void copy(int size, int excess, int too_small) {
    const device_buffer<float> values(random_floats(size + 64, 3));
    std::vector<float> expected(values.data(), values.data() + size - too_small);
    for_every_order([&] {
        device_buffer<float> out(size - too_small);
        ldp::copy(values.data(), out.data(), size, excess, nullptr);
        compare("copy", out, expected);
    });
}

void ones(size_t size, float value, const std::function<void(float*)>& kernel) {
    for_every_order([&] {
        device_buffer<float> out(size);
        kernel(out.data());
        compare("out", out, std::vector<float>(size, value));
    });
}

void global_read(int initialised) {
    for_every_order([&] {
        device_buffer<float> values(100), out(1);
        for (int i = 0; i < initialised; ++i) values[i] = 1.0f;
        ldp::sum_global(values.data(), out.data(), 100, nullptr);
        compare("sum", out, std::vector<float>{100.0f});
    });
}

void shuffle(int fault) {
    std::vector<float> expected(32);
    for (int i = 0; i < 32; ++i) expected[i] = static_cast<float>(i ^ 16);
    for_every_order([&] {
        device_buffer<float> out(32);
        ldp::divergent_shuffle(out.data(), fault, nullptr);
        compare("shuffled", out, expected);
    });
}

void total(bool atomic) {
    const device_buffer<float> values(std::vector<float>(200, 1.0f));
    for_every_order([&] {
        device_buffer<float> sum{0.0f};
        ldp::total(values.data(), sum.data(), 200, atomic, nullptr);
        compare("total", sum, std::vector<float>{200.0f});
    });
}

void neighbour() {
    for_every_order([&] {
        device_buffer<float> places(std::vector<float>(3, 0.0f)), out(3);
        ldp::neighbour(places.data(), out.data(), 3, nullptr);
        compare("out", out, std::vector<float>(3, 0.0f));
    });
}

const std::map<std::string, std::function<void()>> kCases = {
    {"reduce", [] { reduce(true); }},
    {"reduce-without-barrier", [] { reduce(false); }},
    {"reverse-warp", [] { reverse_warp(true); }},
    {"reverse-warp-without-barrier", [] { reverse_warp(false); }},
    {"copy", [] { copy(130, 0, 0); }},
    {"copy-one", [] { copy(1, 0, 0); }},
    {"copy-write-behind-the-end", [] { copy(130, 1, 0); }},
    {"copy-buffer-too-small", [] { copy(130, 0, 1); }},
    {"static-shared", [] { ones(64, 1.0f, [](float* out) { ldp::static_shared(out, 0, nullptr); }); }},
    {"static-shared-behind-the-end", [] { ones(64, 1.0f, [](float* out) { ldp::static_shared(out, 1, nullptr); }); }},
    {"static-shared-before-the-start",
     [] { ones(64, 1.0f, [](float* out) { ldp::static_shared(out, -1, nullptr); }); }},
    {"dynamic-shared", [] { ones(64, 1.0f, [](float* out) { ldp::dynamic_shared(out, 0, nullptr); }); }},
    {"dynamic-shared-behind-the-end", [] { ones(64, 1.0f, [](float* out) { ldp::dynamic_shared(out, 1, nullptr); }); }},
    {"sum-shared", [] { ones(1, 32.0f, [](float* out) { ldp::sum_shared(out, 32, nullptr); }); }},
    {"sum-shared-uninitialised", [] { ones(1, 32.0f, [](float* out) { ldp::sum_shared(out, 31, nullptr); }); }},
    {"sum-global", [] { global_read(100); }},
    {"sum-global-uninitialised", [] { global_read(99); }},
    {"local", [] { ones(64, 3.0f, [](float* out) { ldp::local(out, 3, nullptr); }); }},
    {"local-behind-the-end", [] { ones(64, 3.0f, [](float* out) { ldp::local(out, 4, nullptr); }); }},
    {"shuffle", [] { shuffle(0); }},
    {"shuffle-after-lanes-left", [] { shuffle(1); }},
    {"shuffle-beside-a-barrier", [] { shuffle(2); }},
    {"shuffle-beside-another-collective", [] { shuffle(3); }},
    {"shuffle-outside-of-its-mask", [] { shuffle(4); }},
    {"shuffle-in-a-partial-warp", [] { ones(32, 0.0f, [](float* out) { ldp::partial_warp_shuffle(out, nullptr); }); }},
    {"barrier-after-threads-left", [] { ones(64, 1.0f, [](float* out) { ldp::divergent_barrier(out, nullptr); }); }},
    {"total", [] { total(true); }},
    {"total-without-atomics", [] { total(false); }},
    {"read-of-another-block", neighbour},
    {"launch-nothing", [] { ldp::copy(nullptr, nullptr, -1, 0, nullptr); }},
    {"a-million-threads",
     [] {
         constexpr int kSize = 1 << 20;
         current_order().poison = 0x7b;
         const device_buffer<float> values(std::vector<float>(kSize, 1.0f));
         device_buffer<float> sums(kSize / 128);
         ldp::reduce(values.data(), sums.data(), kSize, true, nullptr);
         compare("sums", sums, std::vector<float>(kSize / 128, 128.0f));
     }},
};

}  // namespace

int main(int count, char** arguments) {
    const auto found = count == 2 ? kCases.find(arguments[1]) : kCases.end();
    if (found == kCases.end()) {
        std::fprintf(stderr, "expected a case\n");
        return 64;
    }
    try {
        found->second();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "exception: %s\n", error.what());
        return 65;
    }
    return 0;
}
