// Where the cells of an occupancy grid are: K cascades of res^3 cells, each in Morton order, x in the lowest bit.
//
// Cascade k is the outermost box scaled about its centre by 2^(k - K + 1). A point is first given a place in a uniform
// grid of the finest cells, res * 2^(K-1) along an axis, and everything after that is whole numbers: the cascades nest
// exactly.
#pragma once

#include <ldp/host_device.h>

namespace ldp {

constexpr int kMaxLog2Resolution = 10;
constexpr int kMaxCascades = 8;

struct GridGeometry {
    float lower[3];           // of the outermost box
    float upper[3];           // of the outermost box
    float cells_per_unit[3];  // finest cells in a unit of length
    float cell_size[3];       // length of the finest cell
    int log2_resolution;      // of res: a power of two from 4 to 1024
    int cascades;             // K
};

// box: the lower corner, then the upper one. Quotients in double, rounded once, as the reference has them.
inline GridGeometry grid_geometry(const double* box, int log2_resolution, int cascades) {
    GridGeometry grid{};
    const double finest = static_cast<double>(int64_t{1} << (log2_resolution + cascades - 1));
    for (int d = 0; d < 3; ++d) {
        grid.lower[d] = static_cast<float>(box[d]);
        grid.upper[d] = static_cast<float>(box[d + 3]);
        grid.cells_per_unit[d] = static_cast<float>(finest / (box[d + 3] - box[d]));
        grid.cell_size[d] = static_cast<float>((box[d + 3] - box[d]) / finest);
    }
    grid.log2_resolution = log2_resolution;
    grid.cascades = cascades;
    return grid;
}

// Spreads 10 bits so that two zeros follow each.
LDP_HOST_DEVICE uint32_t morton_spread(uint32_t x) {
    x = (x | (x << 16)) & 0x030000FFu;
    x = (x | (x << 8)) & 0x0300F00Fu;
    x = (x | (x << 4)) & 0x030C30C3u;
    return (x | (x << 2)) & 0x09249249u;
}

LDP_HOST_DEVICE uint32_t morton_gather(uint32_t x) {
    x &= 0x09249249u;
    x = (x | (x >> 2)) & 0x030C30C3u;
    x = (x | (x >> 4)) & 0x0300F00Fu;
    x = (x | (x >> 8)) & 0x030000FFu;
    return (x | (x >> 16)) & 0x000003FFu;
}

LDP_HOST_DEVICE uint32_t morton(uint32_t x, uint32_t y, uint32_t z) {
    return morton_spread(x) | morton_spread(y) << 1 | morton_spread(z) << 2;
}

// Place of a coordinate among the finest cells along axis d; what lies outside belongs to the cell at the edge.
LDP_HOST_DEVICE int grid_place(const GridGeometry& grid, int d, float x) {
    const int finest = 1 << (grid.log2_resolution + grid.cascades - 1);
    const float at = mul_rn(sub_rn(x, grid.lower[d]), grid.cells_per_unit[d]);
    // At least 0, so that the conversion, which cuts off, rounds down.
    return static_cast<int>(smaller(larger(at, 0.0f), static_cast<float>(finest - 1)));
}

// Whole finest cells between a place and the centre: a place is in cascade k if it is less than res/2 * 2^k away.
LDP_HOST_DEVICE int grid_distance(int place, int centre) {
    return place >= centre ? place - centre : centre - 1 - place;
}

// The cell of the finest cascade that contains a place: index into [K, res^3].
LDP_HOST_DEVICE int64_t grid_cell(const GridGeometry& grid, int x, int y, int z) {
    const int half = 1 << (grid.log2_resolution - 1);
    const int centre = half << (grid.cascades - 1);
    const int away = larger(grid_distance(x, centre), larger(grid_distance(y, centre), grid_distance(z, centre)));
    int cascade = 0;
    for (int k = 0; k + 1 < grid.cascades; ++k) cascade += away >= half << k;
    const int start = centre - (half << cascade);
    const uint32_t code =
        morton(static_cast<uint32_t>((x - start) >> cascade), static_cast<uint32_t>((y - start) >> cascade),
               static_cast<uint32_t>((z - start) >> cascade));
    return (static_cast<int64_t>(cascade) << (3 * grid.log2_resolution)) + code;
}

// A point of a cell along axis d, given its index there and where it is inside, from 0 to 1.
LDP_HOST_DEVICE float grid_point(const GridGeometry& grid, int d, int cascade, uint32_t index, float inside) {
    const int centre = 1 << (grid.log2_resolution + grid.cascades - 2);
    const int start = centre - (1 << (grid.log2_resolution - 1 + cascade)) + static_cast<int>(index << cascade);
    const float at = add_rn(static_cast<float>(start), mul_rn(inside, static_cast<float>(1 << cascade)));
    return smaller(add_rn(grid.lower[d], mul_rn(at, grid.cell_size[d])), grid.upper[d]);
}

}  // namespace ldp
