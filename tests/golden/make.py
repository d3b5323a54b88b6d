"""Write `starter.json`: what the starter profile says of the example images, to compare later builds with.

Run it from the project's root after a change that is meant to change values, look at the difference, and commit it with
the reason:

    python tests/golden/make.py [HOST:PORT]

Without an address it starts an embedded server in a folder of its own and stops it afterwards. It needs the folder
`shared` beside the checkout.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from imgeval import Client

GOLDEN = Path(__file__).parent / "starter.json"
ASSETS = Path(__file__).parents[3] / "shared" / "assets"


def examples(assets: Path) -> list[tuple[Path, str]]:
    """(image, its prompt), in the order of `prompts.json`."""
    listed = json.loads((assets / "prompts.json").read_text(encoding="utf-8"))["images"]
    return [(assets / entry["file"], entry["prompt"]) for entry in listed]


def measure(client: Client, assets: Path) -> dict[str, Any]:
    """Raw values and score of every example image with its prompt, and the models that made them."""
    results = [client.score(image, prompt) for image, prompt in examples(assets)]
    return {
        "models": {name: metric.model for name, metric in results[0].metrics.items()},
        "images": {
            Path(result.image).name: {
                "score": result.score,
                "raw": {name: metric.raw for name, metric in result.metrics.items()},
            }
            for result in results
        },
    }


def main() -> None:
    if len(sys.argv) > 1:
        with Client(sys.argv[1]) as client:
            content = measure(client, ASSETS)
    else:
        from imgeval.embedded import server
        from imgeval.embedded.launch import launch

        with tempfile.TemporaryDirectory() as home:
            os.environ["IMGEVAL_HOME"] = home
            running = launch("starter", progress=print)
            try:
                with Client(running.url) as client:
                    content = measure(client, ASSETS)
            finally:
                server.stop(running)
    GOLDEN.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"written: {GOLDEN}")


if __name__ == "__main__":
    main()
