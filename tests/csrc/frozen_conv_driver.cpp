// frozen_conv_driver KIND BATCH HEIGHT WIDTH IN OUT FLAGS: the CPU's convolutions against plain loops in double, with 1
// to 5 threads, which have to give the same bits. KIND is 0 to 3; HEIGHT and WIDTH are x's (halved for the upsampled
// kinds' transpose); FLAGS are letters: b(ias), s(ilu), a(ddend), w(eights channels-last), m(isaligned: everything
// begins one float later than memory does), n(ot a number in one pixel).
//
// Buffers are exactly as large as they have to be, so that AddressSanitizer sees every access outside of them; with m
// the workspace and the result have neighbours, which have to stay.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "frozen_conv/frozen_conv.h"
#include "testing.h"

using namespace cuda_on_cpu;
using ldp::ConvKind;
using ldp::FrozenConvParams;

namespace {

constexpr float kSentinel = -777.0f;

struct Sizes {
    int64_t height, width;
};

Sizes out_sizes(const FrozenConvParams& p) {
    if (p.kind == ConvKind::kUpsample) return {2 * p.height, 2 * p.width};
    if (p.kind == ConvKind::kUpsampleTransposed) return {p.height / 2, p.width / 2};
    return {p.height, p.width};
}

// out[b, y, x, o] and the sum of the magnitudes of its terms, by scattering or gathering tap by tap.
void definition(const FrozenConvParams& p, std::vector<double>& out, std::vector<double>& terms) {
    const Sizes size = out_sizes(p);
    const bool transposed = p.kind == ConvKind::kSameTransposed || p.kind == ConvKind::kUpsampleTransposed;
    const bool upsampled = p.kind == ConvKind::kUpsample || p.kind == ConvKind::kUpsampleTransposed;
    // Of the convolution itself, transposed or not: the image that the taps slide over, perhaps enlarged.
    const int64_t wide = upsampled ? 2 : 1;
    const int64_t height = transposed ? p.height : wide * p.height, width = transposed ? p.width : wide * p.width;
    const auto input = [&](int64_t b, int64_t y, int64_t x, int64_t c) {
        const double value = p.x[((b * p.height + y) * p.width + x) * p.in + c];
        if (p.scale == nullptr) return value;
        const double u = p.scale[b * p.in + c] * value + p.shift[b * p.in + c];
        return u / (1.0 + std::exp(-u));
    };
    for (int64_t b = 0; b < p.batch; ++b)
        for (int64_t y = 0; y < height; ++y)
            for (int64_t x = 0; x < width; ++x)
                for (int i = 0; i < 3; ++i)
                    for (int j = 0; j < 3; ++j) {
                        // Output (y, x) of the convolution reads its image at (v, u).
                        const int64_t v = y + i - 1, u = x + j - 1;
                        if (v < 0 || v >= height || u < 0 || u >= width) continue;
                        const int64_t from_y = transposed ? y : v / wide, from_x = transposed ? x : u / wide;
                        const int64_t to_y = transposed ? v / wide : y, to_x = transposed ? u / wide : x;
                        for (int64_t c = 0; c < p.in; ++c) {
                            const double value = input(b, from_y, from_x, c);
                            for (int64_t o = 0; o < p.out_channels; ++o) {
                                const int64_t first = transposed ? c : o, second = transposed ? o : c;
                                const double w = p.weight[first * p.strides[0] + second * p.strides[1] +
                                                          i * p.strides[2] + j * p.strides[3]];
                                const int64_t at = ((b * size.height + to_y) * size.width + to_x) * p.out_channels + o;
                                out[at] += w * value;
                                terms[at] += std::fabs(w * value);
                            }
                        }
                    }
    for (size_t at = 0; at < out.size(); ++at) {
        out[at] += (p.bias != nullptr ? p.bias[at % p.out_channels] : 0.0) + (p.addend != nullptr ? p.addend[at] : 0.0);
        terms[at] += (p.bias != nullptr ? std::fabs(p.bias[at % p.out_channels]) : 0.0) +
                     (p.addend != nullptr ? std::fabs(p.addend[at]) : 0.0);
    }
}

// Memory whose first float is not used, for a misaligned view; freed with it.
struct Room {
    device_buffer<float> buffer;
    float* begin;
    size_t size, before, after;

