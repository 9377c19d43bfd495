"""What every quantizer is: settings in, embeddings to SIDs and back, and the way to disk.

A quantizer maps an embedding to a vector z, and z to L codes: at each level the code nearest to what
the levels before have left over. One safetensors file holds it, its settings in the header.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, NamedTuple, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genrec import registry
from genrec.progress import Progress, silent
from genrec.sid import residual
from genrec.sid.codes import resolve_collisions
from genrec.sid.residual import Floats, Ints
from genrec.sid.settings import QuantizerSettings
from genrec.sid.stats import quantizer_findings, sid_stats

S = TypeVar("S", bound=QuantizerSettings)
Arrays = Mapping[str, NDArray[Any]]

_HEADER = "genrec"  # one key only: safetensors writes several in a random order


class MadeSIDs(NamedTuple):
    """The SIDs of a catalogue.

    Attributes:
        sids: int32 [N, L or more], row i is item i.
        stats: what `stats.json` says of them; `findings` are oddities, as sentences.
        quantizer: what made them; None where they came with the data.
    """

    sids: Ints
    stats: dict[str, Any]
    quantizer: Quantizer[Any] | None


class Quantizer(ABC, Generic[S]):
    """Embeddings to SIDs and back. Deterministic: the same seed gives the same SIDs.

    A class names its settings as its parameter: `class RKMeans(Quantizer[RKMeansSettings])`.

    Args:
        settings: its settings; None takes the defaults.
        seed: of whatever is drawn at random.
        device: where it trains and encodes.
        options: single settings instead, or changes to them: `RKMeans(levels=2)`.

    Raises:
        ValueError: an unknown option, or a value out of bounds.

    Attributes:
        kind: its name in recipes and in the saved file.
        advice: what to change where few codes are in use.
    """

    kind: ClassVar[str]
    settings_class: ClassVar[type[QuantizerSettings]]
    settings: S

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for base in vars(cls).get("__orig_bases__", ()):
            for part in get_args(base):
                if isinstance(part, type) and issubclass(part, QuantizerSettings):
                    cls.settings_class = part
                    cls.kind = part.model_fields["kind"].default

    def __init__(
        self, settings: S | None = None, *, seed: int = 0, device: str = "cpu", **options: Any
    ) -> None:
        self.settings = self.settings_class.from_options(settings, **options)  # type: ignore[assignment]
        self.seed, self.device = seed, device

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r}, seed={self.seed})"

    @property
    def levels(self) -> int:
        """L."""
        return self.settings.levels

    @property
    def codes(self) -> int:
        """K."""
        return self.settings.codes

    @property
    def advice(self) -> str:
        """What to change where few codes are in use."""
        return "try other settings of quantize, or set quantize.kind=rkmeans"

    @abstractmethod
    def fit(self, embeddings: Floats, *, progress: Progress = silent) -> Self:
        """Learns the codebooks.

        Args:
            embeddings: float32 [N, D], N >= K.
            progress: called during the fit.

        Raises:
            ValueError: fewer items than codes, or values as `residual.check_embeddings` refuses.
        """

    @abstractmethod
    def decode(self, sids: Ints) -> Floats:
        """Returns the embedding that each SID stands for. int [N, L] -> float32 [N, D]."""

    @abstractmethod
    def _latents(self, embeddings: Floats) -> Floats:
        """Returns z. float32 [N, D] -> float32 [N, d]."""

    @abstractmethod
    def _arrays(self) -> Arrays:
        """What was learned, by name; `codebooks`, float32 [L, K, d], is among it.

        Raises:
            ValueError: it is not fitted.
        """

    @abstractmethod
    def _restore(self, arrays: Arrays) -> None:
        """Takes over what `_arrays` gave."""

    def encode(self, embeddings: Floats) -> Ints:
        """Returns the SID of each embedding. float32 [N, D] -> int32 [N, L]."""
        return residual.nearest_codes(self._latents(embeddings), self._codebooks())

    def last_level_distances(self, embeddings: Floats, sids: Ints) -> Floats:
        """Returns squared distances to all codes of the last level. float32 [N, K].

        They are measured from what the first L-1 codes of `sids` leave over of z.
        """
        z = self._latents(embeddings)
        return residual.distances_on_last_level(z, sids, self._codebooks())

    def residual_norms(self, embeddings: Floats, sids: Ints) -> NDArray[np.float64]:
        """Returns the norm of what each level leaves over, relative to z. float64 [L]."""
        return residual.relative_norms(self._latents(embeddings), sids, self._codebooks())

    def make_sids(self, embeddings: Floats, *, progress: Progress = silent) -> MadeSIDs:
        """Fits, encodes, resolves collisions if `settings.resolve` says so, and describes the SIDs.

        Args:
            embeddings: float32 [N, D], N >= K.
            progress: called during the fit.

        Raises:
            ValueError: as of `fit`.
        """
        before = after = self.fit(embeddings, progress=progress).encode(embeddings)
        if self.settings.resolve:
            distances = self.last_level_distances(embeddings, before)
            after = resolve_collisions(before, distances, codes=self.codes).sids
        stats = sid_stats(embeddings, before, after, self)
        if findings := quantizer_findings(stats, embeddings, self):
            stats["findings"] = findings
        return MadeSIDs(after, stats, self)

    def save(self, path: str | Path) -> None:
        """Writes everything that `encode` and `decode` need to one safetensors file."""
        arrays = self._arrays()
        settings = self.settings.model_dump(mode="json", exclude={"kind", "resolve"})
        header = {"kind": self.kind, "settings": settings | {"seed": self.seed}}
        contiguous = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
        save_file(contiguous, str(path), metadata={_HEADER: json.dumps(header, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Self:
        """Reads what `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds another kind.
        """
        header, arrays = _read(path)
        if header["kind"] != cls.kind:
            raise ValueError(
                f"{path}: holds a quantizer of kind {header['kind']!r}, expected {cls.kind!r}"
            )
        loaded = cls(device=device, **header["settings"])
        loaded._restore(arrays)
        return loaded

    def _codebooks(self) -> Floats:
        return self._arrays()["codebooks"]


def load_quantizer(path: str | Path) -> Quantizer[Any]:
    """Reads a saved quantizer of any kind.

    Args:
        path: a `quantizer.safetensors`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or no quantizer of genrec.
    """
    known = registry.parts("quantizers")
    kind = _read(path)[0]["kind"]
    if kind not in known:
        raise ValueError(f"{path}: unknown kind of quantizer {kind!r}; expected one of {[*known]}")
    quantizer: Quantizer[Any] = registry.implementation(known[kind]).load(path)
    return quantizer


def load_codebooks(path: str | Path) -> Floats:
    """Returns the code vectors of a saved quantizer of any kind. float32 [L, K, d].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or no quantizer of genrec.
    """
    return _read(path)[1]["codebooks"]


def _read(path: str | Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Returns the header and the tensors that `Quantizer.save` wrote."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such quantizer; run `genrec quantize RECIPE`")
    try:
        with safe_open(str(path), framework="numpy") as file:
            header = json.loads((file.metadata() or {})[_HEADER])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except KeyError as error:
        raise ValueError(f"{path}: a safetensors file, but no quantizer of genrec") from error
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: damaged, not a readable quantizer ({error})") from error
    return header, tensors
