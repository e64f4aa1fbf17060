// One pass each, over pieces that are the same for any number of threads.
#include "latents.h"

#include <ldp/columns.h>
#include <ldp/cpu_target.h>
#include <ldp/parallel.h>

#include <cstring>
#include <vector>

namespace ldp {
namespace {

constexpr int64_t kGrain = 32768;  // elements that are worth a thread
constexpr int64_t kPiece = 4096;   // of a sum

// Calls body(sample, begin, end) on ranges [begin, end) of [0, batch * size), each within one sample.
template <typename Body>
void within_samples(int64_t batch, int64_t size, const Body& body) {
    parallel_for(batch * size, kGrain, [&](int64_t begin, int64_t end) {
        while (begin < end) {
            const int64_t sample = begin / size, stop = smaller(end, (sample + 1) * size);
            body(sample, begin, stop);
            begin = stop;
        }
    });
}

struct Perturb {
    LDP_INLINE static void run(const float* v, const float* noise, float alpha, float sigma, float* out,
                               int64_t count) {
        const float* __restrict a = v;
        const float* __restrict b = noise;
        float* __restrict to = out;
        for (int64_t i = 0; i < count; ++i) to[i] = alpha * a[i] + sigma * b[i];
    }
};

template <Prediction kPrediction>
struct Residual {
    LDP_INLINE static void run(const GuidedResidualParams* params, int64_t sample, int64_t begin, int64_t end) {
        const float* __restrict start = params->start;
        const float* __restrict text = params->text;
        const float* __restrict uncond = params->uncond;
        const float* __restrict noise = params->noise;
        const float* __restrict z = params->noisy;
        float* __restrict out = params->out;
        const float a = params->alpha ? params->alpha[sample] : 0.0f, s = params->sigma ? params->sigma[sample] : 0.0f;
        if (params->scale != nullptr) {
            const float scale = params->scale[sample];
            for (int64_t i = begin; i < end; ++i) {
                const float guided = start[i] + scale * (text[i] - uncond[i]);
                out[i] = predicted(guided, z, i, a, s) - noise[i];
            }
        } else {
            for (int64_t i = begin; i < end; ++i) out[i] = predicted(start[i], z, i, a, s) - noise[i];
        }
    }

    LDP_INLINE static float predicted(float out, const float* z, int64_t i, float a, float s) {
        if constexpr (kPrediction == Prediction::kVPrediction) return a * out + s * z[i];
        if constexpr (kPrediction == Prediction::kFlow) return z[i] + a * out;
        if constexpr (kPrediction == Prediction::kSample) return (z[i] - a * out) / s;
        if constexpr (kPrediction == Prediction::kSigma) return (z[i] - out) / s;
        return out;
    }
};

struct Add {
    LDP_INLINE static void run(const float* v, const float* r, float* out, int64_t count) {
        const float* __restrict a = v;
        const float* __restrict b = r;
        float* __restrict to = out;
        for (int64_t i = 0; i < count; ++i) to[i] = a[i] + b[i];
    }
};

struct Scale {
    LDP_INLINE static void run(const float* from, float factor, float* out, int64_t count) {
        const float* __restrict a = from;
        float* __restrict to = out;
        for (int64_t i = 0; i < count; ++i) to[i] = factor * a[i];
    }
};

// The sum of w r² over a piece, and the elements of w r that are not finite. Where none is, the sum is finite as well,
// so that a second pass looks for them only where it is not.
struct Energy {
    LDP_INLINE static void run(const float* r, float w, bool zero_nonfinite, int64_t count, double* sum, int32_t* bad) {
        *sum = added<false>(r, w, count);
        *bad = 0;
        if (is_finite(*sum)) return;
        for (int64_t i = 0; i < count; ++i) *bad += is_finite(w * r[i]) ? 0 : 1;
        if (zero_nonfinite && *bad != 0) *sum = added<true>(r, w, count);
    }

