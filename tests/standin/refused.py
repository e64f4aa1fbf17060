"""What the stand-in cannot run, by name, with the reason. A test holds the list to what it is."""

from __future__ import annotations

_TIMES = "it times a device"

REFUSED: dict[str, str] = {
    "benchmarks/test_memory.py::test_a_known_allocation_is_seen_on_a_gpu": "it asks a device's allocator for its peak",
    "csrc/test_current_stream.py::test_it_is_torch_s_current_stream": "it asks what only a torch with CUDA has",
    "ops/test_feature_matching_gpu.py::test_runs_at_half_of_a_copy_s_bandwidth_or_more": _TIMES,
    "benchmarks/test_microbenchmarks.py::test_rates_are_within_reason": _TIMES,
}


def reason(nodeid: str) -> str | None:
    """Returns why a test cannot run on the stand-in, or None."""
    name = nodeid.split("[", 1)[0]
    return REFUSED.get(name.removeprefix("tests/"))
