"""Names of files and folders made from prompts: allowed everywhere, the same everywhere, another for every prompt."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from ..errors import UsageError

# Characters of a prompt that a name shows, and digits of its digest where they are not all of it.
SHOWN, DIGITS = 40, 10
# Latin letters that Unicode does not take apart into a letter and its mark.
_LETTERS = str.maketrans({"æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i", "ß": "ss"})
# Devices on Windows, whatever follows after a dot.
_DEVICES = re.compile(r"con|prn|aux|nul|conin|conout|clock|com\d|lpt\d")
_LIKE_A_DIGEST = re.compile(rf"(.*-)?[0-9a-f]{{{DIGITS}}}")


def name_of(prompt: str) -> str:
    """A prompt as a name, or as part of one: ASCII, whatever the file system and the terminal take.

    Lower-case words joined by hyphens, such as `a-red-torus`, where they say all of the prompt. Where something is lost
    (capitals, marks, other scripts, what is beyond 40 characters), or the words alone would not be a name for a file
    (`con` on Windows), a digest of the prompt follows: `un-cafe-3b1f0c9a52`, `prompt-72726d8818` for what has no letter
    that can be shown. So different prompts have different names, except with a chance of 2⁻⁴⁰.

    Args:
        prompt: any text.

    Returns:
        1 to 51 characters of a–z, 0–9 and inner hyphens.
    """
    marked = unicodedata.normalize("NFKD", prompt.lower().translate(_LETTERS))
    plain = "".join(c for c in marked if not unicodedata.combining(c))
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    shown = words[:SHOWN].strip("-")
    whole = bool(shown) and shown.replace("-", " ") == prompt
    if whole and not _DEVICES.fullmatch(shown) and not _LIKE_A_DIGEST.fullmatch(shown):
        return shown
    digest = hashlib.sha256(prompt.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{shown or 'prompt'}-{digest[:DIGITS]}"


def former_slug(prompt: str) -> str:
    """What the prompt was in names before `name_of`: folders of that time are looked for under it."""
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:SHOWN] or "image"


def as_typed(prompt: str, argument: str) -> str:
    """A prompt from the command line as text, where the locale's encoding hid it from Python.

    Under `LC_ALL=C` without UTF-8 mode Python gets the bytes of other scripts as lone surrogates.

    Args:
        prompt: as it came.
        argument: its name, for the message.

    Raises:
        UsageError: its bytes are not UTF-8.
    """
    try:
        return prompt.encode("utf-8", "surrogateescape").decode("utf-8")
    except UnicodeError:
        raise UsageError(f"{argument}: expected text in UTF-8, got {prompt!a}") from None
