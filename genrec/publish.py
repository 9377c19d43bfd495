"""What `genrec publish` does: a trained model to a folder in the hub's form, and to the hub if asked."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from genrec import recipe as recipes
from genrec.bundle import PROFILE, SET_WEIGHTS
from genrec.data.formats.interchange import read_index
from genrec.environment import changed
from genrec.lm.card import Facts, model_card
from genrec.lm.compose import prompt_in_sets
from genrec.lm.context import UserProfile
from genrec.lm.meaning import SIDS_FILE, write_sids
from genrec.pipeline import Pipeline
from genrec.recommender import Recommender
from genrec.sid import SIDSets
from genrec.sid.sets import file_of, further_files
from genrec.weights import gguf_files, on_hub

log = logging.getLogger(__name__)
SETTINGS_FILE = "genrec.json"
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def publish(
    pipeline: Pipeline,
    out: str | Path,
    *,
    what: Literal["model", "adapter"] = "model",
    push_to: str | None = None,
    private: bool = True,
) -> list[Path]:
    """Writes a trained model with its card, its items' SIDs and its recipe.

    Args:
        pipeline: whose store to read; its train stage has run.
        out: a new or empty folder.
        what: `model` is whole, with its adapter; `adapter` is that alone, on its base.
        push_to: a name on the hub, `owner/name`; without it nothing leaves this machine.
        private: whether a repository that is made there is.

    Returns:
        The files.

    Raises:
        MissingArtifact: train has not been run; names the command.
        FileExistsError: the folder holds something.
        ValueError: `what` is adapter, and the model has none.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: holds something already; choose another --out")
    trained = pipeline["train"]
    if what == "adapter" and not (trained / "adapter").is_dir():
        raise ValueError(
            f"'{pipeline.recipe.name}' has no adapter, for its train.model is tuned whole; publish "
            "the model"
        )
    out.mkdir(parents=True, exist_ok=True)
    _copy_model(pipeline, out, what)
    item_ids = pipeline["prepare"].load("items.parquet")["item_id"].to_list()
    for number, sids in enumerate(SIDSets.load(pipeline["quantize"].path)):
        write_sids(out / file_of(number, suffix="json"), item_ids, sids)
    _write_json(out / SETTINGS_FILE, _settings(pipeline))
    card = model_card(_facts(pipeline, what), place=push_to or str(out))
    (out / "README.md").write_text(card, encoding="utf-8")
    if push_to is not None:
        _push(out, push_to, private=private)
    return sorted(path for path in out.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Published:
    """A published model, ready to recommend.

    Attributes:
        recommender: the model and the catalogue's SIDs, in all sets.
        item_ids: the owner's names of the items, in the order of the SIDs.
        prompt: how histories become prompts.
        user_profile: how prompts say who the user is; None where they do not.
    """

    recommender: Recommender
    item_ids: list[str]
    prompt: Mapping[str, Any]
    user_profile: UserProfile | None = None

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        user_attributes: Sequence[Mapping[str, Any]] | None = None,
        k: int = 10,
        num_beams: int = 50,
    ) -> list[list[str]]:
        """Returns each user's next items, best first, none of which is in the history.

        Args:
            histories: item ids, oldest first.
            user_attributes: who each of the users is, as in `{"country": "DE"}`; {} or None: not said.
            k: how many.
            num_beams: of the search.

        Raises:
            KeyError: an item that the model does not know.
            ValueError: attributes that its prompts do not say, or not as many users as histories.
        """
        number = {item_id: index for index, item_id in enumerate(self.item_ids)}
        if unknown := {item for history in histories for item in history} - set(number):
            raise KeyError(f"{sorted(unknown)[:3]}: no items of this model; see {SIDS_FILE}")
        seen = [[number[item] for item in history] for history in histories]
        sets = [*self.recommender.sets]
        profiles = self._profiles(user_attributes, len(seen))
        prompts: list[Any] = [
            prompt_in_sets(sets, items, profile=profile, **self.prompt)
            for items, profile in zip(seen, profiles, strict=True)
        ]
        lists = self.recommender.recommend(prompts, k=k, num_beams=num_beams, exclude=seen)
        return [[self.item_ids[item] for item in row if item >= 0][:k] for row in lists.items]

    def _profiles(
        self, attributes: Sequence[Mapping[str, Any]] | None, users: int
    ) -> list[str | None]:
        if attributes is None:
            return [None] * users
        if self.user_profile is None:
            raise ValueError("user_attributes: the prompts of this model say nothing of users")
        if len(attributes) != users:
            raise ValueError(
                f"user_attributes: of {len(attributes)} users, and there are {users} histories; "
                "expected one for each"
            )
        return [self.user_profile.said(own) for own in attributes]


def open_published(place: str | Path) -> Published:
    """Opens what `publish` wrote.

    Args:
        place: the folder, or the model's name on the hub.

    Raises:
        FileNotFoundError: it holds no SIDs; it was not published by genrec.
        ValueError: it is an adapter alone; names how to load it. Or a set of SIDs lacks an item.
    """
    folder = Path(place)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(str(place)))
    if not (folder / SIDS_FILE).is_file():
        raise FileNotFoundError(f"{folder / SIDS_FILE}: not there; genrec publish writes it")
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder}: an adapter without its base; its README.md loads it by peft")
    item_ids, sets = _read_sets(folder)
    settings = json.loads((folder / SETTINGS_FILE).read_text("utf-8"))
    if versions := changed(settings.get("made_with") or {}):
        log.warning(
            "%s: trained with %s; its lists may differ from those measured", place, versions
        )
    weights = {"weights": settings["set_weights"]} if len(sets) > 1 else {}
    recommender = Recommender.load(folder, sets, max_length=settings["max_length"], **weights)
    profile, style = settings.get("user_profile"), settings["prompt"]["style"]
    return Published(
        *(recommender, item_ids, settings["prompt"]),
        profile and UserProfile(tuple(profile["names"]), style, profile["levels"]),
    )


