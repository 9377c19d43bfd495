"""A tiny recipe that runs the real stages in seconds, and where the real data lies, if it does."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

# One thread for each test process, set before anything loads OpenMP: more would take the other worker's
# core, and the threads of a tiny model wait more than they work. What the tests start inherits it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# No test is timed: a busy machine is no fault of the code.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

TINY = [
    "prepare.source.items=60",
    "prepare.source.users=150",
    "prepare.source.image_size=32",
    "prepare.core=0",
    "quantize.kind=rkmeans",
    "quantize.levels=3",
    "quantize.codes=16",
    "quantize.sets=1",
    "caption.engine={kind: none}",
    "mine.engine={kind: none}",
    "retrieve=[{kind: popular}, {kind: cooccurrence}]",
    "train.model={kind: scratch, hidden: 32, layers: 1, heads: 2, vocab: 400}",
    "train.softmax=vocabulary",
    "train.epochs=2",
    "train.eval_every=10",
    "train.eval_users=20",
    "train.tokens_per_batch=1024",
    "recommend.num_beams=10",
    "runtime.save_every=3",
]
# The LLM that ships, adapted: what the recipe says how to have.
LORA = (
    "train.model={kind: pretrained, name: 'asset:tiny-lm', tune: lora, rank: 64, alpha: 128, "
    "dropout: 0}"
)
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips tests marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def tiny() -> list[str]:
    """Overrides that make `recipes/demo.yaml` tiny, without captions, interests and LoRA."""
    return list(TINY)


@pytest.fixture(scope="session")
def lora() -> str:
    """The override of `recipes/demo.yaml` that adapts the LLM that ships."""
    return LORA


@pytest.fixture(scope="session")
def shared_folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], AbstractContextManager[Path]]:
    """Gives a folder that all test processes share, held by one at a time: the first one fills it."""
    parent = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        parent = parent.parent

    @contextmanager
    def hold(name: str) -> Iterator[Path]:
        (parent / name).mkdir(exist_ok=True)
        with FileLock(parent / f"{name}.lock"):
            yield parent / name

    return hold


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real datasets; skips the test where it is absent."""
    folder = Path(os.environ.get("GENREC_DATA", SHARED))
    if not (folder / "scientific").is_dir():
        pytest.skip("real data absent: set GENREC_DATA to the folder that holds scientific/")
    return folder


@pytest.fixture(scope="session")
def foreign_package(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[Path], Callable[..., str]]:
    """Installs a package from its project folder; gives what runs a Python module that sees it.

    It is installed as pip would do it, files and metadata into one folder, which new processes find
    by PYTHONPATH. `run("genrec", "list")` returns what the command printed, and fails if it did.
    """

    def install(folder: Path) -> Callable[..., str]:
        settings = tomllib.loads((folder / "pyproject.toml").read_text())
        project = settings["project"]
        site = tmp_path_factory.mktemp("site")
        for package in settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
            shutil.copytree(folder / package, site / package)
        info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
        (info / "METADATA").write_text(head)
        ((group, points),) = project["entry-points"].items()
        lines = [f"[{group}]", *(f"{name} = {path}" for name, path in points.items())]
        (info / "entry_points.txt").write_text("\n".join(lines) + "\n")

        def run(*command: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", *command],
                capture_output=True,
                text=True,
                cwd=site,
                env=os.environ | {"PYTHONPATH": os.pathsep.join([str(site), str(ROOT)])},
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        return run

    return install


@pytest.fixture(scope="session")
def vllm_server() -> Callable[[list[str], Path], AbstractContextManager[str]]:
    """Runs a command that serves, its output in a file, for a `with` block; gives its address."""
    return _serve


@contextmanager
def _serve(command: list[str], log: Path) -> Iterator[str]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={"VLLM_CPU_KVCACHE_SPACE": "1", **os.environ, "VLLM_LOGGING_LEVEL": "INFO"},
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 300
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=5)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    path = tmp_path / "red.png"
    Image.new("RGB", (80, 40), "red").save(path)
    return path


@pytest.fixture
def bomb(tmp_path: Path) -> Path:
    """A PNG of some bytes that claims 60,000 x 60,000 pixels."""

    def chunk(name: bytes, data: bytes) -> bytes:
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path = tmp_path / "bomb.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )
    return path


@dataclass(frozen=True)
class Gguf:
    """A GGUF file, and the folder of the dense model that its bits stand for."""

    file: Path
    dense: Path


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    """A random Llama of two blocks with a byte-level tokenizer and a chat template, in Q4_1.

    Its matrices are those of llama.cpp, with the rows of queries and keys in llama.cpp's order.
    """
    import gguf
    import numpy as np
    import torch
    from gguf.quants import dequantize, quantize
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("gguf")
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    bpe = Tokenizer(models.BPE())
    split = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), split])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(
        ["the red bag  of the red lamp\n\n", "a blue chair  and a lamp"], trainer
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token=special[1], eos_token=special[2], pad_token=special[2]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [AddedToken(special[0])]})
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,  # of 32, the least that vLLM computes on CPUs
        num_key_value_heads=1,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    writer = gguf.GGUFWriter(folder / "tiny.Q4_1.gguf", "llama")
    writer.add_name("tiny")
    writer.add_block_count(2)
    writer.add_context_length(1024)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_dimension_count(32)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(tokenizer))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    words = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    writer.add_token_list(words)
    writer.add_token_types([3 if word in special else 1 for word in words])
    merges = json.loads(bpe.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    for add, token in (("bos", 1), ("eos", 2), ("pad", 2), ("unk", 0)):
        getattr(writer, f"add_{add}_token_id")(token)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.mul_(4 if weight.ndim > 1 else 1)  # so that a random model's choices are clear
            values = weight.numpy()
            base, _, suffix = name.rpartition(".")
            stored = f"{names.get_name(base)}.{suffix}"
            if weight.ndim == 1:
                writer.add_tensor(stored, values)
                continue
            bits = quantize(values, gguf.GGMLQuantizationType.Q4_1)
            weight.copy_(torch.from_numpy(dequantize(bits, gguf.GGMLQuantizationType.Q4_1)))
            if "q_proj" in name or "k_proj" in name:
                rows = np.arange(len(values)).reshape(-1, 2, 16).swapaxes(1, 2).reshape(-1)
                bits = bits[rows]
            writer.add_tensor(stored, bits, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.save_pretrained(folder / "dense")
    tokenizer.save_pretrained(folder / "dense")
    return Gguf(folder / "tiny.Q4_1.gguf", folder / "dense")
