"""genrec on Ray Serve: the same application as `genrec serve`, as replicas over machines.

    pip install "genrec[serve]" "ray[serve]>=2.47"        # on every machine
    GENREC_API_KEY=... serve run recipes.serve.ray_serve:app recipe=recipes/demo.yaml replicas=2 cpus=2
    ... overrides="runtime.store=/mnt/store" engine=vllm gpus=1

The recipe and its store must lie at the same path everywhere (a shared disk, or a copy). A replica opens
them when it starts and batches what reaches it; Ray spreads requests and queues none beyond
`max_ongoing_requests`. Reload by deploying again: POST /admin/reload would reach one replica only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray import serve

if TYPE_CHECKING:
    from fastapi import FastAPI
    from ray.serve import Application


def app(args: dict[str, str]) -> Application:
    """Makes the Ray application.

    Args:
        args: `recipe`, and optionally `overrides` (separated by spaces), `engine`, `replicas`, `cpus`
            and `gpus` of each.
    """
    recipe, overrides = args["recipe"], tuple(args.get("overrides", "").split())
    engine = args.get("engine")

    def build() -> FastAPI:  # runs in the replica
        from genrec.serve.app import create_app
        from genrec.serve.command import opener, read_key
        from genrec.serve.models import ModelRegistry
        from genrec.serve.settings import Settings

        settings = Settings(key=read_key(None))
        return create_app(ModelRegistry(opener(recipe, overrides, engine, ()), settings), settings)

    deployment = serve.deployment(
        serve.ingress(build)(),
        name="genrec",
        num_replicas=int(args.get("replicas", 1)),
        max_ongoing_requests=128,
        graceful_shutdown_timeout_s=40,
        ray_actor_options={
            "num_cpus": float(args.get("cpus", 1)),
            "num_gpus": float(args.get("gpus", 0)),
        },
    )
    return deployment.bind()