def _read_sets(folder: Path) -> tuple[list[str], SIDSets]:
    """Returns the items' names, and their SIDs in every set."""
    index = read_index(folder / SIDS_FILE)
    item_ids, sets = list(index), [np.array([*index.values()], dtype=np.int32)]
    for file in further_files(folder, suffix="json"):
        index = read_index(file)
        if lacking := [item_id for item_id in item_ids if item_id not in index]:
            raise ValueError(
                f"{file}: {len(lacking)} items of {SIDS_FILE} have no SID, such as {lacking[0]!r}; "
                "take all files of one `genrec publish`"
            )
        sets.append(np.array([index[item_id] for item_id in item_ids], dtype=np.int32))
    return item_ids, SIDSets.of_codes(sets) if len(sets) > 1 else SIDSets(sets)


def _copy_model(pipeline: Pipeline, out: Path, what: str) -> None:
    trained = pipeline["train"]
    if what == "model":
        shutil.copytree(trained / "merged", out, dirs_exist_ok=True)
    else:
        for path in (trained / "merged").glob("*token*"):
            shutil.copy(path, out)
    if (trained / "adapter").is_dir():
        folder = out if what == "adapter" else out / "adapter"
        folder.mkdir(exist_ok=True)
        for name in _ADAPTER_FILES:
            shutil.copy(trained / "adapter" / name, folder)
        config = json.loads((folder / _ADAPTER_FILES[0]).read_text("utf-8"))
        # peft notes the folder that the base was read from; others know it by its name only.
        config["base_model_name_or_path"] = _base(pipeline)
        _write_json(folder / _ADAPTER_FILES[0], config)


def _settings(pipeline: Pipeline) -> dict[str, Any]:
    compose, train = pipeline.recipe.compose, pipeline.recipe.train
    prompt = {"style": compose.style, "max_history": compose.max_history}
    settings: dict[str, Any] = {"prompt": prompt, "max_length": train.max_length}
    if compose.user_attributes:
        levels = pipeline["compose"].load(PROFILE)
        settings["user_profile"] = {"names": compose.user_attributes, "levels": levels}
    if (sets := len(SIDSets.load(pipeline["quantize"].path))) > 1:
        settings["set_weights"] = _set_weights(pipeline, sets)
    return settings | {"made_with": pipeline["train"].manifest.get("environment")}


def _set_weights(pipeline: Pipeline, sets: int) -> list[float]:
    """Returns how much each set of SIDs counts, as the recipe says or the stage recommend fitted it."""
    if pipeline.finished("recommend"):
        return list(pipeline["recommend"].load(SET_WEIGHTS))
    wanted = pipeline.recipe.recommend.set_weights
    if wanted == "fit":
        log.warning(
            "the sets of SIDs are published with equal weights: they are fitted by the stage recommend, "
            "and it has not run; run it first, or set recommend.set_weights=equal"
        )
    given = [1.0] * sets if isinstance(wanted, str) else wanted
    return [weight / sum(given) for weight in given]


def _facts(pipeline: Pipeline, what: str) -> Facts:
    base = _base(pipeline)
    has_adapter = (pipeline["train"] / "adapter").is_dir()
    metrics = pipeline["evaluate"].load()["rows"] if pipeline.finished("evaluate") else []
    return Facts(
        name=pipeline.recipe.name,
        recipe=_shareable(pipeline),
        base=base,
        public_base=_is_public(pipeline),
        base_file=_base_file(pipeline),
        tune=pipeline.recipe.train.model.tune,
        dtype=pipeline.recipe.train.model.dtype,
        adapter=("." if what == "adapter" else "adapter") if has_adapter else None,
        data=pipeline["prepare"].load("stats.json"),
        sids=pipeline["quantize"].load("stats.json"),
        training=pipeline["train"].load("summary.json"),
        made_with=pipeline["train"].manifest.get("environment"),
        metrics=[row for row in metrics if row["split"] == "test"],
    )


def _base(pipeline: Pipeline) -> str | None:
    model = pipeline.recipe.train.model
    return _name(model.name) if model.kind == "pretrained" else None


def _is_public(pipeline: Pipeline) -> bool:
    model = pipeline.recipe.train.model
    return model.kind == "pretrained" and on_hub(model.name)


def _base_file(pipeline: Pipeline) -> str | None:
    model = pipeline.recipe.train.model
    files = gguf_files(model.name) if model.kind == "pretrained" else []
    return files[0].name if files else None


def _shareable(pipeline: Pipeline) -> dict[str, Any]:
    """Returns what the recipe sets, without where it runs and where files lie on this machine."""
    recipe = pipeline.recipe.model_dump(mode="json", exclude_unset=True, exclude={"runtime"})
    paths = {value for _, value in recipes.content_paths(pipeline.recipe)}
    return {name: _without(value, paths) for name, value in recipe.items()}


def _without(value: Any, paths: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: _without(part, paths) for name, part in value.items()}
    if isinstance(value, list):
        return [_without(part, paths) for part in value]
    return _name(value) if isinstance(value, str) and value in paths else value


def _name(path: str) -> str:
    return Path(path).name if Path(path).is_absolute() or path.startswith("..") else path


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _push(folder: Path, name: str, *, private: bool) -> None:
    from huggingface_hub import HfApi

    api = HfApi()
    api.create_repo(name, private=private, exist_ok=True)
    api.upload_folder(repo_id=name, folder_path=folder, commit_message="genrec publish")
