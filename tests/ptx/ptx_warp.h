// PTX's instructions of a whole warp. The positions in mma's fragments are written down here from the ISA, apart from
// csrc/include/ldp/mma.h, which is what they test.
#pragma once

namespace ptx {

template <typename T, size_t kCount>
std::array<T, kCount> atomic_add(unsigned char* address, const std::array<T, kCount>& values) {
    return atomic<T, kCount>(address, values, [](T a, T b) { return op_add(a, b); });
}
template <typename T, size_t kCount>
std::array<T, kCount> atomic_max(unsigned char* address, const std::array<T, kCount>& values) {
    return atomic<T, kCount>(address, values, [](T a, T b) { return op_max(a, b); });
}
template <typename T, size_t kCount>
std::array<T, kCount> atomic_or(unsigned char* address, const std::array<T, kCount>& values) {
    return atomic<T, kCount>(address, values, [](T a, T b) { return op_or(a, b); });
}

inline uint32_t shuffled(const char* name, bool* there, uint32_t value, int source, bool in_range, uint32_t mask) {
    if (there) *there = in_range;
    return ::cuda_on_cpu::detail::shuffle(name, mask, value, in_range ? source : ::cuda_on_cpu::lane(), 32);
}

// c holds the highest lane of a segment in its low bits, the bits that tell segments apart in bits 8 to 12.
#define PTX_SHUFFLE(name, source_lane, in_range)                                                           \
    inline uint32_t op_shfl_##name(bool* there, uint32_t value, uint32_t b, uint32_t c, uint32_t mask) {   \
        const int lane = ::cuda_on_cpu::lane(), by = static_cast<int>(b & 31u);                            \
        const int segment = static_cast<int>(c >> 8 & 31u);                                                \
        const int highest = (lane & segment) | (static_cast<int>(c & 31u) & ~segment);                     \
        const int source = source_lane;                                                                    \
        return shuffled("shfl.sync." #name, there, value, source, in_range, mask);                         \
    }
PTX_SHUFFLE(up, lane - by, source >= highest)
PTX_SHUFFLE(down, lane + by, source <= highest)
PTX_SHUFFLE(bfly, lane ^ by, source <= highest)
PTX_SHUFFLE(idx, (lane & segment) | (by & ~segment), source <= highest)
#undef PTX_SHUFFLE

template <typename T>
uint32_t op_vote_sync_ballot(bool predicate, uint32_t mask) {
    return ::cuda_on_cpu::detail::ballot("vote.sync.ballot", mask, predicate);
}
template <typename T>
bool op_vote_sync_any(bool predicate, uint32_t mask) {
    return ::cuda_on_cpu::detail::ballot("vote.sync.any", mask, predicate) != 0;
}
template <typename T>
bool op_vote_sync_all(bool predicate, uint32_t mask) {
    return ::cuda_on_cpu::detail::ballot("vote.sync.all", mask, predicate) == mask;
}

// What a warp's lanes hold of A, B and C is put where the ISA has it; the sums are the harness's (tensor_core.h).
template <size_t kA, size_t kB, typename Place>
struct Mma {
    std::array<uint32_t, kA> a;
    std::array<uint32_t, kB> b;
    std::array<float, 4> c;

    static void complete(void* const* requests, unsigned) {
        float a[16][Place::kDepth], b[Place::kDepth][8], c[16][8];
        const auto own = [&](int lane) -> Mma& { return *static_cast<Mma*>(requests[lane]); };
        const auto sum = [&](int lane, int i) -> float& {
            return c[lane / 4 + (i >= 2 ? 8 : 0)][lane % 4 * 2 + (i & 1)];
        };
        for (int lane = 0; lane < 32; ++lane) {
            Place::spread(lane, own(lane).a, own(lane).b, a, b);
            for (int i = 0; i < 4; ++i) sum(lane, i) = own(lane).c[static_cast<size_t>(i)];
        }
        ::cuda_on_cpu::tensor_core(a[0], b[0], c[0], Place::kDepth);
        for (int lane = 0; lane < 32; ++lane)
            for (int i = 0; i < 4; ++i) own(lane).c[static_cast<size_t>(i)] = sum(lane, i);
    }
};

struct PlaceTf32 {
    static constexpr int kDepth = 8;

    static float value(uint32_t bits) { return same_bits<float>(bits & ~0x1fffu); }
    template <typename A, typename B>
    static void spread(int lane, const std::array<uint32_t, 4>& from_a, const std::array<uint32_t, 2>& from_b, A& a,
                       B& b) {
        const int group = lane >> 2, place = lane & 3;
        a[group][place] = value(from_a[0]);
        a[group + 8][place] = value(from_a[1]);
        a[group][place + 4] = value(from_a[2]);
        a[group + 8][place + 4] = value(from_a[3]);
        b[place][group] = value(from_b[0]);
        b[place + 4][group] = value(from_b[1]);
    }
};

struct PlaceHalf {
    static constexpr int kDepth = 16;

    static float value(uint32_t bits) { return ldp::half_value(static_cast<uint16_t>(bits & 0xffffu)); }
    template <typename A, typename B>
    static void spread(int lane, const std::array<uint32_t, 4>& from_a, const std::array<uint32_t, 2>& from_b, A& a,
                       B& b) {
        const int group = lane >> 2, place = lane & 3;
        for (int high = 0; high < 2; ++high) {
            const int k = 2 * place + high, by = 16 * high;
            a[group][k] = value(from_a[0] >> by);
            a[group + 8][k] = value(from_a[1] >> by);
            a[group][k + 8] = value(from_a[2] >> by);
            a[group + 8][k + 8] = value(from_a[3] >> by);
            b[k][group] = value(from_b[0] >> by);
            b[k + 8][group] = value(from_b[1] >> by);
        }
    }
};

template <typename Place, size_t kA, size_t kB>
std::array<float, 4> mma(const char* name, const std::array<uint32_t, kA>& a, const std::array<uint32_t, kB>& b,
                         const std::array<float, 4>& c) {
    Mma<kA, kB, Place> request{a, b, c};
    ::cuda_on_cpu::collective(name, 0xffffffffu, &request, &Mma<kA, kB, Place>::complete);
    return request.c;
}

inline std::array<float, 4> mma_m16n8k8_row_col_f32_tf32_tf32_f32(const std::array<uint32_t, 4>& a,
                                                                  const std::array<uint32_t, 2>& b,
                                                                  const std::array<float, 4>& c) {
    return mma<PlaceTf32>("mma.sync.m16n8k8", a, b, c);
}
inline std::array<float, 4> mma_m16n8k16_row_col_f32_f16_f16_f32(const std::array<uint32_t, 4>& a,
                                                                 const std::array<uint32_t, 2>& b,
                                                                 const std::array<float, 4>& c) {
    return mma<PlaceHalf>("mma.sync.m16n8k16", a, b, c);
}

}  // namespace ptx
