"""RQ-VAE: an MLP autoencoder whose code vector z is quantised level by level.

arXiv 2203.01941; for SIDs TIGER, arXiv 2305.05065. The codebooks are `vector_quantize_pytorch`'s
ResidualVQ. Against collapse: k-means initialisation on all items, and dead codes are revived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import ResidualVQ

from genrec.progress import Progress, silent
from genrec.sid import quantizer as residual
from genrec.sid.quantizer import Floats, Ints

_INIT_ROWS = 65_536  # items that k-means initialisation sees; it holds all distances at once
_ENCODE_ROWS = 8192


class RQVAE:
    """A residual-quantised autoencoder. A `Quantizer`.

    Inputs are centred and divided by one number, their root mean square, so that the learning rate
    suits any encoder; a scale per dimension would undo the weights of the fused views.

    Args:
        levels: L.
        codes: K.
        code_dim: width d of z.
        hidden: widths of the encoder's hidden layers; the decoder mirrors them.
        epochs: passes over the items.
        batch_size: items per step, about (the items of an epoch are divided evenly).
        lr: learning rate of AdamW.
        commitment: weight of the loss that draws z to its codes.
        seed: of weights, order and k-means.
        device: where it trains and encodes. Same seed, same SIDs holds on one CPU with one number of
            threads (torch sums in another order with another).
    """

    kind: ClassVar[str] = "rqvae"

    def __init__(
        self,
        *,
        levels: int = 4,
        codes: int = 256,
        code_dim: int = 32,
        hidden: Sequence[int] = (512, 256, 128),
        epochs: int = 200,
        batch_size: int = 1024,
        lr: float = 1e-3,
        commitment: float = 0.25,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.levels, self.codes, self.code_dim, self.hidden = levels, codes, code_dim, list(hidden)
        self.epochs, self.batch_size, self.lr = epochs, batch_size, lr
        self.commitment, self.seed, self.device = commitment, seed, device
        self._net: _Net | None = None

    def fit(self, embeddings: Floats, *, progress: Progress = silent) -> Self:
        """Trains encoder, codebooks and decoder.

        Args:
            embeddings: float32 [N, D], N >= K.
            progress: told "train RQ-VAE", per epoch.

        Raises:
            ValueError: fewer items than codes, or values as `check_embeddings` refuses.
            FloatingPointError: the loss is not finite.
        """
        embeddings = residual.check_embeddings(embeddings, codes=self.codes)
        with _seeded(self.seed, self.device):
            net = _Net(embeddings.shape[1], self.hidden, self.code_dim, self.levels, self.codes)
            net.standardise(torch.from_numpy(embeddings))
            self._train(net.to(self.device), embeddings, progress)
        self._net = net.eval()
        return self

    def encode(self, embeddings: Floats) -> Ints:
        """Returns the SID of each embedding. float32 [N, D] -> int32 [N, L]."""
        return residual.nearest_codes(self._latents(embeddings), self._codebooks())

    @torch.no_grad()
    def decode(self, sids: Ints) -> Floats:
        """Returns the embedding that each SID stands for. int [N, L] -> float32 [N, D]."""
        z = torch.from_numpy(residual.sum_of_codes(sids, self._codebooks()))
        parts = [self._trained().decode(part.to(self.device)).cpu() for part in _parts(z)]
        return torch.cat(parts).numpy()

    def last_level_distances(self, embeddings: Floats, sids: Ints) -> Floats:
        """Returns the squared distances of z to all codes of the last level. float32 [N, K]."""
        z = self._latents(embeddings)
        return residual.distances_on_last_level(z, sids, self._codebooks())

    def residual_norms(self, embeddings: Floats, sids: Ints) -> NDArray[np.float64]:
        """Returns the norm of what each level leaves over, relative to z. float64 [L]."""
        return residual.relative_norms(self._latents(embeddings), sids, self._codebooks())

    def save(self, path: str | Path) -> None:
        """Writes the quantiser to one safetensors file."""
        tensors = {
            name: value.cpu().numpy() for name, value in self._trained().state_dict().items()
        }
        residual.write_file(path, {"kind": self.kind, "settings": self._settings()}, tensors)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote, onto the CPU.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds another kind.
        """
        header, tensors = residual.read_file(path, kind=cls.kind)
        new = cls(**header["settings"])
        dim = len(tensors["mean"])
        new._net = _Net(dim, new.hidden, new.code_dim, new.levels, new.codes).eval()
        new._net.load_state_dict({name: torch.from_numpy(t) for name, t in tensors.items()})
        return new

    def _settings(self) -> dict[str, Any]:
        names = ("levels", "codes", "code_dim", "hidden", "epochs", "batch_size", "lr")
        return {name: getattr(self, name) for name in (*names, "commitment", "seed")}

    def _train(self, net: _Net, embeddings: Floats, progress: Progress) -> None:
        inputs = net.scaled(torch.from_numpy(embeddings).to(self.device))
        steps = max(1, round(len(inputs) / self.batch_size))
        quantizer = self._residual_vq(len(inputs) / steps)
        with torch.no_grad():  # the first call initialises each level by k-means
            quantizer(net.encoder(inputs[torch.randperm(len(inputs))[:_INIT_ROWS]]))
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.lr, weight_decay=0.0)
        for epoch in range(self.epochs):
            for rows in torch.randperm(len(inputs)).tensor_split(steps):
                batch = inputs[rows.to(self.device)]
                quantized, _, commitment = quantizer(net.encoder(batch))
                loss = F.mse_loss(net.decoder(quantized), batch) + commitment.sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"RQ-VAE: the loss is {loss.item()} in epoch {epoch}; lower quantize.lr"
                )
            progress("train RQ-VAE", epoch + 1, self.epochs)
        net.codebooks.copy_(quantizer.codebooks)

    def _residual_vq(self, batch: float) -> ResidualVQ:
        quantizer = ResidualVQ(
            dim=self.code_dim,
            num_quantizers=self.levels,
            codebook_size=self.codes,
            commitment_weight=self.commitment,
            kmeans_init=True,
            kmeans_iters=25,
            # A code is dead below a quarter of its fair share of a batch. The library's fixed 2
            # would, with small batches, revive codes that are in healthy use.
            threshold_ema_dead_code=batch / self.codes / 4,
            sync_codebook=False,  # every process trains alone, on all items
        )
        return quantizer.to(self.device).train()

    def _trained(self) -> _Net:
        if self._net is None:
            raise ValueError("this RQVAE is not fitted; call fit(embeddings) or load(path)")
        return self._net

    def _codebooks(self) -> Floats:
        return self._trained().codebooks.cpu().numpy()

    @torch.no_grad()
    def _latents(self, embeddings: Floats) -> Floats:
        net = self._trained()
        inputs = torch.from_numpy(residual.check_embeddings(embeddings, dim=len(net.mean)))
        parts = [net.encoder(net.scaled(x.to(self.device))).cpu() for x in _parts(inputs)]
        return torch.cat(parts).numpy()


