"""What the extra ``lab`` does where nothing of the others is installed."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from shared import absent, import_all

from trainact import cli


def imports() -> None:
    """Import every module of the extra."""
    absent("jax", "monai", "segmentation_models_pytorch", "transformers")
    import_all("lab")


def smoke() -> None:
    """Compare on the embedded images, and list the recipes."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--model", "mlp", "--epochs", "1", "--seeds", "0", "--out", folder]
        code = cli.main(["compare", *arguments])
        assert code == 0, code
        lines = (Path(folder) / "records.jsonl").read_text().splitlines()
        methods = {json.loads(line)["config"]["method"] for line in lines}
        assert methods == {"vanilla", "tract"}, methods
        assert (Path(folder) / "curves.png").stat().st_size > 0
    assert cli.main(["recipes"]) == 0


if __name__ == "__main__":
    imports()
    smoke()
