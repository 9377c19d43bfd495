"""The sections `compose` and `train`: the tasks, the model, how it is tuned, the optimisation."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model, model_validator

from genrec import registry
from genrec.settings import Path_, Section

if TYPE_CHECKING:

    class Tasks(Section):
        """Each task's settings, by its name."""

else:
    # The tasks that the LLM trains on: eight by default, one loss, no weights but these rates. A rate
    # of 0 leaves a task out. The caption tasks take part once the recipe has captions.
    Tasks = create_model(
        "Tasks",
        __base__=Section,
        **{
            name: (type(task.settings), Field(task.settings, description=task.description))
            for name, task in registry.parts("tasks").items()
        },
    )


class Compose(Section):
    """Tables to training examples."""

    packages: ClassVar[tuple[str, ...]] = ("numpy",)
    later: ClassVar[tuple[str, ...]] = ("sets", "context", "user_attributes", "without_context")
    tasks: Tasks = Tasks()
    style: Literal["compact", "instruct"] = Field(
        "compact", description="few tokens, for scratch; or natural language, for pretrained models"
    )
    max_history: int = Field(50, ge=1, description="newest items of a history in a prompt")
    max_text: int = Field(300, ge=1, description="characters of an item's text in a prompt")
    sets: Literal["all", "random"] = Field(
        "all",
        description="with several sets of SIDs: every example in each of them, or in one at random, "
        "which takes no longer than one set",
    )
    context: tuple[str, ...] = Field(
        (),
        description="what histories say of each event beside its item: columns that the source keeps "
        "(prepare.source), such as rating; gap, the time since the event before; weekday; month",
    )
    user_attributes: tuple[str, ...] = Field(
        (),
        description="what is said once, before a history, of the user whose it is: columns of the table "
        "of users (prepare.source.users), such as age_group",
    )
    without_context: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of the training users whose histories are written without context and user "
        "attributes, so that the model can also do without",
    )

    @model_validator(mode="after")
    def _once(self) -> Compose:
        for field in ("context", "user_attributes"):
            if len(set(names := getattr(self, field))) < len(names):
                raise ValueError(f"{field}: {list(names)}; name everything once")
        said = self.context or self.user_attributes
        if not said and "without_context" in self.model_fields_set:
            raise ValueError(
                "without_context: there is no context; set `context` or `user_attributes`, or leave "
                "it out"
            )
        return self

    def optional_reads(self) -> dict[str, str | None]:
        """Returns the stages that the tasks are made of, with the rate that insists on each."""
        stages: dict[str, str | None] = {}
        for name, task in self.tasks:
            if task.needs and task.rate != 0:
                insists = f"compose.tasks.{name}.rate" if task.required else None
                stages[task.needs] = stages.get(task.needs) or insists
        return stages

    @property
    def reads(self) -> tuple[str, ...]:
        """What every task reads, and the stages that some tasks are made of."""
        return ("prepare", "quantize", *self.optional_reads())

    def active(self, stages: Collection[str]) -> dict[str, dict[str, Any]]:
        """Returns the options of the tasks that take part.

        Args:
            stages: the stages that compose reads. Without its stage a task takes no part if its
                rate is null or it is optional; with it a rate of null is 1.
        """
        options: dict[str, dict[str, Any]] = {}
        for name, task in self.tasks:
            rate = 1.0 if task.rate is None else task.rate
            if task.needs not in (None, *stages) and not task.required:
                rate = 0.0
            if rate > 0:
                options[name] = task.model_dump(exclude={"optional"}) | {"rate": rate}
        return options


SidInit = Annotated[
    Literal["random", "codebook", "items"],
    Field(
        description="where the SID rows start: at random; like the quantizer's codes; or like the items "
        "that have the code, by the mean of what was quantized"
    ),
]


SIZE = ("hidden", "layers", "heads", "dropout")  # of a model from scratch; size=auto chooses them


