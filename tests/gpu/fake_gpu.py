"""A GPU that is none: PyTorch's PrivateUse1 backend, in Python, with tensors of the CPU behind it.

It computes what the CPU computes, backward and optimiser included. Like CUDA it refuses to mix its tensors with those
of the CPU, and it counts by line where the host would have to wait for it. It knows nothing of memory, speed, kernels
or rounding of a real GPU.

Importing this module makes it torch's accelerator, for the rest of the process.
"""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

import stablerep_hf

NAME = "fakegpu"
PACKAGE = str(Path(stablerep_hf.__file__).parent)
CPU = torch.device("cpu")

waits: Counter[str] = Counter()
"""How often the host waited for the device, by file and function of the package ("losses/gather.py gather_rows")."""


class _Backend(backend_registration._DummyBackendModule):
    """What `torch.fakegpu` answers."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def is_bf16_supported(self, *_: Any, **__: Any) -> bool:
        return True

    def get_device_properties(self, *_: Any) -> SimpleNamespace:
        return SimpleNamespace(total_memory=80 * 2**30)

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.zeros(8, dtype=torch.uint8)

    def device(self, *_: Any) -> Any:
        return nullcontext()

    def _nothing(self, *_: Any) -> None: ...

    def _is_in_bad_fork(self) -> bool:
        return False

    set_rng_state = manual_seed = manual_seed_all = synchronize = empty_cache = _nothing


backend_registration._setup_privateuseone_for_python_backend(NAME, backend_module=_Backend())
DEVICE = torch.device(NAME, 0)


class FakeTensor(torch.Tensor):
    """A tensor that says it is on the fake GPU and keeps its values in `value`, on the CPU."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: torch.Tensor) -> FakeTensor:
        return cls._make_wrapper_subclass(  # type: ignore[attr-defined, no-any-return]
            cls, value.shape, strides=value.stride(), storage_offset=value.storage_offset(), dtype=value.dtype,
            device=DEVICE, requires_grad=value.requires_grad,
        )  # fmt: skip

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"FakeTensor({self.value})"

    def tolist(self) -> Any:
        _wait()
        return self.value.tolist()

    def untyped_storage(self) -> Any:
        return self.value.untyped_storage()

    def data_ptr(self) -> int:
        return self.value.data_ptr()

    def __reduce_ex__(self, protocol: Any) -> Any:  # as what `torch.load` with `map_location="cpu"` gives
        return self.value.detach().__reduce_ex__(protocol)

    @classmethod
    def __torch_dispatch__(cls, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


def values(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a tensor, on the CPU, without a wait that would be counted."""
    return tensor.value if isinstance(tensor, FakeTensor) else tensor


@contextmanager
def fake_gpu() -> Iterator[None]:
    """Within, tensors can be made on the device or moved to it; `waits` starts empty."""
    waits.clear()
    # Backward in this thread: the device's own thread would not see the two modes.
    with torch.autograd.set_multithreading_enabled(False), _Construction(), _Dispatch():
        yield


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(op, args, kwargs or {})


class _Construction(TorchFunctionMode):
    """`torch.tensor(..., device=)` builds below the dispatcher: on the CPU, then moved with a wait, as for CUDA."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor, torch.asarray) and _is_ours(kwargs.get("device")):
            del kwargs["device"]
            made = function(*args, **kwargs)
            if isinstance(made, FakeTensor):
                return made
            _wait()
            return made.to(DEVICE, non_blocking=True)
        if function is torch.Tensor.__getitem__ and isinstance(args[1], list):  # so is the index of a list
            _wait()
            return args[0][torch.tensor(args[1])]
        if function is torch.load and _is_ours(kwargs.get("map_location")):
            kwargs["map_location"] = "cpu"
        return function(*args, **kwargs)


def _is_ours(device: Any) -> bool:
    return isinstance(device, (str, torch.device)) and torch.device(device).type == NAME


def _wait() -> None:
    for frame in reversed(traceback.extract_stack(limit=60)):
        if frame.filename.startswith(PACKAGE):
            waits[f"{Path(frame.filename).relative_to(PACKAGE).as_posix()} {frame.name}"] += 1
            return
    waits["elsewhere"] += 1


_WAITING = {
    "_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "bincount", "masked_select",
    "equal", "is_nonzero", "histc",
}  # fmt: skip
_INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
_MOVING = {"copy_", "_to_copy", "set_", "_pin_memory"}


def _run(op: Any, args: Any, kwargs: Any) -> Any:
    """Compute on the CPU what was asked of the device, and refuse or count as CUDA does."""
    name = op.overloadpacket.__name__
    leaves, spec = tree_flatten((args, kwargs))
    here = [leaf for leaf in leaves if isinstance(leaf, FakeTensor)]
    if not here and not any(_is_ours(leaf) for leaf in leaves if isinstance(leaf, torch.device)):
        return op(*args, **kwargs)
    there = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)]
    generator = kwargs.get("generator")
    if generator is not None and generator.device.type == "cpu":
        raise RuntimeError(f"{name}: expected a {NAME!r} device type for generator but found 'cpu'")
    to_host = name == "_to_copy" and bool(here) and torch.device(kwargs.get("device") or DEVICE).type == "cpu"
    if name in _INDEXING:
        if not isinstance(args[0], FakeTensor):
            raise RuntimeError(f"{name}: indices on {NAME}:0, the indexed tensor on cpu")
        if any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
            _wait()
        there = [value for value in args[2:3] if not isinstance(value, FakeTensor)]
    if name not in _MOVING and here and any(tensor.ndim for tensor in there):
        raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found {NAME}:0 and cpu")
    host_copy = name == "copy_" and not isinstance(args[0], FakeTensor)
    if name in _WAITING or ((to_host or host_copy) and not kwargs.get("non_blocking")):
        _wait()
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        _wait()
    plain = [
        leaf.value if isinstance(leaf, FakeTensor) else CPU if isinstance(leaf, torch.device) else leaf
        for leaf in leaves
    ]
    plain_args, plain_kwargs = tree_unflatten(plain, spec)
    found = op(*plain_args, **plain_kwargs)
    if name == "_local_scalar_dense" or to_host:
        return found
    if host_copy:
        return args[0]
    known = {id(tensor.value): tensor for tensor in here}  # what was changed in place comes back as it is

    def wrapped(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or isinstance(leaf, FakeTensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else FakeTensor(leaf)

    return tree_map(wrapped, found)


def _autocast_like_cuda() -> None:
    """Register CUDA's rules for the operators that models are made of; all others run in the type of their inputs."""
    key = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)
    library = torch.library.Library("aten", "IMPL")

    def cast(op: Any, to: torch.dtype | None) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            dtype = to or torch.get_autocast_dtype(NAME)

            def in_dtype(leaf: Any) -> Any:
                ours = isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.dtype != torch.float64
                return leaf.to(dtype) if ours and leaf.device.type == NAME else leaf

            with torch._C._ExcludeDispatchKeyGuard(key):
                return op(*tree_map(in_dtype, args), **tree_map(in_dtype, kwargs))

        return run

    for names, dtype in (
        ("linear matmul mm bmm addmm baddbmm einsum scaled_dot_product_attention conv2d", None),
        ("layer_norm softmax.int log_softmax.int exp log sum cumsum rsqrt mse_loss", torch.float32),
    ):
        for name in names.split():
            packet, _, overload = name.partition(".")
            op = getattr(getattr(torch.ops.aten, packet), overload or "default")
            library.impl(name, cast(op, dtype), "AutocastPrivateUse1")
    anything = torch.library.Library("_", "IMPL")
    anything.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    _KEPT.extend((library, anything))  # a library that is collected takes its rules along


_KEPT: list[Any] = []
_autocast_like_cuda()
# A subclass of Tensor made in Python cannot be an inference tensor.
torch.inference_mode = lambda *_: torch.no_grad()  # type: ignore[assignment, misc]