    Room(size_t size, bool misaligned)
        : buffer(size + (misaligned ? 4 : 0)),
          begin(buffer.data() + (misaligned ? 1 : 0)),
          size(size),
          before(misaligned ? 1 : 0),
          after(misaligned ? 3 : 0) {
        for (size_t i = 0; i < before; ++i) buffer[i] = kSentinel;
        for (size_t i = 0; i < after; ++i) buffer[before + size + i] = kSentinel;
    }
    void fill(const std::vector<float>& values) { std::copy(values.begin(), values.end(), begin); }
    void check(const char* what) const {
        for (size_t i = 0; i < before; ++i) expect(buffer[i] == kSentinel, what);
        for (size_t i = 0; i < after; ++i) expect(buffer[before + size + i] == kSentinel, what);
    }
};

}  // namespace

int main(int argc, char** argv) {
    if (argc != 8) return 2;
    const std::string flags = argv[7];
    const auto has = [&](char flag) { return flags.find(flag) != std::string::npos; };
    FrozenConvParams p{};
    p.kind = static_cast<ConvKind>(std::atoi(argv[1]));
    p.batch = std::atoll(argv[2]), p.height = std::atoll(argv[3]), p.width = std::atoll(argv[4]);
    p.in = std::atoll(argv[5]), p.out_channels = std::atoll(argv[6]);
    const bool transposed = p.kind == ConvKind::kSameTransposed || p.kind == ConvKind::kUpsampleTransposed;
    const int64_t first = transposed ? p.in : p.out_channels, second = transposed ? p.out_channels : p.in;
    const Sizes size = out_sizes(p);
    const size_t outputs = p.batch * size.height * size.width * p.out_channels;

    const auto made = [&](int64_t count, uint64_t seed, float extent) {
        auto room = std::make_unique<Room>(count, has('m'));
        room->fill(random_floats(count, seed, -extent, extent));
        return room;
    };
    const auto x = made(p.batch * p.height * p.width * p.in, 1, 2.0f), weight = made(first * second * 9, 2, 0.2f);
    const auto bias = made(p.out_channels, 3, 1.0f), scale = made(p.batch * p.in, 4, 2.0f);
    const auto shift = made(p.batch * p.in, 5, 2.0f), addend = made(outputs, 6, 1.0f);
    p.x = x->begin, p.weight = weight->begin;
    const int64_t strides[] = {9 * second, has('w') ? 1 : 9, has('w') ? 3 * second : 3, has('w') ? second : 1};
    std::copy_n(strides, 4, p.strides);
    if (has('b')) p.bias = bias->begin;
    if (has('s')) p.scale = scale->begin, p.shift = shift->begin;
    if (has('a')) p.addend = addend->begin;
    const int64_t poisoned_at = ((p.batch - 1) * p.height + p.height / 2) * p.width + p.width / 2;
    if (has('n')) x->begin[poisoned_at * p.in + 5] = NAN;

    std::vector<double> wanted(outputs, 0.0), terms(outputs, 0.0);
    definition(p, wanted, terms);
    double largest = 0.0;
    for (const double term : terms)
        if (std::isfinite(term)) largest = std::max(largest, term);

    std::vector<float> one_thread;
    for (const unsigned char poison : {0xff, 0x7b})
        for (int threads = 1; threads <= 5; ++threads) {
            current_order().poison = poison;
            p.threads = threads;
            Room workspace(ldp::frozen_conv_workspace(p), has('m')), out(outputs, has('m'));
            p.workspace = workspace.begin, p.out = out.begin;
            ldp::frozen_conv_cpu(p);
            workspace.check("nothing is written around the workspace");
            out.check("nothing is written around the result");
            std::vector<float> got(out.begin, out.begin + outputs);
            if (one_thread.empty()) one_thread = got;
            compare_bits("the result of another number of threads", got, one_thread);
            if (has('n'))  // it shows wherever it has to, and may hit the rest of its tile
                for (size_t i = 0; i < outputs; ++i)
                    if (!std::isfinite(got[i]) || !std::isfinite(wanted[i])) {
                        expect(!std::isfinite(got[i]), "what is not finite is not hidden");
                        expect(static_cast<int64_t>(i) >= (p.batch - 1) * size.height * size.width * p.out_channels,
                               "what is not finite stays in its sample");
                        got[i] = static_cast<float>(wanted[i] = 0.0);
                    }
            // 16 units in the last place of the largest sum of magnitudes: Winograd's transforms have factors up to 3.
            compare("out", got, wanted, 16 * 1.2e-7 * largest);
        }
    return 0;
}
