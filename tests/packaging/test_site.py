"""The documentation as a site: it builds without a warning, and every public name is in its reference."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import subprocess
import sys
import types
import zlib
from pathlib import Path

import pytest

from .installation import ROOT

pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
pytest.importorskip("mkdocstrings", reason="the extra `docs` is not installed")

ROOMS = ("losses", "decoder", "nerf", "guidance", "clip", "metrics")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def hooks() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("documentation_site", ROOT / "docs" / "site.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_there(site: Path) -> None:
    pages = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert all((site / page).is_file() for page in pages)
    assert all((site / f"{name}.html").is_file() for name in ("changelog", "contributing", "model_card"))
    assert not list(site.rglob("*.py"))


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    described = {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}
    for room in ROOMS:
        module = importlib.import_module(f"ldp_fast.{room}")
        for name in module.__all__:
            if callable(getattr(module, name)):  # constants have no docstring of their own
                assert {f"ldp_fast.{room}.{name}", f"ldp_fast.{name}"} & described, name


def warnings_of(page: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> str:
    """What mkdocs says against index.md when it is this page, with the settings of mkdocs.yml."""
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(page, encoding="utf-8")
    settings = load_config(
        str(ROOT / "mkdocs.yml"),
        docs_dir=str(tmp_path / "docs"),
        site_dir=str(tmp_path / "site"),
        nav=["index.md", "changelog.md", "contributing.md", "model_card.md"],
        plugins=[],
        strict=False,
    )
    with caplog.at_level(logging.WARNING, logger="mkdocs"):
        build(settings)
    return "\n".join(said for record in caplog.records if "'index.md'" in (said := record.getMessage()))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("# A\n[there](nowhere.md)", "nowhere.md"),
        ("# A\n[there](changelog.md#nowhere)", "#nowhere"),
        ("# A\n[there](#nowhere)", "#nowhere"),
        ("# A\n[there](../nowhere.md)", "../nowhere.md"),
        ("# A\n![there](images/nowhere.png)", "nowhere.png"),
    ],
)
def test_what_leads_nowhere_is_a_warning(
    page: str, said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert said in warnings_of(page, tmp_path, caplog)


def test_what_leads_somewhere_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    page = "# A\n## B\n[there](#b) [and there](../CHANGELOG.md#unreleased)\n"
    assert warnings_of(page, tmp_path, caplog) == ""


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("index.md", "[a](../CHANGELOG.md#x)", "[a](changelog.md#x)"),
        ("api/index.md", "[a](../../CONTRIBUTING.md)", "[a](../contributing.md)"),
        ("contributing.md", "[a](docs/architecture.md)", "[a](architecture.md)"),
        ("model_card.md", "[a](../../../docs/embedded_model.md#x)", "[a](embedded_model.md#x)"),
        ("contributing.md", "see [a.py](docs/site.py)", "see [a.py](site.py)"),
        ("contributing.md", "see [a](tests/conftest.py)", "see a"),
        ("index.md", "[a](prior.md) ![b](images/torus.png)", "[a](prior.md) ![b](images/torus.png)"),
        ("index.md", "[a](../nowhere.md) [b](https://x.y/z.md)", "[a](../nowhere.md) [b](https://x.y/z.md)"),
    ],
)
def test_links_are_turned_to_the_site(hooks: types.ModuleType, name: str, text: str, wanted: str) -> None:
    assert hooks.turned(text, name) == wanted


def test_arguments_described_together_are_described_one_by_one(hooks: types.ModuleType) -> None:
    given = "What.\n\nArgs:\n    a, *b, **c: some\n        text, and: more\n    d: other"
    shared = "some\n        text, and: more\n"
    wanted = f"What.\n\nArgs:\n    a: {shared}    *b: {shared}    **c: {shared}    d: other"
    assert hooks.one_by_one(given) == wanted
