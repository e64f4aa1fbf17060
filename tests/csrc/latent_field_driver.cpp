// latent_field_driver SIZE COUNT HIDDEN LAYERS CHANNELS FEATURES LEVELS FLAGS: the field's kernels in every order.
// COUNT -1 is none; FLAGS are letters: b(ias), s(igmoid), h(alf), w(shadow of the table), m(isaligned table and
// shadow), t(oo little room for more than one block's sum).
//
// Float32 kernels are compared with the CPU backend; half ones with loops in double that round where the kernels round.
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <string>

#include "latent_field/latent_field.h"
#include "latent_field/latent_field_cuda.h"
#include "testing.h"

using namespace cuda_on_cpu;
using ldp::HashGridParams;
using ldp::LatentFieldParams;

namespace {

float rounded(double value) { return __half2float(__float2half_rn(static_cast<float>(value))); }

struct Results {
    std::vector<float> density, latents, encoding, grad_encoding, grad_weights, grad_positions;

    Results(const LatentFieldParams& p)
        : density(p.size),
          latents(p.size * p.channels),
          encoding(p.size * p.encoding),
          grad_encoding(p.size * p.encoding),
          grad_weights(ldp::field_weights(p)),
          grad_positions(p.size * 3) {}
};

// The definition with half products, one sample after another; `encoding` is rounded already.
void half_field(const LatentFieldParams& p, int64_t count, const float* grad_density, const float* grad_latents,
                Results& r) {
    std::vector<double> grad_weights(r.grad_weights.size(), 0.0);
    for (int64_t s = 0; s < count; ++s) {
        std::vector<std::vector<double>> values{
            {r.encoding.begin() + s * p.encoding, r.encoding.begin() + (s + 1) * p.encoding}};
        for (int l = 0; l <= p.layers; ++l) {
            const auto layer = ldp::field_layer(p, l);
            std::vector<double> next(layer.out);
            for (int o = 0; o < layer.out; ++o) {
                double sum = p.bias ? p.weights[layer.bias + o] : 0.0;
                for (int i = 0; i < layer.in; ++i)
                    sum += values.back()[i] * rounded(p.weights[layer.weight + o * layer.in + i]);
                next[o] = l < p.layers ? rounded(sum < 0.0 ? 0.0 : sum) : sum;
            }
            values.push_back(next);
        }
        std::vector<double> grad = values.back();
        const float* const x = p.positions + s * 3;
        const double blob = ldp::field_blob(p, x[0], x[1], x[2]);
        r.density[s] = ldp::field_density(static_cast<float>(grad[0] + blob));
        grad[0] = grad_density[s] * ldp::field_density_slope(static_cast<float>(grad[0] + blob));
        for (int d = 0; d < 3; ++d)
            r.grad_positions[s * 3 + d] =
                p.blob_strength == 0.0f ? 0.0f : static_cast<float>(-grad[0] * blob / (p.blob_std * p.blob_std) * x[d]);
        for (int c = 0; c < p.channels; ++c) {
            const double y = p.sigmoid ? 1.0 / (1.0 + std::exp(-grad[1 + c])) : grad[1 + c];
            r.latents[s * p.channels + c] = static_cast<float>(y);
            grad[1 + c] = grad_latents[s * p.channels + c] * (p.sigmoid ? y * (1.0 - y) : 1.0);
        }
        for (int l = p.layers; l >= 0; --l) {
            const auto layer = ldp::field_layer(p, l);
            std::vector<double> before(layer.in, 0.0);
            for (int o = 0; o < layer.out; ++o) {
                if (p.bias) grad_weights[layer.bias + o] += grad[o];
                for (int i = 0; i < layer.in; ++i) {
                    grad_weights[layer.weight + o * layer.in + i] += grad[o] * values[l][i];
                    before[i] += grad[o] * rounded(p.weights[layer.weight + o * layer.in + i]);
                }
            }
            for (int i = 0; l > 0 && i < layer.in; ++i)
                if (values[l][i] <= 0.0) before[i] = 0.0;
            grad = before;
        }
        for (int i = 0; i < p.encoding; ++i) r.grad_encoding[s * p.encoding + i] = static_cast<float>(grad[i]);
    }
    for (size_t i = 0; i < grad_weights.size(); ++i) r.grad_weights[i] = static_cast<float>(grad_weights[i]);
}

double largest(const std::vector<float>& values) {
    double most = 1e-30;
    for (const float v : values) most = std::fmax(most, std::fabs(v));
    return most;
}

HashGridParams grid_of(int levels, int features) {
    HashGridParams grid{};
    grid.n_levels = levels;
    grid.n_features = features;
    grid.shift = 0.5f;
    grid.indexing = ldp::GridIndexing::kHashed;
    int64_t offset = 0;
    for (int l = 0; l < levels; ++l) {
        const auto resolution = static_cast<uint32_t>(4 + 3 * l);
        const uint32_t vertices = (resolution * resolution * resolution + 7) / 8 * 8,
                       size = vertices < 512 ? vertices : 512;
        grid.levels[l] = {offset, size, resolution, static_cast<float>(resolution) - 1.5f};
        offset += size;
    }
    return grid;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 9) return 2;
    const int64_t size = std::atoll(argv[1]), count = std::atoll(argv[2]);
    const std::string flags = argv[8];
    const auto has = [&](char flag) { return flags.find(flag) != std::string::npos; };
    const bool half = has('h');

