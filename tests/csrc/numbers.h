// Files of plain numbers, between Python and a driver: float64 in, float32 out.
#pragma once

#include <cstdio>
#include <vector>

#include "testing.h"

namespace cuda_on_cpu {

class Reader {
public:
    explicit Reader(const char* path) : file_(std::fopen(path, "rb")) { expect(file_ != nullptr, "an input"); }
    ~Reader() { std::fclose(file_); }
    Reader(const Reader&) = delete;
    Reader& operator=(const Reader&) = delete;

    double next() {
        double value = 0.0;
        expect(std::fread(&value, sizeof(value), 1, file_) == 1, "another number in the input");
        return value;
    }
    template <typename T>
    std::vector<T> numbers(int64_t size) {
        std::vector<T> values(static_cast<size_t>(size));
        for (T& value : values) value = static_cast<T>(next());
        return values;
    }
    std::vector<float> floats(int64_t size) { return numbers<float>(size); }

private:
    std::FILE* file_;
};

class Writer {
public:
    explicit Writer(const char* path) : file_(std::fopen(path, "wb")) { expect(file_ != nullptr, "an output"); }
    ~Writer() { expect(std::fclose(file_) == 0, "room for the output"); }
    Writer(const Writer&) = delete;
    Writer& operator=(const Writer&) = delete;

    void write(const device_buffer<float>& values) {
        expect(std::fwrite(values.data(), sizeof(float), values.size(), file_) == values.size(), "room for the output");
    }

private:
    std::FILE* file_;
};

}  // namespace cuda_on_cpu
