// warp_driver CASE compares warp.cu with loops, and half precision with its definition.
#include "warp.h"

#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <string>

#include "testing.h"

using namespace cuda_on_cpu;

namespace {

void warp() {
    constexpr int kSize = 96;  // a whole block and half of one
    const device_buffer<float> values(random_floats(kSize, 4));
    device_buffer<int> keys(kSize);
    for (int i = 0; i < kSize; ++i) keys[i] = i < 32 ? i * i / 50 : i < 64 ? 7 : i;
    std::vector<float> sum(kSize), largest(kSize), inclusive(kSize), exclusive(kSize), suffix(kSize),
        exclusive_suffix(kSize);
    std::vector<float> product(kSize), run_sum(kSize);
    std::vector<unsigned> heads(kSize), votes(kSize);
    std::vector<int> run_start(kSize), run_end(kSize), reversed(kSize);
    for (int w = 0; w < kSize; w += 32) {
        const float* v = values.data() + w;
        const int* k = keys.data() + w;
        unsigned warp_heads = 0, positive = 0, flags = 1u << 30;
        for (int i = 0; i < 32; ++i) {
            if (i == 0 || k[i] != k[i - 1]) warp_heads |= 1u << i;
            if (v[i] > 0.9f) flags |= 1u << 31;
        }
        for (int i = 0; i < 32; ++i) {
            double before = 0.0, after = 0.0, run = 0.0, all_before = 1.0;
            for (int j = 0; j < i; ++j) before += v[j];
            for (int j = i + 1; j < 32; ++j) after += v[j];
            for (int j = 0; j <= i; ++j) all_before *= v[j];
            int start = i;
            while (start > 0 && k[start - 1] == k[i]) --start;
            for (int j = start; j <= i; ++j) run += v[j];
            sum[w + i] = static_cast<float>(before + v[i] + after);
            largest[w + i] = *std::max_element(v, v + 32);
            exclusive[w + i] = static_cast<float>(before);
            inclusive[w + i] = static_cast<float>(before + v[i]);
            exclusive_suffix[w + i] = static_cast<float>(after);
            suffix[w + i] = static_cast<float>(after + v[i]);
            product[w + i] = static_cast<float>(all_before);
            run_sum[w + i] = static_cast<float>(run);
            heads[w + i] = warp_heads;
            votes[w + i] = positive | flags;
            if (v[i] > 0.0f) positive |= 1u << i;
            run_start[w + i] = start;
            run_end[w + i] = i == 31 || k[i + 1] != k[i];
            reversed[w + i] = k[31 - i];
        }
    }
    for_every_order([&] {
        device_buffer<float> f0(kSize), f1(kSize), f2(kSize), f3(kSize), f4(kSize), f5(kSize), f6(kSize), f7(kSize);
        device_buffer<unsigned> u0(kSize), u1(kSize);
        device_buffer<int> i0(kSize), i1(kSize), i2(kSize);
        ldp::warp(values.data(), keys.data(),
                  {f0.data(), f1.data(), f2.data(), f3.data(), f4.data(), f5.data(), f6.data(), f7.data(), u0.data(),
                   u1.data(), i0.data(), i1.data(), i2.data()},
                  kSize, nullptr);
        compare("sum", f0, sum, 1e-5);
        for (int i = 0; i < kSize; ++i) expect(f0[i] == f0[i / 32 * 32], "the same sum in every lane");
        compare("largest", f1, largest);
        compare("inclusive", f2, inclusive, 1e-5);
        compare("exclusive", f3, exclusive, 1e-5);
        compare("suffix", f4, suffix, 1e-5);
        compare("exclusive suffix", f5, exclusive_suffix, 1e-5);
        compare("product", f6, product, 0.0, 1e-5);
        compare("run sum", f7, run_sum, 1e-5);
        compare("heads", u0, heads);
        compare("votes", u1, votes);
        compare("run start", i0, run_start);
        compare("run end", i1, run_end);
        compare("reversed", i2, reversed);
    });
}

void atomics() {
    constexpr int kSize = 1000;
    device_buffer<float> values(kSize);
    for (int i = 0; i < kSize; ++i) values[i] = static_cast<float>(i % 17);  // sums are whole: exact in any order
    values[3] = -0.0f;
    float total = 0.0f;
    for (int i = 0; i < kSize; ++i) total += values[i];
    for_every_order([&] {
        device_buffer<float> one{1.0f}, pair{1.0f, 2.0f}, quad{1.0f, 2.0f, 3.0f, 4.0f}, largest{0.5f};
        device_buffer<unsigned long long> whole{0};
        ldp::atomics(values.data(), {one.data(), pair.data(), quad.data(), whole.data(), largest.data()}, kSize,
                     nullptr);
        compare("one", one, std::vector<float>{total + 1});
        compare("pair", pair, std::vector<float>{total + 1, 2 * total + 2});
        compare("quad", quad, std::vector<float>{total + 1, 2 * total + 2, 3 * total + 3, 4 * total + 4});
        compare("whole", whole, std::vector<long long>{kSize * (kSize - 1) / 2 - 5 * kSize});
        compare("largest", largest, std::vector<float>{16.0f});
        device_buffer<float> with_nan{1.0f, NAN, 3.0f};
        largest[0] = 2.0f;
        ldp::atomics(with_nan.data(), {one.data(), pair.data(), quad.data(), whole.data(), largest.data()}, 3, nullptr);
        expect(std::isnan(largest[0]), "the maximum of NaN and a number to be NaN");
    });
}

void misaligned_pair() {
    const device_buffer<float> values(1);
    device_buffer<float> one{0}, pair{0, 0, 0}, quad{0, 0, 0, 0}, largest{0};
    device_buffer<unsigned long long> whole{0};
    ldp::atomics(values.data(), {one.data(), pair.data() + 1, quad.data(), whole.data(), largest.data()}, 1, nullptr);
}

std::vector<float> product(const std::vector<float>& a, const std::vector<float>& b, std::vector<float> c, int depth) {
    for (int m = 0; m < 16; ++m)
        for (int n = 0; n < 8; ++n) {
            double sum = c[m * 8 + n];
            for (int k = 0; k < depth; ++k) sum += static_cast<double>(a[m * depth + k]) * b[k * 8 + n];
            c[m * 8 + n] = static_cast<float>(sum);
        }
    return c;
}

std::vector<ldp::half> halves(const std::vector<float>& values) {
    std::vector<ldp::half> out;
    for (const float value : values) out.push_back(__float2half_rn(value));
    return out;
}

// Whole numbers, so that half, tf32 and the sums are exact.
std::vector<float> whole_numbers(size_t size, uint64_t seed) {
    std::vector<float> values = random_floats(size, seed, -20.0f, 20.0f);
    for (float& value : values) value = std::floor(value);
    return values;
}

void mma() {
    const auto c = whole_numbers(128, 7);
    for_every_order([&] {
        for (uint64_t seed = 10; seed < 20; ++seed) {
            const auto a16 = whole_numbers(256, seed), b16 = whole_numbers(128, seed + 100);
            device_buffer<float> out(c);
            ldp::mma_half(device_buffer<ldp::half>(halves(a16)).data(), device_buffer<ldp::half>(halves(b16)).data(),
                          out.data(), nullptr);
            compare("half", out, product(a16, b16, c, 16));

            const auto a8 = whole_numbers(128, seed), b8 = whole_numbers(64, seed + 100);
            device_buffer<float> tf32(c), split(c);
            ldp::mma_tf32(device_buffer<float>(a8).data(), device_buffer<float>(b8).data(), tf32.data(), false,
                          nullptr);
            compare("tf32", tf32, product(a8, b8, c, 8));

            const auto a = random_floats(128, seed), b = random_floats(64, seed + 100);
            ldp::mma_tf32(device_buffer<float>(a).data(), device_buffer<float>(b).data(), split.data(), true, nullptr);
            compare("3xTF32", split, product(a, b, c, 8), 24 * 32 * 0x1p-24);  // 24 additions to numbers below 32
            device_buffer<float> rough(128), fine(128);
            rough.fill(0.0f);
            fine.fill(0.0f);
            const auto exact = product(a, b, std::vector<float>(128, 0.0f), 8);
            ldp::mma_tf32(device_buffer<float>(a).data(), device_buffer<float>(b).data(), rough.data(), false, nullptr);
            ldp::mma_tf32(device_buffer<float>(a).data(), device_buffer<float>(b).data(), fine.data(), true, nullptr);
            compare("tf32, rounded", rough, exact, 8 * 0x1p-10);
            compare("3xTF32 without a sum before", fine, exact, 8 * 0x1p-21);
            double worst = 0.0;
            for (int i = 0; i < 128; ++i) worst = std::max(worst, std::fabs(static_cast<double>(rough[i]) - exact[i]));
            expect(worst > 1e-5, "tf32 to lose digits that the split keeps");
        }
    });
}

// The first element of a row times a column and an accumulator: products are exact, all is cut off below the last bit of
// the largest addend, each addend for itself, and towards zero. The split product rounds: its sum is an ordinary one.
float first_sum(const std::vector<float>& row, const std::vector<float>& column, float accumulator, bool split) {
    device_buffer<float> a(128), b(64), c(128);
    a.fill(0.0f);
    b.fill(0.0f);
    c.fill(0.0f);
    for (size_t k = 0; k < row.size(); ++k) {
        a[k] = row[k];
        b[k * 8] = column[k];
    }
    c[0] = accumulator;
    ldp::mma_tf32(a.data(), b.data(), c.data(), split, nullptr);
    return c[0];
}

void mma_rounding() {
    constexpr float kLast = 0x1p-23f;  // of numbers from 1 to 2
    expect(first_sum({1.5f}, {0x1p-24f}, 1.0f, false) == 1.0f, "three quarters of the last bit to be cut off");
    expect(first_sum({1.5f}, {-0x1p-24f}, -1.0f, false) == -1.0f, "the same below zero");
    expect(first_sum({1, 1, 1, 1}, {kLast / 2, kLast / 2, kLast / 2, kLast / 2}, 1.0f, false) == 1.0f,
           "halves of the last bit to be cut off each for itself");
    expect(first_sum({1.5f}, {kLast}, 1.0f, false) == 1.0f + kLast, "the last bit to stay");
    expect(first_sum({1.0f, kLast}, {1.0f, 1.0f}, -1.0f, false) == kLast, "nothing to be lost where the largest cancel");
    expect(first_sum({1.0f + 0x1p-10f}, {1.0f + 0x1p-10f}, 0.0f, false) == 1.0f + 0x1p-9f + 0x1p-20f,
           "a product to be exact");
    expect(first_sum({0x1p-120f}, {0x1p-29f}, 0x1p-149f, false) == 0x1p-148f, "subnormal numbers to be added");
    expect(std::isinf(first_sum({0x1p100f}, {0x1p100f}, 1.0f, false)), "overflow to give infinity");
    expect(std::isnan(first_sum({INFINITY}, {1.0f}, -INFINITY, false)), "infinities of both signs to give NaN");
    expect(first_sum({1.5f}, {0x1p-24f}, 1.0f, true) == 1.0f + kLast, "a split product to be added with rounding");
    expect(first_sum({1.5f}, {-0x1p-24f}, -1.0f, true) == -1.0f - kLast, "the same below zero");
}

// Every half, the middle between it and the next, and the floats beside that.
void half_precision() {
    for (unsigned bits = 0; bits < 0x7c00; ++bits) {
        const float value = ldp::half_value(static_cast<uint16_t>(bits));
        const int exponent = static_cast<int>(bits >> 10), fraction = static_cast<int>(bits & 0x3ff);
        const float defined =
            std::ldexp(static_cast<float>(exponent ? 1024 + fraction : fraction), std::max(exponent, 1) - 25);
        expect(value == defined, "a half's value to be its definition's");
        const float next = bits == 0x7bff ? 65536.0f : ldp::half_value(static_cast<uint16_t>(bits + 1));
        const float middle = value + (next - value) / 2;
        for (const uint16_t sign : {uint16_t{0}, uint16_t{0x8000}}) {
            const float s = sign ? -1.0f : 1.0f;
            const auto rounded = [&](float x) { return static_cast<unsigned>(ldp::half_bits(s * x)); };
            expect(rounded(value) == (bits | sign), "a half to round to itself");
            expect(rounded(middle) == ((bits + (bits & 1)) | sign), "the middle to round to even");
            expect(rounded(std::nextafter(middle, 0.0f)) == (bits | sign), "what is below the middle to round down");
            expect(rounded(std::nextafter(middle, 1e6f)) == ((bits + 1) | sign),
                   "what is above the middle to round up");
        }
    }
    expect(ldp::half_bits(INFINITY) == 0x7c00 && ldp::half_bits(-1e30f) == 0xfc00, "overflow to give infinity");
    expect(std::isnan(ldp::half_value(ldp::half_bits(NAN))) && std::isinf(ldp::half_value(0xfc00)),
           "NaN and infinity to stay");
}

const std::map<std::string, std::function<void()>> kCases = {
    {"warp", warp},
    {"atomics", atomics},
    {"misaligned-pair", misaligned_pair},
    {"mma", mma},
    {"mma-rounding", mma_rounding},
    {"half-precision", half_precision},
};

}  // namespace

int main(int count, char** arguments) {
    const auto found = count == 2 ? kCases.find(arguments[1]) : kCases.end();
    if (found == kCases.end()) {
        std::fprintf(stderr, "expected a case\n");
        return 64;
    }
    found->second();
    return 0;
}
