"""A pretended GPU: it refuses what a CUDA device refuses, and counts what that would wait for.

    with pretended_gpu() as traffic:
        x = torch.zeros(3, device="cuda")
        x + torch.zeros(3)  # RuntimeError: two devices
        x.sum().item()      # traffic.reads == 1

A tensor *on the GPU* is a wrapper around a CPU tensor that computes for it, so results are those of
the CPU. Under autograd, ``vmap`` and modules nothing changes: the wrapper is below them. Two modes
do the work. :class:`_Names` sees calls of torch's Python functions: it translates the name of the
device, and judges generators and conversions to NumPy. :class:`_Kernels` sees the operations that a
device would run, the ones inside of C++ and of backward passes too: it judges on which devices
their tensors are, and counts.

To C++ the wrapper is on ``lazy``, the only kind of device whose backward pass needs neither a
driver nor streams. Python code is told ``cuda:0``.

CUDA graphs are captured if nothing in them waits for the GPU or copies from the host.

With ``memory`` it has no more than these bytes: an operation whose result does not fit beside the
tensors that are alive raises the error of torch's allocator for CUDA.

Not pretended: memory within an operation, time, order of summation, autocast, streams, several
GPUs, foreach and fused optimisers (torch takes them for its own tensor type only).
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._C import DisableTorchFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from dd.runtime.cuda_graphs import Captured
from dd.runtime.memory import Living

SHOWN, HIDDEN = torch.device("cuda", 0), torch.device("lazy", 0)
NAME = "pretended GPU"
MEMORY = 8e9  # bytes
OWN = "/dd/"  # events are put down to the innermost line of a file with this in its path
FORMER = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 14)
"""Whether this torch is of those that change shapes in place themselves, in gradients of gradients
of norms (seen in 2.11, not in 2.14)."""
aten = torch.ops.aten


@dataclass
class Traffic:
    """What passed between host and device.

    Attributes:
        read: by line of the project, how often the host waited for a value of the device:
            ``item``, ``tolist``, ``bool``, ``cpu``, and operations whose result has a size that
            depends on values (``nonzero``, masks as indices).
        sent: by line of the project, how many tensors were copied from the host to the device,
            CPU indices of device tensors among them.
    """

    read: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)

    @property
    def reads(self) -> int:
        """The number of times that the host waited."""
        return self.read.total()

    @property
    def copies(self) -> int:
        """The number of copies to the device."""
        return self.sent.total()

    def __sub__(self, other: Traffic) -> Traffic:
        """What is in this traffic beyond ``other``."""
        return Traffic(self.read - other.read, self.sent - other.sent)

    def __str__(self) -> str:
        """One line for each line of the project, the busiest first."""
        each = [(n, "reads", at) for at, n in self.read.items()]
        each += [(n, "copies", at) for at, n in self.sent.items()]
        return "\n".join(f"{n:6d} {what} {at}" for n, what, at in sorted(each, reverse=True))


class OnDevice(Tensor):
    """A tensor on the pretended GPU.

    Attributes:
        held: the CPU tensor with its values.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=HIDDEN,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(
        cls,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        raise RuntimeError(f"{func} on a tensor of a pretended GPU that is gone")

    def __repr__(self, *, tensor_contents: str | None = None) -> str:
        return f"OnDevice({self.held!r})"


class Stream(torch.Generator):
    """A generator on the pretended GPU; it draws what a CPU generator of the same seed draws.

    It takes the place of ``torch.Generator``, so it makes CPU generators too.
    """

    def __new__(cls, device: torch.device | str = "cpu") -> Any:
        if torch.device(device).type != "cuda":
            return _Generator(device=device)
        return super().__new__(cls)

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """The device is that of :meth:`__new__`."""

    @property
    def device(self) -> torch.device:
        return SHOWN


_Generator = torch.Generator


def _where() -> str:
    """The innermost line of the project that is being executed, as ``file:line``."""
    frame = sys._getframe(1)
    first = ""
    while frame is not None:
        name = frame.f_code.co_filename
        if OWN in name and "site-packages" not in name:
            return f"{name[name.rindex(OWN) + 1 :]}:{frame.f_lineno}"
        if not first and "/torch/" not in name and name != __file__:
            first = f"{name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return first


def _on_device(value: Any) -> bool:
    """Whether ``value`` is a tensor on the pretended GPU, be it under ``vmap`` or ``grad``."""
    if not isinstance(value, Tensor):
        return False
    with DisableTorchFunction():
        return value.device.type == HIDDEN.type


class _Names(TorchFunctionMode):
    """Translates the device's name in calls from Python, and judges generators and NumPy."""

    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self.traffic = traffic

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if func is torch.device:
            return func(*args, **kwargs)
        if name == "__get__":
            return self._attribute(func, args)
        if args and name in ("numpy", "__array__") and _on_device(args[0]):
            raise TypeError(
                f"can't convert {SHOWN} device type tensor to numpy. Use Tensor.cpu() to copy the "
                "tensor to host memory first."
            )
        if func in _BACKWARD:
            _check_cotangents(_BACKWARD[func], args, kwargs)
        if name == "tolist" and isinstance(args[0], OnDevice):
            self.traffic.read[_where()] += 1
            return args[0].held.tolist()
        if name in ("__getitem__", "__setitem__") and isinstance(args[1], list):
            # torch would make a tensor of the list below the modes
            args = [args[0], torch.tensor(args[1]), *args[2:]]
        args = [_hidden(value) for value in args]
        kwargs = {key: _hidden(value) for key, value in kwargs.items()}
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == HIDDEN:
            # these copy to the device below the modes
            return func(*args, **kwargs | {"device": "cpu"}).to(HIDDEN)
        for value in (*args, *kwargs.values()):
            if isinstance(value, _Generator):
                _check_generator(value, args, kwargs)
        return func(*args, **kwargs)

    @staticmethod
    def _attribute(func: Any, args: Sequence[Any]) -> Any:
        value = func(*args)
        if isinstance(value, torch.device):
            return SHOWN if value.type == HIDDEN.type else value
        if func.__self__ is Tensor.is_cuda:
            return _on_device(args[0])
        return value


# Where these functions have the derivatives that they start from; the first argument is what they
# differentiate. C++ does not compare the devices of wrappers.
_BACKWARD = {
    torch.autograd.grad: (2, "grad_outputs"),
    torch.autograd.backward: (1, "grad_tensors"),
    Tensor.backward: (1, "gradient"),
}


def _check_cotangents(
    place: tuple[int, str], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raise as autograd does if a derivative is not on the device of what it is of."""
    position, name = place
    given = args[position] if len(args) > position else kwargs.get(name)
    ends, starts = (
        [value] if isinstance(value, Tensor) else list(value or []) for value in (args[0], given)
    )
    for end, start in zip(ends, starts, strict=False):
        if start is not None and _on_device(end) != _on_device(start):
            raise RuntimeError(
                f"invalid gradient: expected device {end.device}, got {start.device}"
            )


def _hidden(value: Any) -> Any:
    """What C++ is told in place of the device ``cuda``; any other value as it is."""
    if isinstance(value, str) and value.partition(":")[0] == "cuda":
        value = torch.device(value)
    if isinstance(value, torch.device) and value.type == "cuda":
        if value.index:
            raise RuntimeError("CUDA error: invalid device ordinal")
        return HIDDEN
    return value


def _check_generator(
    generator: torch.Generator, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> None:
    """Raise as torch does if a draw is not on the device of its generator."""
    target = kwargs.get("device")
    if target is None:
        of_tensors = [value for value in args if isinstance(value, Tensor)]
        with DisableTorchFunction():
            target = of_tensors[0].device if of_tensors else torch.device("cpu")
    kind, own = torch.device(target).type, torch.device(generator.device).type
    if kind == "meta":
        return
    kind = "cuda" if kind == HIDDEN.type else kind
    if kind != own:
        raise RuntimeError(f"Expected a '{kind}' device type for generator but found '{own}'")


# Operations for which the host waits, since the size or the meaning of the result depends on values
_WAITING = {
    aten._local_scalar_dense,
    aten._linalg_check_errors,
    aten._unique2,
    aten.bincount,
    aten.equal,
    aten.masked_select,
    aten.nonzero,
    aten.unique_consecutive,
    aten.unique_dim,
}
_INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._unsafe_index, aten._index_put_impl_}
_CROSSING = {aten._to_copy, aten.copy_, aten.copy}


class _Kernels(TorchDispatchMode):
    """Runs operations on the CPU tensors that are held, after it has judged and counted them."""

    def __init__(self, traffic: Traffic, memory: float) -> None:
        super().__init__()
        self.traffic, self.memory = traffic, memory
        self.living = Living()
        self.tape: list[tuple[Any, ...]] | None = None  # what a capture has seen
        self.pool = 0  # bytes of the next graphs

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        given = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        on_device = any(isinstance(value, OnDevice) for value in given)
        named = kwargs.get("device")
        if named is not None and named.type == HIDDEN.type:
            kwargs["device"] = torch.device("cpu")
        to_device = on_device if named is None else named.type == HIDDEN.type
        if not on_device and not to_device:
            return func(*args, **kwargs)
        kind = func.overloadpacket
        if kind in _CROSSING:
            self._cross(kind, args, to_device)
        elif named is None:
            self._judge(func, args, kwargs, given)
        if kind in _WAITING or _waits(kind, args, kwargs):
            self.traffic.read[_where()] += 1
        held = tree_map(_held, list(args)), tree_map(_held, kwargs)
        made = func(*held[0], **held[1])
        if self.tape is not None:
            self.tape.append((func, *held, made))
        if to_device:
            self._allocate(made)
        return self._wrapped(func, args, kwargs, made, to_device)

    def _allocate(self, made: Any) -> None:
        """Count the results of an operation; raise as CUDA does if they do not fit."""
        for tensor in tree_flatten(made)[0]:
            if isinstance(tensor, Tensor) and not isinstance(tensor, OnDevice):
                self.living.see(tensor)
        if self.living.now > self.memory:
            raise torch.OutOfMemoryError(
                f"CUDA out of memory. Tried to allocate {self.living.now - self.memory:.0f} bytes "
                f"more than the {self.memory:.0f} of GPU 0"
            )

    def _cross(self, kind: Any, args: Sequence[Any], to_device: bool) -> None:
        """Count a copy between the devices, if it is one."""
        source = args[0] if kind is aten._to_copy else args[1]
        target = to_device if kind is aten._to_copy else isinstance(args[0], OnDevice)
        if isinstance(source, OnDevice) and not target:
            self.traffic.read[_where()] += 1
        elif target and not isinstance(source, OnDevice):
            self.traffic.sent[_where()] += 1

    def _judge(
        self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], given: Sequence[Tensor]
    ) -> None:
        """Raise as CUDA does if tensors are on two devices; count CPU indices."""
        strangers = [value for value in given if not isinstance(value, OnDevice)]
        kind = func.overloadpacket
        if kind in _INDEXING and isinstance(args[0], OnDevice):
            indices = [value for value in args[1] if isinstance(value, Tensor)]
            by_host = [value for value in indices if not isinstance(value, OnDevice)]
            self.traffic.sent[_where()] += len(by_host)
            if not by_host:  # Counter keeps keys of count 0
                del self.traffic.sent[_where()]
            strangers = [value for value in strangers if not any(value is i for i in by_host)]
        changed = [
            args[n]
            for n, argument in enumerate(func._schema.arguments[: len(args)])
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        # a CPU tensor without dimensions is a number to operations that go element by element
        if torch.Tag.pointwise in func.tags or kind in (aten.index_put_, aten.masked_fill_):
            strangers = [
                value for value in strangers if value.ndim or any(value is c for c in changed)
            ]
        if strangers:
            others = {str(value.device) for value in strangers}
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, "
                f"{SHOWN} and {', '.join(sorted(others))}! ({func})"
            )

    @staticmethod
    def _wrapped(
        func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], made: Any, to_device: bool
    ) -> Any:
        """The result: what was changed in place is the argument itself, the rest is wrapped."""
        arguments = {a.name: value for a, value in zip(func._schema.arguments, args, strict=False)}
        arguments |= kwargs
        written = {
            sign: arguments.get(a.name)
            for a in func._schema.arguments
            if a.alias_info is not None and a.alias_info.is_write
            for sign in a.alias_info.before_set
        }

        def one(declared: Any, value: Any) -> Any:
            if declared.alias_info is not None and declared.alias_info.is_write:
                (sign,) = declared.alias_info.before_set
                target = written[sign]
                if isinstance(target, OnDevice) and target.shape != target.held.shape:
                    # its wrapper cannot follow; no code of ours needs that
                    text = f"{func} changes a shape in place, use one that does not"
                    if FORMER:
                        pytest.skip(f"torch {torch.__version__}: {text}")
                    raise RuntimeError(text)
                return target
            return tree_map(_wrap if to_device else _same, value)

        declared = func._schema.returns
        if len(declared) == 1:
            return one(declared[0], made)
        if len(declared) > 1:
            return tuple(one(d, value) for d, value in zip(declared, made, strict=True))
        return None


def _warm(kernels: _Kernels, work: Callable[[], Any]) -> None:
    """Call ``work``; as CUDA does when asked, refuse that it waits or copies from the host. What
    it takes is what graphs of it will hold."""
    before, living = (kernels.traffic.reads, kernels.traffic.copies), kernels.living
    kernels.living = Living()
    try:
        work()
        kernels.pool = kernels.living.peak
    finally:
        kernels.living = living
    if (kernels.traffic.reads, kernels.traffic.copies) != before:
        raise RuntimeError("called a synchronizing CUDA operation")


def _capture(kernels: _Kernels, work: Callable[[], Any], pool: Any = None) -> Captured[Any]:
    """Stands for a CUDA graph: operations are written down, and repeated on the same tensors.

    The first graph reserves the memory that :func:`_warm` found, whatever stays alive here.
    """
    living, kernels.living = kernels.living, Living()
    kernels.tape = tape = []
    try:
        made = work()
    finally:
        kernels.tape, kernels.living = None, living
    if pool is None:
        living.now += kernels.pool
        living.peak = max(living.peak, living.now)

    def replay() -> None:
        for func, args, kwargs, results in tape:
            again = func(*args, **kwargs)
            for old, new in zip(tree_flatten(results)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():  # no view
                    old.copy_(new)

    return Captured(replay, made, "a pool" if pool is None else pool)


def _waits(kind: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether this call is one for which the host waits, though others of its kind are not."""
    if kind in _INDEXING:
        masks = [
            value
            for value in args[1]
            if isinstance(value, OnDevice) and value.dtype in (torch.bool, torch.uint8)
        ]
        fills = kind is not aten.index and len(args[1]) == 1 and args[2].numel() == 1
        return bool(masks) and not fills
    if kind is aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return False


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _wrap(value: Any) -> Any:
    return OnDevice(value) if isinstance(value, Tensor) and value.device.type == "cpu" else value


def _same(value: Any) -> Any:
    return value


@contextmanager
def pretended_gpu(memory: float = MEMORY) -> Iterator[Traffic]:
    """While the context lasts, torch has one GPU of ``memory`` bytes; yields the traffic with it.

    Tensors on the device are of no use afterwards.
    """
    traffic = Traffic()
    kernels = _Kernels(traffic, memory)
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "max_memory_allocated": lambda device=None: kernels.living.peak,
        "get_device_name": lambda device=None: NAME,
        "get_device_properties": lambda device=None: SimpleNamespace(total_memory=memory),
        "mem_get_info": lambda device=None: (memory - kernels.living.now, memory),
        "memory_allocated": lambda device=None: kernels.living.now,
        "memory_reserved": lambda device=None: kernels.living.now,
        "is_current_stream_capturing": lambda: False,
    }
    graphs = {"warm": partial(_warm, kernels), "capture": partial(_capture, kernels)}
    with (
        mock.patch.multiple(torch.cuda, **answers),
        mock.patch.multiple("dd.runtime.cuda_graphs", **graphs),
        mock.patch.object(torch, "Generator", Stream),
        # optimisers ask it whether a CUDA graph is being captured
        mock.patch.object(
            torch.accelerator, "current_accelerator", lambda check_available=False: None
        ),
        kernels,
        _Names(traffic),
    ):
        yield traffic
