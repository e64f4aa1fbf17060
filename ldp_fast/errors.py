"""The error that means the caller asked for something that does not exist or cannot work; what other errors say."""

from __future__ import annotations


class UsageError(ValueError):
    """A name or a value that the user gave is wrong: an unknown model, preset, level, prompt or option.

    The message is one sentence that names the argument, what was expected and what came. The command line prints it
    without a traceback and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """The first line of what an error says, for a sentence of ours; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
