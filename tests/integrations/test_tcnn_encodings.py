"""tiny-cuda-nn's encodings without tables: against loops, integrals and orthonormality."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import ldp_fast.tinycudann as tcnn


def test_frequency() -> None:
    x = torch.rand(4, 2)
    out = tcnn.Encoding(2, {"otype": "Frequency", "n_frequencies": 3})(x)
    expected = [
        [wave(math.pi * 2**f * float(v)) for v in row for f in range(3) for wave in (math.sin, math.cos)] for row in x
    ]
    torch.testing.assert_close(out, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_triangle_wave_and_identity() -> None:
    x = torch.rand(6, 2)
    out = tcnn.Encoding(2, {"otype": "TriangleWave", "n_frequencies": 4})(x)
    places = [[float(v) * 2.0 ** (f - 1) + f / 4 for v in row for f in range(4)] for row in x]
    expected = [[abs(p - math.floor(p) - 0.5) * 4 - 1 for p in row] for row in places]
    torch.testing.assert_close(out, torch.tensor(expected), rtol=1e-5, atol=1e-5)
    identity = tcnn.Encoding(2, {"otype": "Identity", "scale": 2.0, "offset": -1.0})
    torch.testing.assert_close(identity(x), x * 2 - 1)


def test_one_blob() -> None:
    """Each bin holds the kernel's mass in it: integrated by small steps, wrapped around."""
    x = torch.tensor([[0.02], [0.4], [0.99]])
    out = tcnn.Encoding(1, {"otype": "OneBlob", "n_bins": 8})(x)
    fine = torch.linspace(-1, 2, 24 * 400 + 1, dtype=torch.float64)[:-1] + 1 / 6400
    u = (fine - x.double()) * 8
    mass = (15 / 16 * (1 - u**2).clamp(min=0) ** 2 * 8 / 3200).view(3, 3, 8, 400).sum((1, 3))
    torch.testing.assert_close(out.double(), mass, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(out.sum(1), torch.ones(3))


def test_spherical_harmonics_are_orthonormal_and_signed_as_there() -> None:
    steps = 64
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    phi = torch.arange(steps) * (2 * math.pi / steps)
    z, phi = torch.meshgrid(torch.tensor(nodes), phi.double(), indexing="ij")
    r = (1 - z**2).sqrt()
    directions = torch.stack([r * phi.cos(), r * phi.sin(), z], -1).view(-1, 3)
    module = tcnn.Encoding(3, {"otype": "SphericalHarmonics", "degree": 8}).double()
    out = module((directions + 1) / 2)
    area = torch.tensor(weights)[:, None].expand(steps, steps).reshape(-1, 1) * (2 * math.pi / steps)
    torch.testing.assert_close(out.T @ (out * area), torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-6)
    x, y, z = (torch.tensor([0.36, -0.48, 0.8], dtype=torch.float64)).unbind()
    found = module(((torch.stack([x, y, z]) + 1) / 2)[None])[0]
    # As in the paper on efficient evaluation that tiny-cuda-nn names: odd orders have a minus.
    expected = {0: 0.2820948, 1: -0.4886025 * y, 2: 0.4886025 * z, 3: -0.4886025 * x, 4: 1.0925484 * x * y}
    expected |= {6: 0.9461747 * z * z - 0.3153916, 8: 0.5462742 * (x * x - y * y), 11: 0.4570458 * y * (1 - 5 * z * z)}
    expected |= {14: 1.4453057 * z * (x * x - y * y), 15: 0.5900436 * x * (3 * y * y - x * x)}
    for index, value in expected.items():
        assert float(found[index]) == pytest.approx(float(value), abs=1e-6), index