    LatentFieldParams p{};
    p.size = size;
    p.hidden = std::atoi(argv[3]);
    p.layers = std::atoi(argv[4]);
    p.channels = std::atoi(argv[5]);
    HashGridParams grid = grid_of(std::atoi(argv[7]), std::atoi(argv[6]));
    p.encoding = grid.n_levels * grid.n_features;
    p.bias = has('b');
    p.sigmoid = has('s');
    p.half = half;
    p.bound = 1.5f;
    p.blob_strength = has('0') ? 0.0f : 2.0f;
    p.blob_std = 0.7f;
    const device_buffer<float> positions(random_floats(size * 3, 1, -1.5f, 1.5f));
    const device_buffer<float> weights(random_floats(ldp::field_weights(p), 2, -0.3f, 0.3f));
    const device_buffer<int64_t> counts{count};
    p.positions = positions.data();
    p.weights = weights.data();
    p.count = count < 0 ? nullptr : counts.data();
    const int64_t live = count < 0 || count > size ? size : count;
    const auto last = grid.levels[grid.n_levels - 1];
    std::vector<float> entries = random_floats((last.offset + last.size) * grid.n_features, 3);
    const size_t skipped = has('m') ? 1 : 0;  // entries are views that begin behind this many numbers
    device_buffer<ldp::half> shadow(entries.size() + skipped);
    for (size_t i = 0; i < entries.size(); ++i) {
        shadow[i + skipped] = __float2half_rn(entries[i]);
        if (has('w')) entries[i] = __half2float(shadow[i + skipped]);
    }
    entries.insert(entries.begin(), skipped, NAN);
    const device_buffer<float> table(entries);
    grid.table = table.data() + skipped;
    const device_buffer<float> grad_density(random_floats(size, 4)), grad_latents(random_floats(size * p.channels, 5));

    Results expected(p);
    ldp::latent_field_cpu(p, grid, expected.density.data(), expected.latents.data(), expected.encoding.data());
    const std::vector<float> exact = expected.encoding;
    if (half) {
        for (float& value : expected.encoding) value = rounded(value);
        half_field(p, live, grad_density.data(), grad_latents.data(), expected);
    } else {
        ldp::latent_field_backward_cpu(p, grad_density.data(), grad_latents.data(), expected.encoding.data(),
                                       expected.grad_encoding.data(), expected.grad_weights.data(),
                                       expected.grad_positions.data());
    }
    if (has('w')) grid.shadow = shadow.data() + skipped;

    // Float: sums of up to 128 products in another order, and what 3xTF32 drops, through up to five layers. Half: an
    // activation between two float16 numbers may be rounded the other way, 2^-11 of it; gradients are rounded to tf32.
    const double rate = half ? 4e-3 : 2e-5;
    const auto close = [&](const char* name, const auto& got, const std::vector<float>& wanted) {
        compare(name, got, wanted, rate * largest(wanted), rate);
    };
    const ldp::FieldPack pack = ldp::field_pack(p);
    const size_t room = static_cast<size_t>(pack.floats()) * (has('t') ? 2 : 6);
    std::vector<float> first_weights;
    for_every_order([&] {
        device_buffer<float> workspace(room), density(size), latents(size * p.channels);
        device_buffer<float> encoding(half ? 0 : size * p.encoding);
        device_buffer<ldp::half> half_encoding(half ? size * p.encoding : 0);
        void* const encodings = half ? static_cast<void*>(half_encoding.data()) : static_cast<void*>(encoding.data());
        ldp::latent_field_cuda(p, grid, {workspace.data(), static_cast<int64_t>(room)}, density.data(), latents.data(),
                               encodings, nullptr);
        if (half) {
            compare("encoding", half_encoding, exact, 1e-6, 1e-3);
            for (int64_t i = 0; i < size * p.encoding; ++i) half_encoding[i] = __float2half_rn(expected.encoding[i]);
        } else {
            compare("encoding", encoding, expected.encoding, 1e-6, 1e-6);
        }
        close("density", density, expected.density);
        close("latents", latents, expected.latents);

        device_buffer<float> other_workspace(room), grad_encoding(size * p.encoding),
            grad_weights(expected.grad_weights.size());
        device_buffer<float> grad_positions(size * 3);
        ldp::latent_field_backward_cuda(p, {other_workspace.data(), static_cast<int64_t>(room)}, grad_density.data(),
                                        grad_latents.data(), encodings, grad_encoding.data(), grad_weights.data(),
                                        grad_positions.data(), nullptr);
        close("grad_encoding", grad_encoding, expected.grad_encoding);
        close("grad_weights", grad_weights, expected.grad_weights);
        close("grad_positions", grad_positions, expected.grad_positions);
        if (half) return;  // the encodings of each order are its own
        if (first_weights.empty()) first_weights = grad_weights.host();
        compare_bits("grad_weights of another order", grad_weights, first_weights);
    });
    return 0;
}
