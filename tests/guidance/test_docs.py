"""The Python of the prior's page runs as it stands, one snippet after another, as a reader would type it."""

from __future__ import annotations

import pathlib
import re
from typing import Any

from ..support.models import scheduler, tiny_text_encoder, tiny_tokenizer, tiny_unet, tiny_vae

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "prior.md"


def test_snippets_run(tmp_path: pathlib.Path) -> None:
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    assert len(snippets) >= 5
    # "The models a host already holds".
    names: dict[str, Any] = {"unet": tiny_unet(), "vae": tiny_vae(), "scheduler": scheduler()}
    names |= {"tokenizer": tiny_tokenizer(tmp_path), "text_encoder": tiny_text_encoder()}
    host = {"prior", "text"}
    for index, snippet in enumerate(snippets):
        kept = {name: names[name] for name in host if name in names}
        exec(compile(snippet, f"{PAGE.name}, snippet {index}", "exec"), names)
        # The other snippets go on with the embedded model of the first.
        names |= kept
    assert names["compiled"].unet is not names["prior"].unet
    assert names["faster"].precision is not None
    assert names["step"].captured == (names["prior"].device.type == "cuda"), names["step"].reason
