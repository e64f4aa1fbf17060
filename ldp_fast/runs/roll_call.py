"""Which ranks are there: at the start, and when one is lost.

Collectives say only that something broke, and at the start they say it after half an hour. So the ranks first meet in
a key-value store, where each enters its name, and call the roll there again when a collective fails.
"""

from __future__ import annotations

import datetime
import itertools
import os
import socket
import sys
import time
from collections.abc import Sequence

import torch.distributed as dist

from ..errors import UsageError
from .ranks import WAIT_VARIABLE, how_to_be_alone, read_address, read_wait

# Seconds: between two looks, until a waiting rank says so, and for an answer when another is lost.
LOOK, PATIENCE, ANSWER = 0.1, 5.0, 3.0
# Of the roll calls of one process; each has keys of its own, for the store may outlive a run.
_numbers = itertools.count()


def listed(ranks: Sequence[int]) -> str:
    """`rank 1`, `ranks 1 and 2`, `ranks 1, 2 and 5`."""
    words = [str(rank) for rank in ranks]
    several = " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
    return f"rank{'s' * (len(words) > 1)} {several}"


class RollCall:
    """The ranks of a run, and a store in which each of them can be asked whether it is there.

    Args:
        rank, world: of this process.

    Attributes:
        store: what the process group is made from.

    Raises:
        UsageError: a rank did not come in time; names it, and what is set.
    """

    def __init__(self, rank: int, world: int):
        self.rank, self.world = rank, world
        self._deadline = time.monotonic() + read_wait()
        self._patience = time.monotonic() + PATIENCE
        address, port = read_address()
        # Under torchrun its agent keeps the store; else the first rank does.
        keeper = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
        self._place = ("localhost" if keeper else address), port
        if not keeper:
            self._wait_for_store()
        try:
            # The keeper's own connection needs no name that the network knows.
            self._store = dist.TCPStore(
                *self._place,
                world,
                keeper,
                datetime.timedelta(seconds=max(1.0, self._deadline - time.monotonic())),
                wait_for_workers=False,
                multi_tenant=True,
                use_libuv=os.environ.get("USE_LIBUV", "1") == "1",
            )
        except (ValueError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            raise UsageError(
                f"MASTER_PORT: the ranks cannot meet at {address}:{port}: {reason} ({how_to_be_alone()})"
            ) from None
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        self._keys = f"ldp_fast/{attempt}/{next(_numbers)}"
        self.store = dist.PrefixStore(f"{self._keys}/group", self._store)
        self._store.set(f"{self._keys}/name/{rank}", f"process {os.getpid()} on {socket.gethostname()}")
        missing = list(range(world))
        while missing := [r for r in missing if not self._store.check([f"{self._keys}/name/{r}"])]:
            self._wait(missing)
        self._names = [self._store.get(f"{self._keys}/name/{r}").decode() for r in range(world)]

    def _look(self, seconds: float) -> str:
        """Why the store's place does not answer, empty where it does.

        By hand: the store's own attempts print a stack each, and go on beyond their time.
        """
        try:
            with socket.create_connection(self._place, timeout=max(LOOK, seconds)):
                return ""
        except OSError as error:
            return (error.strerror or str(error)).lower()

    def _wait_for_store(self) -> None:
        while reason := self._look(min(PATIENCE, self._deadline - time.monotonic())):
            address, port = self._place
            self._wait([0], f": {address}:{port}, where the ranks meet, does not answer ({reason})")

    def _wait(self, missing: Sequence[int], reason: str = "") -> None:
        now = time.monotonic()
        if now >= self._deadline:
            raise UsageError(
                f"this is rank {self.rank} of {self.world}, and {listed(missing)} did not come within "
                f"{read_wait():g} s{reason}; {how_to_be_alone()}, else start all with torchrun; {WAIT_VARIABLE} gives "
                "slow ones more time"
            )
        if now >= self._patience:
            self._patience = self._deadline + 1.0
            print(f"rank {self.rank} waits for {listed(missing)}, {read_wait():g} s in all", file=sys.stderr)
        time.sleep(LOOK)

    def lost(self) -> str:
        """Asks who is still there, after a collective has failed; takes a few seconds.

        Returns:
            Who is not, such as `rank 1 of 2 (process 4711 on host) is gone`; empty where all answer.
        """
        missing = [r for r in range(self.world) if r != self.rank]
        deadline, away = time.monotonic() + ANSWER, ""
        time.sleep(5 * LOOK)  # a process that is ending closes one connection after the other
        try:
            while missing and time.monotonic() < deadline and not (away := self._look(1.0)):
                self._store.set(f"{self._keys}/lost/{self.rank}", "")
                missing = [r for r in missing if not self._store.check([f"{self._keys}/lost/{r}"])]
                time.sleep(LOOK)
        except RuntimeError as error:  # the store may go between the look and the question
            away = str(error)
        if away and 0 in missing:
            missing = [0]  # who keeps the store and is still there waits for the answers
        if not missing:
            return ""
        names = ", ".join(self._names[r] for r in missing)
        return f"{listed(missing)} of {self.world} ({names}) {'is' if len(missing) == 1 else 'are'} gone"
