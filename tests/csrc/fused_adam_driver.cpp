// Adam: the kernels against the CPU backend, in every order of threads and blocks.
#include <ldp/half_bits.h>

#include "fused_adam/fused_adam.h"
#include "testing.h"

using namespace cuda_on_cpu;

namespace {

struct Options {
    bool decoupled = false, zero_grad = true, shadow = true, found_inf = false, found_something = false;
    float weight_decay = 0.0f, grad_scale = 0.0f;  // 0: none
    size_t shift = 0;                              // elements between an aligned address and the arrays
};

// A parameter and what belongs to it, `shift` elements behind an aligned address, with a sentinel on either side.
struct State {
    size_t size, shift;
    device_buffer<float> param, grad, exp_avg, exp_avg_sq, step;
    device_buffer<uint16_t> shadow;

    static std::vector<float> framed(size_t size, size_t shift, uint64_t seed, float low, float high) {
        std::vector<float> values = random_floats(size, seed, low, high);
        values.insert(values.begin(), shift, -777.0f);
        values.push_back(-777.0f);
        return values;
    }
    State(size_t n, size_t first)
        : size(n),
          shift(first),
          param(framed(n, first, 1, -1, 1)),
          grad(framed(n, first, 2, -1, 1)),
          exp_avg(framed(n, first, 3, -1, 1)),
          exp_avg_sq(framed(n, first, 4, 0, 1)),
          step{3.0f},
          shadow(std::vector<uint16_t>(n + first + 1, uint16_t{0x1234})) {
        grad[first + n / 2] = 1e-24f;  // its square is nothing
    }
    ldp::FusedAdamParams params(const Options& options, const float* lr, const float* scale, const float* found) {
        ldp::FusedAdamParams p{};
        p.param = param.data() + shift;
        p.grad = grad.data() + shift;
        p.exp_avg = exp_avg.data() + shift;
        p.exp_avg_sq = exp_avg_sq.data() + shift;
        p.shadow = options.shadow ? shadow.data() + shift : nullptr;
        p.step = step.data();
        p.lr = lr;
        p.grad_scale = options.grad_scale != 0.0f ? scale : nullptr;
        p.found_inf = options.found_something ? found : nullptr;
        p.size = static_cast<int64_t>(size);
        p.beta1_rest = 0.1f;
        p.beta2 = 0.99f;
        p.beta2_rest = 0.01f;
        p.log_beta1 = std::log(0.9f);
        p.log_beta2 = std::log(0.99f);
        p.eps = 1e-15f;
        p.weight_decay = options.weight_decay;
        p.decoupled = options.decoupled;
        p.zero_grad = options.zero_grad;
        return p;
    }
};

void run(size_t size, const Options& options) {
    const device_buffer<float> lr{1e-2f}, scale{options.grad_scale}, found{options.found_inf ? 1.0f : 0.0f};
    State expected(size, options.shift);
    ldp::fused_adam_cpu(expected.params(options, lr.data(), scale.data(), found.data()));
    ldp::fused_adam_cpu(expected.params(options, lr.data(), scale.data(), found.data()));
    for (size_t i = 0; options.shadow && !options.found_inf && i < size; ++i)
        expect(expected.shadow[options.shift + i] == ldp::half_bits(expected.param[options.shift + i]),
               "a rounded shadow");
    for_every_order([&] {
        State got(size, options.shift);
        ldp::fused_adam_cuda(got.params(options, lr.data(), scale.data(), found.data()), nullptr);
        ldp::fused_adam_cuda(got.params(options, lr.data(), scale.data(), found.data()), nullptr);
        compare("param", got.param, expected.param, 1e-7, 1e-6);
        compare("grad", got.grad, expected.grad, 0.0, 1e-6);
        compare("exp_avg", got.exp_avg, expected.exp_avg, 1e-7, 1e-6);
        compare("exp_avg_sq", got.exp_avg_sq, expected.exp_avg_sq, 1e-7, 1e-6);
        compare_bits("step", got.step, expected.step);
        compare_bits("shadow", got.shadow, expected.shadow);
    });
}

// A step that moves nothing casts every kind of number: subnormal halves, ties, overflow, infinities, NaN.
void cast() {
    constexpr size_t kSize = 1 << 18;
    device_buffer<float> param(kSize), grad(std::vector<float>(kSize, 0.0f)),
        moments(std::vector<float>(2 * kSize, 0.0f));
    for (uint32_t i = 0; i < kSize; ++i) {
        const uint32_t bits = i << 14 | (i % 5 == 0   ? 0u
                                         : i % 5 == 1 ? 0x1000u
                                         : i % 5 == 2 ? 0x1001u
                                         : i % 5 == 3 ? 0x0fffu
                                                      : 1u);
        std::memcpy(&param[i], &bits, 4);
    }
    device_buffer<float> step{0.0f}, lr{0.0f};
    device_buffer<uint16_t> shadow(kSize);
    ldp::FusedAdamParams params{};
    params.param = param.data();
    params.grad = grad.data();
    params.exp_avg = moments.data();
    params.exp_avg_sq = moments.data() + kSize;
    params.shadow = shadow.data();
    params.step = step.data();
    params.lr = lr.data();
    params.size = kSize;
    params.beta2 = 0.5f;
    params.log_beta1 = params.log_beta2 = -1.0f;
    params.eps = 1.0f;
    ldp::fused_adam_cpu(params);
    std::vector<uint16_t> expected;
    for (size_t i = 0; i < kSize; ++i) expected.push_back(ldp::half_bits(param[i]));
    compare_bits("cast", shadow, expected);
}

}  // namespace

int main() {
    cast();
    for (const size_t size : {0, 1, 3, 4, 5, 1023, 1024, 1025, 5003})
        for (const size_t shift : {0, 1, 2}) {
            Options options;
            options.shift = shift;
            run(size, options);
        }
    for (int bits = 0; bits < 64; ++bits) {
        Options options;
        options.decoupled = bits & 1;
        options.zero_grad = bits & 2;
        options.shadow = bits & 4;
        options.found_inf = bits & 8;
        options.found_something = options.found_inf || bits & 16;
        options.weight_decay = 0.1f;
        options.grad_scale = bits & 32 ? 128.0f : 0.0f;
        run(77, options);
    }
    return 0;
}
