"""A stand-in for Ray: workers of this process, which answer when they are waited for, and die where
a test says so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from types import SimpleNamespace
from typing import Any


class Lost(Exception):
    """Raised for the answer of a worker that is gone, as Ray raises its own."""


class FakeRay:
    """As much of the module as `Crew` calls.

    Args:
        nodes: (cores, GPUs) of each.
        dies: called with the number of a worker, counted from 0, the name of what is called and its
            arguments; whether the worker dies of it.
    """

    exceptions = SimpleNamespace(RayError=Lost)

    def __init__(
        self,
        nodes: list[tuple[int, int]],
        dies: Callable[..., bool] = lambda *_: False,
    ) -> None:
        self.machines, self._dies = nodes, dies
        self.made = 0
        self.alive: set[int] = set()
        self._answers: dict[int, Callable[[], Any]] = {}
        self._refs = count()

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "NodeManagerHostname": f"node{number}",
             "Resources": {"CPU": float(cores), "GPU": float(gpus)}}
            for number, (cores, gpus) in enumerate(self.machines)
        ]  # fmt: skip

    def remote(self, kind: type) -> Any:
        def make(*arguments: Any) -> Any:
            number, worker = self.made, kind(*arguments)
            self.made += 1
            self.alive.add(number)
            return SimpleNamespace(
                number=number,
                **{
                    name: SimpleNamespace(remote=self._later(number, name, getattr(worker, name)))
                    for name in ("prepare", "run")
                },
            )

        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=make))

    def _later(self, number: int, name: str, method: Callable[..., Any]) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            ref = next(self._refs)

            def answer() -> Any:
                if self._dies(number, name, *arguments):
                    raise Lost(f"worker {number} died")
                return method(*arguments)

            self._answers[ref] = answer
            return ref

        return call

    def wait(self, refs: list[int], num_returns: int, timeout: float) -> tuple[list[int], Any]:
        return refs[-num_returns:], None

    def get(self, ref: int) -> Any:
        return self._answers.pop(ref)()

    def kill(self, actor: Any) -> None:
        self.alive.discard(actor.number)
