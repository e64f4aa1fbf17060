"""The error that means the caller asked for something that does not exist or cannot work; what other errors say."""

from __future__ import annotations


class UsageError(ValueError):
    """A name or a value that the user gave is wrong: an unknown model, preset, level, prompt or option.

    The message is one sentence that names the argument, what was expected and what came. The command line prints it
    without a traceback and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """The first line of what an error says, for a sentence of ours; its class where it says nothing or only a key.

    A line that ends in a colon is a heading: what comes below it belongs to it.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = lines[0]
    for line in lines[1:]:
        if not said.endswith(":"):
            break
        said = f"{said} {line}"
    return f"{type(error).__name__}: {said}" if isinstance(error, LookupError) else said
