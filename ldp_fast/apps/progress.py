"""Progress bars of work on pictures."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(total: int, name: str, unit: str, shown: bool = True) -> Iterator[Callable[[float], None]]:
    """A progress bar with rate and remaining time on stderr, where there is something to do; gives what advances it."""
    if not shown or not total:
        yield lambda count: None
        return
    from tqdm import tqdm

    # Of what is counted by shares of one thing a rate says nothing.
    form = None if unit else "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    with tqdm(total=total, desc=name, unit=unit, bar_format=form) as made:

        def advance(done: float) -> None:
            made.update(done)

        try:
            yield advance
        except BaseException:
            made.leave = False  # so that the line that says why stands alone
            raise
