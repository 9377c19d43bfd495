"""Work that `accelerate launch` or `torchrun` splits over processes: shares and their results.

A share is every n-th piece, so pieces are the same for any number of processes, and so are results.
Needs torch only where there is more than one process.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

Piece = TypeVar("Piece")

# For the slowest process; one that dies is noticed at once, by its launcher and by the others.
_PATIENCE = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """The processes that run the same command, and which of them this one is.

    Attributes:
        rank: 0 to count - 1; 0 writes and speaks.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @classmethod
    def current(cls) -> Processes:
        """Reads what the launcher says.

        Raises:
            ValueError: RANK and WORLD_SIZE do not fit each other.
        """
        rank, count = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
        if not (rank.isdecimal() and count.isdecimal() and int(rank) < int(count)):
            raise ValueError(
                f"the environment has RANK={rank} and WORLD_SIZE={count}; expected 0 <= RANK < "
                "WORLD_SIZE, as accelerate launch and torchrun set them (or neither of them)"
            )
        return cls(int(rank), int(count))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def join(self, device: str) -> str:
        """Meets the other processes; each of them must call it before `merge`.

        Args:
            device: what all were asked to run on.

        Returns:
            This one's own: under several processes each has its own GPU.
        """
        if self.count == 1:
            return device
        from accelerate import PartialState

        state = PartialState(cpu=device == "cpu", timeout=_PATIENCE)
        return device if device == "cpu" else str(state.device)  # it numbers CPUs too

    def wait(self) -> None:
        """Returns when every process has come here; each must have met the others before."""
        if self.count > 1:
            from accelerate import PartialState

            PartialState().wait_for_everyone()

    def leave(self) -> None:
        """Parts from the others, for good; to be called last, by what ends well.

        A process that ends without it may be aborted, its work done: gloo's threads still hold tensors
        when the interpreter is gone (pytorch/pytorch#179291), and the launcher calls that a failure.
        """
        distributed = sys.modules.get("torch.distributed")  # torchrun makes a group of one, too
        if distributed and distributed.is_initialized():
            distributed.destroy_process_group()

    def share(self, pieces: int) -> range:
        """Returns the numbers of this process's pieces: every `count`-th, from `rank`."""
        return range(self.rank, pieces, self.count)

    def merge(self, mine: Sequence[Piece]) -> list[Piece]:
        """Returns the pieces of all processes in their order; each process must call it.

        Args:
            mine: what this process made of its `share`, in order.
        """
        if self.count == 1:
            return list(mine)
        from accelerate.utils import gather_object

        numbered = [(self.rank + i * self.count, piece) for i, piece in enumerate(mine)]
        return [piece for _, piece in sorted(gather_object(numbered), key=lambda pair: pair[0])]


ALONE = Processes()
