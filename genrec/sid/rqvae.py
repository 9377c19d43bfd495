"""RQ-VAE: an MLP autoencoder whose code vector z is quantized level by level.

arXiv 2203.01941; for SIDs TIGER, arXiv 2305.05065. The codebooks are `vector_quantize_pytorch`'s
ResidualVQ. Against collapse: k-means initialisation on all items, and dead codes are revived.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from vector_quantize_pytorch import ResidualVQ

from genrec.progress import Progress, silent
from genrec.sid import residual
from genrec.sid.quantizer import Arrays, Quantizer
from genrec.sid.residual import Floats, Ints
from genrec.sid.settings import RQVAESettings

_INIT_ROWS = 65_536  # items that k-means initialisation sees; it holds all distances at once
_ENCODE_ROWS = 8192


class RQVAE(Quantizer[RQVAESettings]):
    """A residual-quantized autoencoder.

    Inputs are centred and divided by one number, their root mean square, so that the learning rate
    suits any encoder; a scale per dimension would undo the weights of the fused views. Same seed, same
    SIDs holds on one CPU with one number of threads (torch sums in another order with another).
    """

    _net: _Net

    @property
    def advice(self) -> str:
        """What to change where few codes are in use."""
        return (
            "train longer (quantize.epochs), try another quantize.lr, or set quantize.kind=rkmeans"
        )

    def fit(self, embeddings: Floats, *, progress: Progress = silent) -> Self:
        """Trains encoder, codebooks and decoder.

        Args:
            embeddings: float32 [N, D], N >= K.
            progress: called with "train RQ-VAE", per epoch.

        Raises:
            ValueError: fewer items than codes, or values as `residual.check_embeddings` refuses.
            FloatingPointError: the loss is not finite.
        """
        embeddings = residual.check_embeddings(embeddings, codes=self.codes)
        with _seeded(self.seed, self.device):
            net = self._new_net(embeddings.shape[1])
            net.standardise(torch.from_numpy(embeddings))
            self._train(net.to(self.device), embeddings, progress)
        self._net = net.eval()
        return self

    @torch.no_grad()
    def decode(self, sids: Ints) -> Floats:
        """Returns the embedding that each SID stands for. int [N, L] -> float32 [N, D]."""
        z = torch.from_numpy(residual.sum_of_codes(sids, self._codebooks()))
        parts = [self._trained().decode(part.to(self.device)).cpu() for part in _parts(z)]
        return torch.cat(parts).numpy()

    def _arrays(self) -> Arrays:
        return {name: value.cpu().numpy() for name, value in self._trained().state_dict().items()}

    def _restore(self, arrays: Arrays) -> None:
        net = self._new_net(len(arrays["mean"]))
        net.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
        self._net = net.to(self.device).eval()

    def _new_net(self, dim: int) -> _Net:
        s = self.settings
        return _Net(dim, s.hidden, s.code_dim, s.levels, s.codes)

    def _train(self, net: _Net, embeddings: Floats, progress: Progress) -> None:
        inputs = net.scaled(torch.from_numpy(embeddings).to(self.device))
        steps = max(1, round(len(inputs) / self.settings.batch_size))
        quantizer = self._residual_vq(len(inputs) / steps)
        with torch.no_grad():  # the first call initialises each level by k-means
            quantizer(net.encoder(inputs[torch.randperm(len(inputs))[:_INIT_ROWS]]))
        optimizer = torch.optim.AdamW(net.parameters(), lr=self.settings.lr, weight_decay=0.0)
        for epoch in range(self.settings.epochs):
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
            progress("train RQ-VAE", epoch + 1, self.settings.epochs)
        net.codebooks.copy_(quantizer.codebooks)

    def _residual_vq(self, batch: float) -> ResidualVQ:
        quantizer = ResidualVQ(
            dim=self.settings.code_dim,
            num_quantizers=self.levels,
            codebook_size=self.codes,
            commitment_weight=self.settings.commitment,
            kmeans_init=True,
            kmeans_iters=25,
            # A code is dead below a quarter of its fair share of a batch. The library's fixed 2
            # would, with small batches, revive codes that are in healthy use.
            threshold_ema_dead_code=batch / self.codes / 4,
            sync_codebook=False,  # every process trains alone, on all items
        )
        return quantizer.to(self.device).train()

    def _trained(self) -> _Net:
        if not hasattr(self, "_net"):
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
