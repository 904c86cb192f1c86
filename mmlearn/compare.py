"""Comparing a block built by hand with its reference: outputs and gradients, and where they first differ."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mmlearn.errors import MismatchError, ShapeError

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10, torch.float16: 1e-2, torch.bfloat16: 2e-2}


def check_shape(x: Tensor, shape: str, **sizes: int) -> dict[str, int]:
    """Check a claim about a shape, ``check_shape(x, "B T 64")``, and return the named sizes.

    Letters are names, numbers are exact, ``…`` stands for any leading dimensions. A name met twice, or given
    as a keyword, must have one size. Raises :class:`ShapeError`.
    """
    names = shape.split()
    actual = list(x.shape)
    if names and names[0] in ("…", "..."):
        names = names[1:]
        actual = actual[max(0, len(actual) - len(names)) :]
    if len(names) != len(actual):
        raise ShapeError(f"expected the shape ({shape}), got {tuple(x.shape)}: {len(names)} dimensions, not {x.dim()}")
    found = dict(sizes)
    for name, size in zip(names, actual, strict=True):
        wanted = int(name) if name.isdecimal() else found.setdefault(name, size)
        if size != wanted:
            raise ShapeError(f"expected the shape ({shape}) with {name} = {wanted}, got {tuple(x.shape)}")
    return found


def matches(
    mine: Callable,
    reference: Callable,
    *inputs: Any,
    copy: bool = True,
    map: Mapping[str, str] | Callable[[dict], dict] | None = None,
    atol: float | None = None,
    gradients: bool = True,
    select: Callable | None = None,
    **kwargs: Any,
) -> None:
    """Compare ``mine`` with ``reference`` on the same inputs, in outputs and in gradients.

    Both are functions or modules. With ``copy`` the reference's weights are first copied into ``mine``: in
    order, where shapes agree; or by ``map``, a dictionary {my name: its name} or a function from the
    reference's state dict to mine. ``select`` picks what to compare from the reference's output (say
    ``lambda out: out.last_hidden_state``). ``atol`` is the tolerance, by default 1e-5 in float32 and 1e-10 in
    float64, relative to the largest entry where that exceeds one. Prints one ✓ line; raises
    :class:`MismatchError` that says where the two first differ.
    """
    if copy and isinstance(mine, nn.Module) and isinstance(reference, nn.Module):
        copy_weights(mine, reference, map)
    was_training = [(m, m.training) for m in (mine, reference) if isinstance(m, nn.Module)]
    for module, _ in was_training:
        module.eval()
    try:
        left = _run(mine, inputs, kwargs, gradients)
        right = _run(reference, inputs, kwargs, gradients, select)
    finally:
        for module, training in was_training:
            module.train(training)
    _compare("output", left[0], right[0], atol)
    compared = ["outputs"]
    if gradients:
        _compare("gradient of input", left[1], right[1], atol)
        compared.append(f"gradients of {len(left[1])} input{'s' * (len(left[1]) != 1)}")
        if copy and isinstance(mine, nn.Module) and isinstance(reference, nn.Module):
            compared.append(f"and of {_compare_parameter_gradients(mine, reference, map, atol)} weights")
    within = TOLERANCE.get(left[0][0].dtype, 0.0) if atol is None else atol
    print(f"✓ equal within {within:g}: {', '.join(compared).replace(', and', ' and')}")


def copy_weights(mine: nn.Module, reference: nn.Module, map=None) -> None:
    """Copy the reference's weights into ``mine``, in order where shapes agree, or by ``map``."""
    mine.load_state_dict(_translate(mine, dict(reference.state_dict()), map))


def _translate(mine: nn.Module, theirs: dict[str, Tensor], map) -> dict[str, Tensor]:
    """The reference's tensors under my names."""
    wanted = mine.state_dict()
    if callable(map):
        return map(theirs)
    if map is not None:
        missing = [name for name in map.values() if name not in theirs]
        if missing:
            raise MismatchError(f"the map names {missing[0]!r}, which the reference does not have: {list(theirs)}")
        return {name: theirs[source] for name, source in map.items()}
    if len(wanted) != len(theirs):
        raise MismatchError(
            f"mine has {len(wanted)} tensors, the reference {len(theirs)}: pass map={{my name: its name}}\n"
            f"  mine: {list(wanted)}\n  reference: {list(theirs)}"
        )
    for (name, tensor), (source, other) in zip(wanted.items(), theirs.items(), strict=True):
        if tensor.shape != other.shape:
            raise MismatchError(
                f"weights do not line up: mine {name} {tuple(tensor.shape)}, the reference {source} "
                f"{tuple(other.shape)}; pass map={{my name: its name}}"
            )
    return dict(zip(wanted, theirs.values(), strict=True))


