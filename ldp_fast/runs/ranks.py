"""What the environment says about the processes that one command was started as (torchrun, accelerate)."""

from __future__ import annotations

import math
import os

from ..errors import UsageError

# Seconds that ranks wait for each other at the start.
WAIT_VARIABLE, WAIT = "LDP_FAST_RANKS_SECONDS", 20.0
# What torchrun sets, as far as it leads a single process astray when it is left over.
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE")


def read_ranks() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) where RANK and WORLD_SIZE are not set.

    Raises:
        UsageError: one of them is missing, or they do not go together.
    """
    words = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE") if os.environ.get(name)}
    if not words or words == {"WORLD_SIZE": "1"}:
        return 0, 1
    try:
        rank, world = int(words["RANK"]), int(words["WORLD_SIZE"])
    except (KeyError, ValueError):
        rank, world = -1, 0
    if not 0 <= rank < world:
        said = " and ".join(words.get(name, "nothing") for name in ("RANK", "WORLD_SIZE"))
        raise UsageError(
            f"RANK, WORLD_SIZE: expected numbers with 0 <= RANK < WORLD_SIZE, as torchrun sets them, got {said}: "
            f"{how_to_be_alone()}"
        )
    return rank, world


def read_address() -> tuple[str, int]:
    """Where the ranks meet.

    Raises:
        UsageError: MASTER_ADDR or MASTER_PORT is missing, or is not a port.
    """
    address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not address or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise UsageError(
            f"MASTER_ADDR, MASTER_PORT: expected where the ranks meet, as torchrun sets them, got "
            f"{address or 'nothing'} and {port or 'nothing'}: {how_to_be_alone()}"
        )
    return address, int(port)


def read_wait() -> float:
    """Seconds that ranks wait for each other at the start.

    Raises:
        UsageError: the variable is not a positive number.
    """
    word = os.environ.get(WAIT_VARIABLE, "").strip() or str(WAIT)
    try:
        seconds = float(word)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(f"{WAIT_VARIABLE}: expected a positive number of seconds, got {word!r}")
    return seconds


def how_to_be_alone() -> str:
    """Which of these variables are set, and what to do if there is no other process."""
    found = [name for name in VARIABLES if os.environ.get(name)]
    said = " ".join(f"{name}={os.environ[name]}" for name in found)
    are = "is" if len(found) == 1 else "are"
    return f"{said} {are} set; if there is no other process, `unset {' '.join(found)}`"


def check_alone(command: str) -> None:
    """Checks that a command that works in one process was not started as several, which would write the same files.

    Raises:
        UsageError: it was, or the variables say so.
    """
    world = os.environ.get("WORLD_SIZE", "")
    if world.isdecimal() and int(world) > 1:
        raise UsageError(
            f"{command} works in one process, and this is one of {world} that would write the same files: start it "
            f"without torchrun ({how_to_be_alone()})"
        )