    template <bool kZero>
    LDP_INLINE static double added(const float* r, float w, int64_t count) {
        float columns[kColumns];
        const int64_t width = smaller(kColumns, count);
        for (int64_t i = 0; i < width; ++i) columns[i] = 0.0f;
        for (int64_t first = 0; first < count; first += kColumns) {
            const int64_t elements = smaller(kColumns, count - first);
            const float* __restrict x = r + first;
            for (int64_t i = 0; i < elements; ++i) {
                const float field = w * x[i], energy = field * x[i];
                columns[i] += kZero && !is_finite(field) ? 0.0f : energy;
            }
        }
        return sum_of_columns(columns, width);
    }
};

template <bool kZero>
struct Field {
    LDP_INLINE static void run(const float* residual, float w, float grad, float* out, int64_t count) {
        const float* __restrict r = residual;
        float* __restrict to = out;
        for (int64_t i = 0; i < count; ++i) {
            const float field = w * r[i];
            to[i] = grad * (kZero && !is_finite(field) ? 0.0f : field);
        }
    }
};

template <Prediction kPrediction>
void residuals(const GuidedResidualParams& params) {
    within_samples(params.batch, params.size, [&](int64_t sample, int64_t begin, int64_t end) {
        run_widest<Residual<kPrediction>, 16>(&params, sample, begin, end);
    });
}

}  // namespace

void perturb_cpu(const PerturbParams& params) {
    if (params.copies < 1) return;
    const int64_t elements = params.batch * params.size;
    within_samples(params.batch, params.size, [&](int64_t sample, int64_t begin, int64_t end) {
        for (; begin < end; begin += kPiece) {
            const int64_t count = smaller(kPiece, end - begin);
            float* const first = params.out + begin;
            run_widest<Perturb, 16>(params.latents + begin, params.noise + begin, params.alpha[sample],
                                    params.sigma[sample], first, count);
            for (int64_t k = 1; k < params.copies; ++k) memcpy(first + k * elements, first, count * sizeof(float));
        }
    });
}

void guided_residual_cpu(const GuidedResidualParams& params) {
    switch (params.prediction) {
        case Prediction::kEpsilon: return residuals<Prediction::kEpsilon>(params);
        case Prediction::kVPrediction: return residuals<Prediction::kVPrediction>(params);
        case Prediction::kSample: return residuals<Prediction::kSample>(params);
        case Prediction::kFlow: return residuals<Prediction::kFlow>(params);
        case Prediction::kSigma: return residuals<Prediction::kSigma>(params);
    }
}

void residual_latents_cpu(const float* latents, const float* residual, float* out, int64_t elements) {
    parallel_for(elements, kGrain, [&](int64_t begin, int64_t end) {
        run_widest<Add, 16>(latents + begin, residual + begin, out + begin, end - begin);
    });
}

void residual_latents_backward_cpu(const float* grad, const float* alpha, float* out, int64_t batch, int64_t size) {
    within_samples(batch, size, [&](int64_t sample, int64_t begin, int64_t end) {
        run_widest<Scale, 16>(grad + begin, 1.0f + alpha[sample], out + begin, end - begin);
    });
}

void score_distillation_cpu(const ScoreDistillationParams& params, float* value, int32_t* count) {
    const int64_t pieces = (params.size + kPiece - 1) / kPiece;
    std::vector<double> sums(static_cast<size_t>(params.batch * pieces));
    std::vector<int32_t> bads(sums.size());
    parallel_for(params.batch * pieces, kGrain / kPiece, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
            const int64_t sample = i / pieces, begin = i % pieces * kPiece;
            const float* const r = params.residual + sample * params.size + begin;
            const int64_t elements = smaller(kPiece, params.size - begin);
            run_widest<Energy, 16>(r, params.weight[sample], params.zero_nonfinite, elements, &sums[i], &bads[i]);
        }
    });
    const float factor = static_cast<float>(0.5 / static_cast<double>(params.size));
    for (int64_t sample = 0; sample < params.batch; ++sample) {
        double sum = 0.0;
        int32_t bad = 0;
        for (int64_t i = sample * pieces; i < (sample + 1) * pieces; ++i) {
            sum += sums[i];
            bad += bads[i];
        }
        // A sum that float does not hold is infinite, as it is in the reference.
        value[sample] = static_cast<float>(sum) * factor;
        if (count != nullptr) count[sample] = bad;
    }
}

void score_distillation_backward_cpu(const ScoreDistillationParams& params, const float* grad, float* out) {
    within_samples(params.batch, params.size, [&](int64_t sample, int64_t begin, int64_t end) {
        const float* const r = params.residual + begin;
        const float w = params.weight[sample], g = grad[sample];
        if (params.zero_nonfinite)
            run_widest<Field<true>, 16>(r, w, g, out + begin, end - begin);
        else
            run_widest<Field<false>, 16>(r, w, g, out + begin, end - begin);
    });
}

}  // namespace ldp
