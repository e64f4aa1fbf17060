"""The error that means the caller asked for something that does not exist or cannot work; what other errors say."""

from __future__ import annotations

import errno


class UsageError(ValueError):
    """A name or a value that the user gave is wrong: an unknown model, preset, level, prompt or option.

    The message is one sentence that names the argument, what was expected and what came. The command line prints it
    without a traceback and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """The first line of what an error says, for a sentence of ours; its class where it says nothing or only a key.

    A line that ends in a colon is a heading: what comes below it belongs to it. What is long is cut.
    """
    kind = type(error).__name__
    if isinstance(error, OSError) and error.strerror:  # str() would begin with its number
        of = f": {shortened(str(error.filename))!r}" if error.filename else ""
        return f"{error.strerror}{of}"
    try:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    except Exception:  # somebody's own error may fail to say what it is
        return kind
    if not lines:
        return kind
    said = lines[0]
    for line in lines[1:5]:
        if not said.endswith(":"):
            break
        said = f"{said} {line}"
    return shortened(f"{kind}: {said}" if isinstance(error, LookupError) else said, 400)


def shortened(text: str, most: int = 60) -> str:
    """The beginning of a text, for a sentence."""
    return text if len(text) <= most else text[: most - 1] + "…"


def of_memory(error: BaseException) -> bool:
    """Whether an error says that there is not enough memory: torch's on a CPU is a plain RuntimeError."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True  # the second is torch's, and torch may not be loaded here
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = ("out of memory", "can't allocate memory", "Cannot allocate memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
