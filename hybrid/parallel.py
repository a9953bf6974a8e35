"""Several processes that train one model: who they are, what they tell each other, how one that is lost is noticed.

    torchrun --nproc-per-node 2 --no-python tfgrpo train ...     several hosts: torchrun's --nnodes, --rdzv-endpoint

Rank 0 runs the loop: it owns the record, asks for answers, scores them. The others follow: they wait for the name of a
job, and then every rank does the same job on its share. One process is a group of one in which nothing is sent; there
is no second code path.

Weights are whole on every rank ("ddp": gradients are summed once per update) or cut ("fsdp", see `hybrid.sharding`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from hybrid.settings import world
from hybrid.watchdog import Watchdog
from tfgrpo.errors import RunStateError

T = TypeVar("T")
BUCKET_BYTES = 64 * 2**20
"""Of gradients that are summed in one message."""
ENDLESS = timedelta(days=30)
"""For the collectives themselves: waiting for a slow reward is no fault; the watchdog knows what is."""
STOP = "stop"


@dataclass(kw_only=True, slots=True)
class Ranks:
    """This process among those that train together.

    Example:
        >>> alone = Ranks()
        >>> alone.jobs["double"] = lambda x: 2 * x
        >>> alone.lead("double", x=3), alone.gather("here"), alone.leading
        (6, ['here'], True)
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    jobs: dict[str, Callable[..., Any]] = field(default_factory=dict)
    watchdog: Watchdog | None = None
    control: Any = None  # a group of gloo for words; numbers go over the device's own

    @staticmethod
    def join(*, hang_s: float) -> Ranks:
        """Meets the other processes that torchrun started; a process of its own is alone.

        Args:
            hang_s: seconds after which a rank that does not come back from a job ends all of them.

        Raises:
            RunStateError: the others cannot be reached.
        """
        rank, size, local = world()
        if size == 1:
            return Ranks()
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.set_device(local)
        try:
            store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=hang_s)))
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
                store=PrefixStore("train", store),
                rank=rank,
                world_size=size,
                timeout=ENDLESS,
            )
            control = dist.new_group(backend="gloo", timeout=ENDLESS) if on_gpu else dist.group.WORLD
        except (RuntimeError, ValueError) as error:
            raise RunStateError(
                f"rank {rank} of {size} did not meet the others: {error}. Start all of them by torchrun, with one "
                f"--rdzv-endpoint that every host can reach"
            ) from error
        watchdog = Watchdog(PrefixStore("phases", store), rank, size, limit_s=hang_s)
        return Ranks(rank=rank, size=size, local_rank=local, watchdog=watchdog, control=control)

    @property
    def leading(self) -> bool:
        """Whether this is rank 0, or the only process."""
        return self.rank == 0

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What this rank does now, for the words of the watchdog."""
        if self.watchdog is None:
            yield
            return
        before = self.watchdog.enter(name)
        try:
            yield
        finally:
            self.watchdog.enter(before)

    # -- jobs ---------------------------------------------------------------------------------------------------------

    def lead(self, name: str, **what: Any) -> Any:
        """Rank 0: lets every rank do a job, and does it too; the own result. `what` must be plain data."""
        if self.size > 1:
            dist.broadcast_object_list([(name, what)], src=0, group=self.control, device=torch.device("cpu"))
        with self.phase(name):
            return self.jobs[name](**what)

    def follow(self) -> Any:
        """The other ranks: do what rank 0 says until it says to stop; what it says then is the result.

        Raises:
            RunStateError: rank 0 is gone.
        """
        while True:
            said: list[Any] = [None]
            try:
                dist.broadcast_object_list(said, src=0, group=self.control, device=torch.device("cpu"))
            except RuntimeError as error:
                raise RunStateError(f"rank {self.rank} lost rank 0, whose own words say why: {error}") from error
            name, what = said[0]
            if name == STOP:
                return what["result"]
            with self.phase(name):
                self.jobs[name](**what)

    def stop(self, result: Any = None) -> None:
        """Rank 0: lets the others go."""
        self.jobs[STOP] = lambda result: result
        self.lead(STOP, result=result)

    # -- what is exchanged within a job -------------------------------------------------------------------------------

    def gather(self, mine: T) -> list[T]:
        """What every rank has, in their order, on every rank."""
        if self.size == 1:
            return [mine]
        found: list[Any] = [None] * self.size
        with self.phase("waiting for the others"):
            dist.all_gather_object(found, mine, group=self.control)
        return found

    def first(self, make: Callable[[], T]) -> T:
        """What rank 0 makes, on every rank."""
        said = [make() if self.leading else None]
        if self.size > 1:
            with self.phase("waiting for rank 0"):
                dist.broadcast_object_list(said, src=0, group=self.control, device=torch.device("cpu"))
        return said[0]  # type: ignore[return-value]

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum of every rank's numbers."""
        if self.size > 1:
            with self.phase("waiting for the others' sums"):
                numbers = numbers.clone()
                dist.all_reduce(numbers)
        return numbers

    def sum_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Every rank's gradients become the sum of all ranks'; one that nobody has stays None."""
        if self.size == 1:
            return
        there = torch.tensor([p.grad is not None for p in parameters], dtype=torch.int32, device=parameters[0].device)
        with self.phase("waiting for the others' gradients"):
            dist.all_reduce(there, op=dist.ReduceOp.MAX)
            chosen = [p for p, any_has in zip(parameters, there.tolist(), strict=True) if any_has]
            for p in chosen:
                if p.grad is None:
                    p.grad = torch.zeros_like(p)
            for bucket in _buckets([p.grad for p in chosen if p.grad is not None]):
                flat = torch.cat([grad.reshape(-1) for grad in bucket])
                dist.all_reduce(flat)
                for grad, part in zip(bucket, torch.split(flat, [grad.numel() for grad in bucket]), strict=True):
                    grad.copy_(part.view_as(grad))

    def close(self) -> None:
        """Leaves the group, and lets go of those whose jobs it knew: a model in a cycle would stay for long."""
        self.jobs.clear()
        if self.watchdog is not None:
            self.watchdog.close()
            dist.destroy_process_group()


def _buckets(grads: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, in lists of at most BUCKET_BYTES."""
    bucket: list[Tensor] = []
    size = 0
    for grad in grads:
        if bucket and size + grad.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(grad)
        size += grad.nbytes
    if bucket:
        yield bucket


def dealt(sizes: Sequence[int], ranks: int) -> list[list[int]]:
    """Which pieces each rank takes: the largest first, each to the rank with the least so far. The same on all ranks.

    Example:
        >>> dealt([5, 9, 4, 4], 2)
        [[1, 3], [0, 2]]
    """
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for piece in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        rank = loads.index(min(loads))
        shares[rank].append(piece)
        loads[rank] += sizes[piece]
    return shares
