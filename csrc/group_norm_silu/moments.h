// What images in rows and in planes share once numbers are added up: moments of parts to those of a group, and the
// coefficients of the gradient. All in double.
#pragma once

#include <cmath>
#include <cstdint>

namespace ldp {

// Count, mean and sum of squared deviations of what was added, by Chan's formula.
struct Moments {
    double count = 0.0, mean = 0.0, square = 0.0;

    void add(const Moments& other) {
        const double apart = other.mean - mean, total = count + other.count;
        mean += apart * other.count / total;
        square += other.square + apart * apart * count * other.count / total;
        count = total;
    }
    float rstd(float eps) const { return static_cast<float>(1.0 / std::sqrt(square / count + eps)); }
};

// Of numbers around any centre: how many, and the sums of the deviations from it and of their squares.
inline Moments moments_around(double centre, double count, double sum, double square) {
    const double rest = square - sum * sum / count;
    return {count, centre + sum / count, rest < 0.0 ? 0.0 : rest};  // NaN stays
}

// dL/dx = scale dL/dh + constant + slope (x - mean), from a group's sums of weight dL/dh and of that times (x - mean).
inline float constant_of(double rstd, double sum, double count) { return static_cast<float>(-rstd * sum / count); }
inline float slope_of(double rstd, double moment, double count) {
    return static_cast<float>(-rstd * rstd * rstd * moment / count);
}

}  // namespace ldp