class _Net(nn.Module):
    """What is saved: encoder, decoder, codebooks [L, K, d], and the statistics of the inputs."""

    mean: Tensor  # [D]
    scale: Tensor  # []
    codebooks: Tensor

    def __init__(
        self, dim: int, hidden: Sequence[int], code_dim: int, levels: int, codes: int
    ) -> None:
        super().__init__()
        widths = [dim, *hidden, code_dim]
        self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        self.register_buffer("codebooks", torch.zeros(levels, codes, code_dim))
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("scale", torch.ones(()))

    def standardise(self, inputs: Tensor) -> None:
        unit = residual.power_of_two(inputs.numpy())
        inputs = inputs / unit
        mean = inputs.mean(dim=0)
        scale = (inputs - mean).square().mean().sqrt().clamp_min(1e-6)
        self.mean.copy_(mean * unit)
        self.scale.copy_(scale * unit)

    def scaled(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean) / self.scale

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z) * self.scale + self.mean


def _mlp(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for wide, narrow in pairwise(widths):
        layers += [nn.Linear(wide, narrow), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _parts(rows: Tensor) -> tuple[Tensor, ...]:
    return rows.split(_ENCODE_ROWS)


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """Seeds torch within, and leaves the caller's random state as it was."""
    with torch.random.fork_rng(devices=[device] if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield
