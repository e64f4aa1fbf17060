"""The page and the figures of docs/performance.md, from a folder's results, as one file: report.zip.

python -m benchmarks.gpu.page DIR
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

from benchmarks import report


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    out = Path((sys.argv[1:] if arguments is None else arguments)[0])
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        places = ["--page", str(folder / "performance.md"), "--images", str(folder / "images")]
        if status := report.main(["--results", str(out), *places]):
            return status
        part = out / ".report.zip.part"
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder))
        part.replace(out / "report.zip")
    return 0


if __name__ == "__main__":
    sys.exit(main())