class ScratchSettings(Section):
    """A Qwen3-architecture model of the given size, its tokenizer trained on the examples."""

    packages: ClassVar[tuple[str, ...]] = ("tokenizers",)
    later: ClassVar[tuple[str, ...]] = ("size",)
    kind: Literal["scratch"] = "scratch"
    tune: ClassVar[Literal["full"]] = "full"  # always, as if it were one of Pretrained's
    dtype: ClassVar[Literal["float32"]] = "float32"
    size: Literal["auto"] | None = Field(
        None,
        description="auto: hidden, layers, heads and dropout by the numbers of users, items and "
        "interactions; `genrec plan` shows them",
    )
    hidden: int = Field(128, ge=8, description="width")
    layers: int = Field(4, ge=1, description="transformer blocks")
    heads: int = Field(4, ge=1, description="attention heads per block")
    vocab: int = Field(4000, ge=300, description="tokens of text; SID tokens come on top")
    dropout: float = Field(0.2, ge=0, lt=1, description="in training")
    sid_init: SidInit = "random"

    @model_validator(mode="after")
    def _sized(self) -> ScratchSettings:
        given = [name for name in SIZE if name in self.model_fields_set]
        if self.size == "auto" and given:
            raise ValueError(
                f"size=auto chooses {', '.join(given)} itself: leave it to auto, or set size=null and "
                "give numbers"
            )
        return self


class PretrainedSettings(Section):
    """A causal LM by hub name or folder, tuned by LoRA, 4-bit QLoRA, or whole."""

    packages: ClassVar[tuple[str, ...]] = ("tokenizers",)
    kind: Literal["pretrained"] = "pretrained"
    name: Path_ = Field(
        description="a hub name, a folder (also an earlier run's merged/), a GGUF file, "
        "`package:NAME` of one that carries weights, or `asset:NAME`"
    )
    tune: Literal["lora", "qlora", "full"] = Field(
        "lora", description="adapters, adapters over 4-bit weights, or all weights"
    )
    rank: int = Field(16, ge=1, description="of the adapters")
    alpha: int = Field(32, ge=1, description="scale of the adapters: alpha / rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="of the adapters")
    target: str | tuple[str, ...] = Field(
        "all-linear", description="the layers that get adapters, as of PEFT's target_modules"
    )
    use_dora: bool = Field(
        False, description="weights as direction and magnitude, arXiv 2402.09353"
    )
    use_rslora: bool = Field(
        False, description="scale alpha / sqrt(rank), not alpha / rank, arXiv 2312.03732"
    )
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the base's weights; bfloat16 halves them, and the merged model is saved in it. "
        "With qlora it is the products': what is not in 4 bits, and the merged model, stay float32. "
        "Not for tune=full",
    )
    sid_init: Literal["keep", "random", "codebook", "items"] = Field(
        "keep",
        description="where the SID rows start. keep: as the model has them if it was trained on the "
        "same SIDs, else at random; the others: as for a new model, whatever it has",
    )
    chat_template: bool = Field(
        True,
        description="with compose.style=instruct: prompts and answers are turns of the tokenizer's chat "
        "template, where it has one",
    )

    @model_validator(mode="after")
    def _adapted(self) -> PretrainedSettings:
        if self.tune == "full" and (
            ignored := sorted({"use_dora", "use_rslora"} & self.model_fields_set)
        ):
            raise ValueError(f"{ignored}: are of adapters, and tune=full has none; leave them out")
        if self.tune == "full" and self.dtype != "float32":
            raise ValueError(
                f"dtype={self.dtype}: weights that are trained themselves lose small steps in it; "
                "leave float32, products are in bfloat16 on a GPU all the same"
            )
        return self

    def made_with(self) -> set[str]:
        """Adapters and 4-bit weights have packages of their own."""
        adapters = {"full": set[str](), "lora": {"peft"}, "qlora": {"peft", "bitsandbytes"}}
        return super().made_with() | adapters[self.tune]


