"""Text for terminals that cannot show all of it: an ASCII locale, an old code page."""

from __future__ import annotations

import codecs
import io
import shlex
import sys
from collections.abc import Sequence

# What reads as well in ASCII; every other character that cannot be shown becomes its escape, such as \u7403.
PLAIN = {
    **{"…": "...", "−": "-", "–": "-", "—": "-", "·": "*", "×": "x", "±": "+/-", "°": " deg", "√": "sqrt"},
    **{"≤": "<=", "≥": ">=", "≈": "~", "→": "->", "←": "<-", "∞": "inf", "′": "'", "‖": "||", "§": "section "},
    **{"⁻": "^-", "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁴": "^4", "⁵": "^5", "⁶": "^6", "⁸": "^8"},
    **{"₀": "_0", "₁": "_1", "₂": "_2", "λ": "lambda", "α": "alpha", "ᾱ": "alpha_bar", "σ": "sigma", "ε": "eps"},
    **{"β": "beta", "δ": "delta", "θ": "theta", "μ": "mu", "π": "pi", "ρ": "rho", "τ": "tau", "Σ": "sum"},
    **{"“": '"', "”": '"', "‘": "'", "’": "'", "½": "1/2"},
}
HANDLER = "ldp_fast_plain"


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file's name that Python could not read either
        return bytes([code - 0xDC00]), error.start + 1
    escape = character.encode("ascii", "backslashreplace").decode()
    return PLAIN.get(character, escape), error.start + 1


def make_printable() -> None:
    """Lets this process's standard streams print any text. For a program's start: a host's streams are its own."""
    codecs.register_error(HANDLER, _replace)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def ask(question: str) -> str | None:
    """The answer of whoever sits at the terminal; None where nobody does."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stderr and sys.stderr.isatty()):
        return None
    print(question, end=" ", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower()


def quoted(words: Sequence[str]) -> str:
    """Words as they are typed in a shell, in double quotes where they need some."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    safe = shlex.quote(word)
    return f'"{word}"' if safe != word and not set(word) & set('"$`\\!') else safe
