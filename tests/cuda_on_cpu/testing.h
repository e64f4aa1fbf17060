// For drivers: device memory, orders, comparisons. A comparison that fails ends the process with exit code 70.
#pragma once

#include "cuda_on_cpu.h"

#include <cstdlib>
#include <initializer_list>
#include <string>
#include <vector>

namespace cuda_on_cpu {

enum class Arrangement { kForward, kReverse, kRandom };

struct Order {
    Arrangement threads = Arrangement::kForward;
    Arrangement blocks = Arrangement::kForward;
    uint64_t seed = 1;            // of the random ones
    unsigned char poison = 0xff;  // every byte of fresh memory: 0xff is NaN and -1, 0x7b is about 1e36 (half: 61 280)
};

Order& current_order();
std::string describe(const Order& order);

// All that for_every_order runs, or the one that LDP_CUDA_ORDER names ("reverse,random,7,7b").
const std::vector<Order>& orders();

template <typename F>
void for_every_order(F&& f) {
    const Order before = current_order();
    for (const Order& order : orders()) {
        current_order() = order;
        f();
    }
    current_order() = before;
}

// Memory of exactly this many elements, poisoned, 256-byte aligned as CUDA's is.
template <typename T>
class device_buffer {
public:
    explicit device_buffer(size_t size) : size_(size) {
        static_assert(std::is_trivially_copyable_v<T>);
        if (posix_memalign(reinterpret_cast<void**>(&data_), 256, size * sizeof(T)) != 0) std::abort();
        if (size) std::memset(static_cast<void*>(data_), current_order().poison, size * sizeof(T));
    }
    device_buffer(const std::vector<T>& values) : device_buffer(values.size()) {
        if (size_) std::memcpy(static_cast<void*>(data_), values.data(), size_ * sizeof(T));
    }
    device_buffer(std::initializer_list<T> values) : device_buffer(std::vector<T>(values)) {}
    ~device_buffer() { std::free(data_); }
    device_buffer(const device_buffer&) = delete;
    device_buffer& operator=(const device_buffer&) = delete;

    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return size_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }
    void fill(T value) {
        for (size_t i = 0; i < size_; ++i) data_[i] = value;
    }
    std::vector<T> host() const { return std::vector<T>(data_, data_ + size_); }

private:
    T* data_ = nullptr;
    size_t size_;
};

// Numbers in [low, high), the same on every machine.
std::vector<float> random_floats(size_t size, uint64_t seed, float low = -1.0f, float high = 1.0f);

void expect(bool condition, const char* what);

namespace detail {

[[noreturn]] void differs(const char* name, size_t index, size_t size, double got, double expected, size_t wrong);
[[noreturn]] void sizes_differ(const char* name, size_t got, size_t expected);
inline double number(__half value) { return static_cast<double>(__half2float(value)); }
template <typename T>
double number(T value) {
    return static_cast<double>(value);
}
bool near(double got, double expected, double absolute, double relative);

}  // namespace detail

// |got - expected| <= absolute + relative * |expected| everywhere; NaN equals NaN, and an infinity itself.
template <typename Got, typename Expected>
void compare(const char* name, const Got& got, const Expected& expected, double absolute = 0.0, double relative = 0.0) {
    if (got.size() != expected.size()) detail::sizes_differ(name, got.size(), expected.size());
    size_t wrong = 0, worst = 0;
    double distance = -1.0;
    for (size_t i = 0; i < got.size(); ++i) {
        const auto a = detail::number(got.data()[i]), b = detail::number(expected.data()[i]);
        if (detail::near(a, b, absolute, relative)) continue;
        ++wrong;
        const double off = a - b == a - b ? std::fabs(a - b) : HUGE_VAL;
        if (off > distance) {
            distance = off;
            worst = i;
        }
    }
    if (wrong)
        detail::differs(name, worst, got.size(), detail::number(got.data()[worst]),
                        detail::number(expected.data()[worst]), wrong);
}

// The same bytes.
template <typename Got, typename Expected>
void compare_bits(const char* name, const Got& got, const Expected& expected) {
    static_assert(sizeof(*got.data()) == sizeof(*expected.data()));
    if (got.size() != expected.size()) detail::sizes_differ(name, got.size(), expected.size());
    size_t wrong = 0, first = 0;
    for (size_t i = got.size(); i-- > 0;)
        if (std::memcmp(got.data() + i, expected.data() + i, sizeof(*got.data())) != 0) {
            ++wrong;
            first = i;
        }
    if (wrong)
        detail::differs(name, first, got.size(), detail::number(got.data()[first]),
                        detail::number(expected.data()[first]), wrong);
}

}  // namespace cuda_on_cpu
