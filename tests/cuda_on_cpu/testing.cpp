#include "testing.h"

#include <cinttypes>
#include <cstdio>

namespace cuda_on_cpu {
namespace {

const char* name_of(Arrangement arrangement) {
    return arrangement == Arrangement::kForward   ? "forward"
           : arrangement == Arrangement::kReverse ? "reverse"
                                                  : "random";
}

Arrangement arrangement_of(const std::string& name) {
    for (const auto arrangement : {Arrangement::kForward, Arrangement::kReverse, Arrangement::kRandom})
        if (name == name_of(arrangement)) return arrangement;
    fail("LDP_CUDA_ORDER: expected forward, reverse or random, got %s", name.c_str());
}

Order parse(const std::string& text) {
    char threads[16] = "", blocks[16] = "";
    uint64_t seed = 0;
    unsigned poison = 0;
    if (std::sscanf(text.c_str(), "%15[a-z],%15[a-z],%" SCNu64 ",%x", threads, blocks, &seed, &poison) != 4 ||
        poison > 255)
        fail("LDP_CUDA_ORDER: expected threads,blocks,seed,poison as in reverse,random,7,7b, got %s", text.c_str());
    return {arrangement_of(threads), arrangement_of(blocks), seed, static_cast<unsigned char>(poison)};
}

}  // namespace

Order& current_order() {
    static Order order;
    return order;
}

std::string describe(const Order& order) {
    char text[80];
    std::snprintf(text, sizeof(text), "%s,%s,%" PRIu64 ",%02x", name_of(order.threads), name_of(order.blocks),
                  order.seed, static_cast<unsigned>(order.poison));
    return text;
}

const std::vector<Order>& orders() {
    static const std::vector<Order> all = [] {
        const char* chosen = std::getenv("LDP_CUDA_ORDER");
        if (chosen != nullptr && *chosen) return std::vector<Order>{parse(chosen)};
        constexpr auto forward = Arrangement::kForward, reverse = Arrangement::kReverse, random = Arrangement::kRandom;
        return std::vector<Order>{{forward, forward, 1, 0xff},
                                  {reverse, reverse, 1, 0x7b},
                                  {forward, reverse, 1, 0x7b},
                                  {random, random, 1, 0xff},
                                  {random, random, 2, 0x7b}};
    }();
    return all;
}

std::vector<float> random_floats(size_t size, uint64_t seed, float low, float high) {
    std::vector<float> values(size);
    for (size_t i = 0; i < size; ++i) {
        uint64_t z = (seed * 0x9e3779b97f4a7c15ull + i + 1) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 29) * 0x94d049bb133111ebull;
        z ^= z >> 32;
        values[i] = low + (high - low) * static_cast<float>(z >> 40) * 0x1p-24f;
    }
    return values;
}

void expect(bool condition, const char* what) {
    if (!condition) fail("expected %s", what);
}

void detail::differs(const char* name, size_t index, size_t size, double got, double expected, size_t wrong) {
    fail("%s: expected %.9g at %zu of %zu, got %.9g; %zu differ", name, expected, index, size, got, wrong);
}

void detail::sizes_differ(const char* name, size_t got, size_t expected) {
    fail("%s: expected %zu elements, got %zu", name, expected, got);
}

bool detail::near(double got, double expected, double absolute, double relative) {
    if (got != got || expected != expected) return got != got && expected != expected;
    if (got == expected) return true;
    return std::isfinite(expected) && std::fabs(got - expected) <= absolute + relative * std::fabs(expected);
}

}  // namespace cuda_on_cpu