def _run(function, inputs, kwargs, gradients, select=None):
    """Outputs, and gradients of the inputs for one fixed random direction of the outputs."""
    leaves = [
        x.detach().clone().requires_grad_(gradients and x.is_floating_point()) if _tensor(x) else x for x in inputs
    ]
    if isinstance(function, nn.Module):
        function.zero_grad(set_to_none=True)
    with torch.random.fork_rng(devices=[]):
        out = function(*leaves, **kwargs)
    outputs = [y for y in _flatten(select(out) if select else out) if _tensor(y)]
    if not outputs:
        raise MismatchError(f"nothing to compare: {_name(function)} returned {type(out).__name__}, not tensors")
    if not gradients:
        return [y.detach() for y in outputs], []
    direction = torch.Generator().manual_seed(0)
    loss = sum(
        (y * torch.randn(y.shape, generator=direction, dtype=torch.float64).to(y)).sum()
        for y in outputs
        if y.is_floating_point() and y.requires_grad
    )
    if _tensor(loss):
        loss.backward()
    wanted = [x for x in leaves if _tensor(x) and x.requires_grad]
    return [y.detach() for y in outputs], [torch.zeros_like(x) if x.grad is None else x.grad for x in wanted]


def _compare_parameter_gradients(mine, reference, map, atol) -> int:
    """Translate the reference's gradients by the same map as its weights, and compare."""
    theirs = {name: (p.grad if p.grad is not None else torch.zeros_like(p)) for name, p in reference.named_parameters()}
    theirs |= {name: torch.zeros_like(b) for name, b in reference.named_buffers() if name in reference.state_dict()}
    translated = _translate(mine, theirs, map)
    compared = [(name, p) for name, p in mine.named_parameters() if name in translated]
    for name, parameter in compared:
        grad = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        _difference(f"gradient of {name}", grad, translated[name], atol)
    return len(compared)


def _compare(what: str, left: list[Tensor], right: list[Tensor], atol) -> None:
    if len(left) != len(right):
        raise MismatchError(f"✗ mine returns {len(left)} tensors, the reference {len(right)}")
    for i, (a, b) in enumerate(zip(left, right, strict=True)):
        _difference(what if len(left) == 1 else f"{what} {i}", a, b, atol)


def _difference(what: str, a: Tensor, b: Tensor, atol: float | None) -> None:
    """MismatchError with the first place where two tensors differ beyond the tolerance."""
    if a.shape != b.shape:
        raise MismatchError(f"✗ {what}: mine has the shape {tuple(a.shape)}, the reference {tuple(b.shape)}")
    if a.numel() == 0:
        return
    dtype = torch.promote_types(a.dtype, b.dtype)
    allowed = atol if atol is not None else TOLERANCE.get(dtype, 0.0)
    gap = (a.double() - b.double()).abs()
    gap = torch.where(a.eq(b) | (a.isnan() & b.isnan()), 0.0, gap)  # equal infinities, agreed NaNs
    finite = b.double().abs().nan_to_num(0.0, 0.0, 0.0)
    allowed *= max(1.0, finite.max().item())
    bad = ~(gap <= allowed)
    if bad.any():
        place = tuple(bad.nonzero()[0].tolist())
        raise MismatchError(
            f"✗ {what} differs first at {list(place)}: mine {a[place].item():.6g}, the reference "
            f"{b[place].item():.6g}; {int(bad.sum())} of {a.numel()} entries are off, the largest by {gap.max():.3g} "
            f"(allowed {allowed:.1g})"
        )


def _flatten(out) -> list:
    if isinstance(out, Mapping):
        return [y for value in out.values() for y in _flatten(value)]
    if isinstance(out, tuple | list):
        return [y for value in out for y in _flatten(value)]
    return [out]


def _tensor(x) -> bool:
    return isinstance(x, Tensor)


def _name(function) -> str:
    return getattr(function, "__name__", type(function).__name__)
