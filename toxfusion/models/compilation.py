"""torch.compile for the dense parts of a network, in place: names of weights and checkpoints stay what they are."""

from __future__ import annotations

from toxfusion.models.network import Network

BACKENDS = ("inductor", "eager", "aot_eager")


class CompileError(ValueError):
    """A backend of torch.compile that is not offered."""


def check_backend(backend: str | None) -> None:
    """Raises CompileError unless the backend is one of `BACKENDS`, or None for no compilation."""
    if backend is not None and backend not in BACKENDS:
        raise CompileError(
            f"trainer.compile={backend!r} is none of {', '.join(BACKENDS)}; null leaves compilation off"
        )


def compile_dense_parts(network: Network, backend: str) -> None:
    """Compile, at their first call, the parts that see dense tensors; the padding of ragged bags stays as it is.

    Padding depends on the lengths of the bags: compiled, it would be compiled again for nearly every batch. What is
    compiled takes any number of samples and tiles (``dynamic=True``).

    Args:
        network: changed in place; its state_dict is not.
        backend: one of `BACKENDS`.

    Raises:
        CompileError: an unknown backend.
    """
    check_backend(backend)
    dense = [
        network.expression,
        network.slide_projections,
        network.expression_projections,
        network.fusion,
        *(network.bag.children() if network.bag is not None else ()),
    ]
    for part in dense:
        if part is not None:
            part.compile(backend=backend, dynamic=True)