Optimizer = Literal[
    "adamw_torch_fused",
    "adamw_torch",
    "adafactor",
    "adamw_8bit",
    "lion_8bit",
    "paged_adamw_8bit",
    "paged_adamw_32bit",
]


class RowsFirst(Section):
    """A first stage in which only the rows of the SID tokens learn; the model is frozen."""

    epochs: float = Field(
        1.0, gt=0, description="of the first stage; train.epochs are the second's"
    )
    lr: float = Field(1e-2, gt=0, description="the highest learning rate of the first stage")


class Train(Section):
    """Examples to a model, by transformers.Trainer."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "accelerate", "datasets")
    later: ClassVar[tuple[str, ...]] = ("softmax", "lr_rows", "rows_first")
    model: Annotated[ScratchSettings | PretrainedSettings, Field(discriminator="kind")] = (
        ScratchSettings()
    )
    epochs: float = Field(20, gt=0, description="at most; patience may stop earlier")
    tokens_per_batch: int = Field(
        4096, ge=16, description="of a step, padding included, over all processes"
    )
    packing: bool = Field(
        False, description="several examples in one row, instead of rows of like length and padding"
    )
    max_length: int = Field(
        512, ge=16, description="tokens of an example; longer ones lose their oldest items"
    )
    lr: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        2e-3,
        description="the highest learning rate; auto: by the width of a model from scratch; "
        "`genrec plan` shows it",
    )
    lr_rows: float | None = Field(
        None, gt=0, description="the same of the SID rows beside adapters; null: lr"
    )
    rows_first: RowsFirst | None = Field(
        None,
        description="training in two stages: first the SID rows alone, the pretrained model frozen; "
        "then from their best validated values all that train.model.tune trains. {} takes the defaults",
    )
    weight_decay: float = Field(0.1, ge=0, description="of the optimizer")
    optimizer: Optimizer = Field(
        "adamw_torch_fused", description="by transformers' name; 8-bit ones need bitsandbytes"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute layers again instead of keeping what is in them"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps with a rising rate")
    scheduler: Literal["cosine", "one-cycle", "linear", "constant_with_warmup"] = Field(
        "cosine", description="how the learning rate goes"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="of the cross-entropy")
    softmax: Literal["vocabulary", "codes"] = Field(
        "vocabulary",
        description="what a code of a SID is learned among: all tokens, or the codes of its level (and "
        "set), which is faster with many codes; the decoder then scores so too",
    )
    ema: float = Field(
        0.0, ge=0, lt=1, description="decay of an average of the weights, which is kept; 0: none"
    )
    eval_every: int = Field(200, ge=1, description="steps between validations")
    eval_users: int = Field(
        1000, ge=1, description="validation users by whom each validation measures loss and lists"
    )
    patience: int = Field(5, ge=1, description="validations without a gain before stopping")

    @model_validator(mode="after")
    def _has_a_base(self) -> Train:
        if self.rows_first is not None and self.model.kind == "scratch":
            raise ValueError(
                "rows_first: a model from scratch knows nothing yet that rows could learn from while "
                "it is frozen; leave it out, or take train.model.kind=pretrained"
            )
        if self.lr == "auto" and self.model.kind != "scratch":
            raise ValueError(
                "lr=auto: is known for models from scratch alone; give a number, such as 1e-3 for "
                "adapters or 1e-4 for all weights"
            )
        if self.lr_rows is not None and self.model.tune == "full":
            raise ValueError(
                "lr_rows: with all weights trained the SID rows are part of the embedding, which has "
                "one rate; leave it out, or give them a stage of their own by rows_first"
            )
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The items' vectors too where the rows start like them."""
        vectors = ("embed",) if self.model.sid_init == "items" else ()
        return ("prepare", *vectors, "quantize", "compose")

    def made_with(self) -> set[str]:
        """8-bit optimizers have a package of their own; rows alone are trained by PEFT."""
        eight_bit = {"bitsandbytes"} if "bit" in self.optimizer else set()
        return super().made_with() | eight_bit | ({"peft"} if self.rows_first else set())
