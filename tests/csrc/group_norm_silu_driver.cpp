// Group norm and SiLU on the CPU against plain loops in double, under sanitizers, for images of every dtype.
#include "group_norm_silu/group_norm_silu.h"

#include "testing.h"

using namespace cuda_on_cpu;

namespace {

constexpr float kEps = 1e-5f;

struct Case {
    int64_t batch, pixels, channels, groups;
    bool silu, affine, addend, signs;
    float mean;
    bool planes = false;
};

// In memory of exactly its size, at an address that is a multiple of an element alone: vectors may assume no more.
template <typename T>
struct Image {
    device_buffer<T> memory;
    size_t size;
    Image(size_t n, uint64_t seed, float offset = 0.0f) : memory(n + 1), size(n) {
        const std::vector<float> values = random_floats(n, seed, offset - 2.0f, offset + 2.0f);
        for (size_t i = 0; i < n; ++i) ldp::put(values[i], data() + i);
    }
    explicit Image(size_t n) : memory(n + 1), size(n) {}
    T* data() { return memory.data() + 1; }
    const T& at(int64_t i) const { return memory.data()[i + 1]; }
    float operator[](size_t i) const { return ldp::value_of(memory.data()[i + 1]); }
};

// Half of what lies between two numbers, relative to them; nothing for float, whose errors are those of the arithmetic.
template <typename T>
constexpr double kRounding = 0.0;
template <>
constexpr double kRounding<ldp::BFloat16> = 1.0 / 256.0;
template <>
constexpr double kRounding<ldp::Half> = 1.0 / 2048.0;

double sigmoid(double h) { return 1.0 / (1.0 + std::exp(-h)); }

template <typename T>
void run(const Case& c) {
    using Word = ldp::SignWord<T>;
    constexpr int64_t columns = 2048 / sizeof(T);
    const size_t size = static_cast<size_t>(c.batch * c.pixels * c.channels);
    const size_t moments = static_cast<size_t>(c.batch * c.groups), channels = static_cast<size_t>(c.channels);
    const int64_t in_group = c.channels / c.groups, sample = c.pixels * c.channels, blocks = (sample + 8191) / 8192;
    Image<T> x(size, 1, c.mean), grad(size, 2), addend(size, 3), out(size), grad_x(size);
    Image<float> weight(channels, 4, 1.0f), bias(channels, 5), mean(moments), rstd(moments);
    // From channels-last to how images lie here, and back.
    const auto turn = [&](const Image<T>& from, bool back, Image<T>& to) {
        for (int64_t b = 0; b < c.batch; ++b)
            for (int64_t p = 0; p < c.pixels; ++p)
                for (int64_t k = 0; k < c.channels; ++k) {
                    const int64_t last = b * sample + p * c.channels + k, plane = b * sample + k * c.pixels + p;
                    const int64_t here = c.planes ? plane : last;
                    to.data()[back ? last : here] = from.at(back ? here : last);
                }
    };
    Image<T> x_here(size), grad_here(size), addend_here(size), out_here(size), grad_x_here(size);
    turn(x, false, x_here);
    turn(grad, false, grad_here);
    turn(addend, false, addend_here);
    device_buffer<Word> signs(static_cast<size_t>(c.batch / 2 * blocks * columns));
    const std::vector<float> draws = random_floats(static_cast<size_t>(c.batch / 2 * blocks * 8192), 6, 0.0f, 4.0f);
    signs.fill(0);
    const auto code_of = [&](int64_t b, int64_t i) {  // 0, 1, -1; seldom -2
        const float draw = draws[static_cast<size_t>((b * blocks + i / 8192) * 8192 + i % 8192)];
        return draw > 3.9f ? -2 : static_cast<int>(draw) % 3 == 2 ? -1 : static_cast<int>(draw) % 3;
    };
    for (int64_t b = 0; b < c.batch / 2; ++b)
        for (int64_t i = 0; i < sample; ++i) {
            const int64_t word = (b * blocks + i / 8192) * columns + i % columns, shift = 2 * (i % 8192 / columns);
            const uint32_t code = static_cast<uint32_t>(code_of(b, i)) & 3u;
            Word& packed = signs[static_cast<size_t>(word)];
            packed = static_cast<Word>(static_cast<uint32_t>(packed) | code << shift);
        }

    ldp::GroupNormParams<T> params{};
    params.x = x_here.data();
    params.planes = c.planes;
    params.batch = c.batch;
    params.pixels = c.pixels;
    params.channels = c.channels;
    params.groups = c.groups;
    params.silu = c.silu;
    params.weight = c.affine ? weight.data() : nullptr;
    params.bias = c.affine ? bias.data() : nullptr;
    ldp::group_norm_moments_cpu(params, kEps, mean.data(), rstd.data());
    params.mean = mean.data();
    params.rstd = rstd.data();
    ldp::group_norm_silu_cpu(params, out_here.data());
    turn(out_here, true, out);
    ldp::GroupNormGradient<T> gradient{};
    gradient.grad = grad_here.data();
    gradient.addend = c.addend ? addend_here.data() : nullptr;
    const bool with_signs = c.signs && !c.planes;
    gradient.signs = with_signs ? signs.data() : nullptr;
    gradient.sign_weight = 0.25f;
    ldp::group_norm_silu_backward_cpu(params, gradient, grad_x_here.data());
    turn(grad_x_here, true, grad_x);

    std::vector<double> means, rstds, outs(size), grads(size);
    const double count = static_cast<double>(c.pixels * in_group);
    for (int64_t b = 0; b < c.batch; ++b)
        for (int64_t g = 0; g < c.groups; ++g) {
            const auto each = [&](auto&& use) {
                for (int64_t p = 0; p < c.pixels; ++p)
                    for (int64_t k = g * in_group; k < (g + 1) * in_group; ++k)
                        use(static_cast<size_t>(b * sample + p * c.channels + k), static_cast<size_t>(k));
            };
            double middle = 0.0, square = 0.0, sum = 0.0, moment = 0.0;
            each([&](size_t i, size_t) { middle += x[i] / count; });
            each([&](size_t i, size_t) { square += (x[i] - middle) * (x[i] - middle) / count; });
            const double rho = 1.0 / std::sqrt(square + kEps);
            means.push_back(middle);
            rstds.push_back(rho);
            const auto inner = [&](size_t i, size_t k) {
                const double gamma = c.affine ? weight[k] : 1.0, beta = c.affine ? bias[k] : 0.0;
                const double h = gamma * (x[i] - middle) * rho + beta, s = sigmoid(h);
                outs[i] = c.silu ? h * s : h;
                return grad[i] * gamma * (c.silu ? s * (1.0 + h * (1.0 - s)) : 1.0);
            };
            each([&](size_t i, size_t k) {
                sum += inner(i, k) / count;
                moment += inner(i, k) * (x[i] - middle) * rho / count;
            });
            each([&](size_t i, size_t k) {
                grads[i] = rho * (inner(i, k) - sum - (x[i] - middle) * rho * moment);
                if (c.addend) grads[i] += addend[i];
                if (!with_signs) return;
                const int64_t half = c.batch / 2, at = static_cast<int64_t>(i) - b * sample;
                const int code = code_of(b < half ? b : b - half, at);
                grads[i] += code == -2 ? NAN : (b < half ? 0.25 : -0.25) * code;
            });
        }
    const double far = 1.0 + std::fabs(c.mean);
    const auto check = [&](const char* name, const auto& got, const std::vector<double>& expected, double absolute,
                           double relative) {
        std::vector<float> values(got.size);
        for (size_t i = 0; i < got.size; ++i) values[i] = got[i];
        compare(name, values, expected, absolute * far, relative);
    };
    const double rounding = 1e-5 + kRounding<T>;
    check("mean", mean, means, 1e-6, 1e-5);
    check("rstd", rstd, rstds, 1e-6, 1e-5);
    check("out", out, outs, 4e-6, rounding);
    // rstd is large in a group of few elements, and what it multiplies cancels.
    check("grad_x", grad_x, grads, 4e-6 * (c.pixels * in_group < 8 ? 100.0 : 1.0), rounding);
}

template <typename T>
void run_all() {
    // Pixels, channels, groups: whole rows, rests, several chunks, channels that are not a multiple of a vector.
    const int64_t shapes[][3] = {{1, 1, 1},     {1, 8, 2},    {3, 4, 4},     {15, 4, 1},    {33, 4, 2},   {257, 8, 2},
                                 {70, 16, 4},   {9, 3, 3},    {300, 6, 3},   {40, 127, 1},  {65, 96, 32}, {5, 512, 32},
                                 {140, 128, 32}, {36, 2048, 32}, {9000, 4, 1}, {4100, 8, 8}, {90, 320, 32}};
    int number = 0;
    for (const auto& shape : shapes)
        for (int bits = 0; bits < 4; ++bits) {
            Case c{2, shape[0], shape[1], shape[2], (bits & 1) != 0, (bits & 2) != 0, bits != 1, bits != 2, 0.0f};
            if (++number % 3 == 0) c.mean = 100.0f;
            run<T>(c);
            c.planes = true;
            run<T>(c);
        }
    run<T>({4, 50, 24, 8, true, true, true, true, 0.5f});
    run<T>({3, 50, 24, 8, true, true, true, false, 0.5f});
    run<T>({0, 50, 24, 8, true, true, true, true, 0.0f});
    run<T>({1, 16500, 2, 1, true, true, true, false, 0.5f, true});  // planes of two parts
}

}  // namespace

int main() {
    run_all<float>();
    run_all<ldp::BFloat16>();
    run_all<ldp::Half>();
    return 0;
}
