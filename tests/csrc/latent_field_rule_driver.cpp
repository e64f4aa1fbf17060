// latent_field_rule_driver IN OUT: the field's kernels on inputs from a file, for the rule that tolerances.py holds
// them to. Out come density, latents, encoding, grad_encoding, grad_weights, grad_positions; what goes in stands in
// `main`.
#include "latent_field/latent_field.h"
#include "latent_field/latent_field_cuda.h"
#include "numbers.h"
#include "testing.h"

using namespace cuda_on_cpu;

int main(int argc, char** argv) {
    if (argc != 3) return 2;
    current_order() = orders().back();
    Reader in(argv[1]);
    ldp::LatentFieldParams p{};
    p.size = static_cast<int64_t>(in.next());
    p.hidden = static_cast<int>(in.next());
    p.layers = static_cast<int>(in.next());
    p.channels = static_cast<int>(in.next());
    p.bias = in.next() != 0.0;
    p.half = in.next() != 0.0;
    p.bound = static_cast<float>(in.next());
    p.blob_strength = static_cast<float>(in.next());
    p.blob_std = static_cast<float>(in.next());
    ldp::HashGridParams grid{};
    grid.n_levels = static_cast<int>(in.next());
    grid.n_features = static_cast<int>(in.next());
    grid.shift = 0.5f;
    grid.indexing = ldp::GridIndexing::kHashed;
    int64_t entries = 0;
    for (int l = 0; l < grid.n_levels; ++l) {
        grid.levels[l].offset = entries;
        grid.levels[l].size = static_cast<uint32_t>(in.next());
        grid.levels[l].resolution = static_cast<uint32_t>(in.next());
        grid.levels[l].scale = static_cast<float>(in.next());
        entries += grid.levels[l].size;
    }
    p.encoding = grid.n_levels * grid.n_features;
    const device_buffer<float> positions(in.floats(p.size * 3)), table(in.floats(entries * grid.n_features)),
        weights(in.floats(ldp::field_weights(p))), grad_density(in.floats(p.size)),
        grad_latents(in.floats(p.size * p.channels));
    p.positions = positions.data();
    p.weights = weights.data();
    grid.table = table.data();

    const int64_t room = int64_t{8} * ldp::field_pack(p).floats(), columns = p.size * p.encoding;
    device_buffer<float> workspace(room), density(p.size), latents(p.size * p.channels);
    device_buffer<float> encoding(columns), grad_encoding(columns), grad_weights(weights.size()),
        grad_positions(p.size * 3);
    device_buffer<ldp::half> half_encoding(p.half ? columns : 0);
    void* const encodings = p.half ? static_cast<void*>(half_encoding.data()) : static_cast<void*>(encoding.data());
    ldp::latent_field_cuda(p, grid, {workspace.data(), room}, density.data(), latents.data(), encodings, nullptr);
    ldp::latent_field_backward_cuda(p, {workspace.data(), room}, grad_density.data(), grad_latents.data(), encodings,
                                    grad_encoding.data(), grad_weights.data(), grad_positions.data(), nullptr);
    for (size_t i = 0; i < half_encoding.size(); ++i) encoding[i] = __half2float(half_encoding[i]);

    Writer out(argv[2]);
    for (const auto* part : {&density, &latents, &encoding, &grad_encoding, &grad_weights, &grad_positions})
        out.write(*part);
    return 0;
}
