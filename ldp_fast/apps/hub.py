"""Names of models on the hub: whether the hub can be reached is asked before a library tries for half a minute."""

from __future__ import annotations

import os
import pathlib
import socket
import threading
import urllib.parse
import urllib.request

from ..errors import UsageError, reason, shortened
from ..guidance.loading import embedded_models

# Until a connection is there; a name server that does not answer is not waited for any longer either.
SECONDS = 4.0
_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


def reachable(argument: str, name: str, file: str) -> str:
    """What a model is loaded by: its name, or its folder in the hub's cache where the hub cannot be asked for it.

    By its name the hub is asked for each file, and asked again and again without a network.

    Args:
        argument: that named it.
        name: an embedded model, a path, or a hub name, which alone is looked at.
        file: at the top of the model, by which it is known to be in the cache.

    Raises:
        UsageError: a path that does not exist; a hub name, and no network.
        ModuleNotFoundError: huggingface_hub is not installed.
    """
    try:
        if name in embedded_models() or pathlib.Path(name).expanduser().exists():
            return name
    except (OSError, ValueError):  # longer than a name may be, or with a zero byte
        raise UsageError(f"{argument}: expected a path, got {shortened(name)!r}") from None
    if name.startswith((".", "~", "/")) or name.count("/") > 1 or not name:
        raise UsageError(f"{argument}: there is no folder {name!r}")
    from huggingface_hub import try_to_load_from_cache

    try:
        held = try_to_load_from_cache(name, file)
    except ValueError:
        raise UsageError(
            f"{argument}: {name!r} is neither an embedded model ({', '.join(embedded_models())}), nor a folder, nor a "
            "hub name (owner/name)"
        ) from None
    cached = pathlib.Path(held).parent if isinstance(held, str) else None
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    offline = next((v for v in _OFFLINE if os.environ.get(v, "").lower() in ("1", "on", "yes", "true")), None)
    why = unreachable(hub) if offline is None else offline
    if why is None:
        return name
    if cached is not None:
        return str(cached)
    if offline is not None:
        raise UsageError(f"{argument}: {name!r} is not in the cache of {hub}, and {offline} forbids fetching it")
    raise UsageError(
        f"{argument}: {name!r} would have to be fetched from {hub}, but the network does not lead there ({why}): "
        "give a folder"
    )


def unreachable(address: str) -> str | None:
    """Why a web address, or the proxy on the way to it, does not answer; None where it does."""
    url = urllib.parse.urlsplit(address)
    proxy = urllib.request.getproxies().get(url.scheme)
    if proxy and url.hostname and not urllib.request.proxy_bypass(url.hostname):
        url = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    host, port = url.hostname or "", url.port or (80 if url.scheme == "http" else 443)
    found: list[str | None] = []

    def connect() -> None:
        try:
            socket.create_connection((host, port), timeout=SECONDS).close()
            found.append(None)
        except OSError as error:
            found.append(reason(error))

    # A name server is asked without a limit that could be set.
    asking = threading.Thread(target=connect, daemon=True)
    asking.start()
    asking.join(SECONDS)
    return found[0] if found else f"{host} did not answer within {SECONDS:g} s"
