"""A pretended CUDA device on a CPU: real numbers, and an error wherever CUDA would refuse tensors
of two devices.

`pretend()` turns a process into one that sees such a GPU, to its end. Each storage "on the GPU" is
noted. A function mode answers `.device` from the notes and turns a request for CUDA into a noted
CPU tensor; a dispatch mode notes what comes out of operators, and raises where one meets both
kinds. What needs a driver (FlashAttention, Triton, sums wider than their products) has a stand-in
that checks where its tensors lie. Speed, memory, kernels and NCCL are not pretended.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import accelerate
import torch
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CUDA, CPU, PLAIN = torch.device("cuda", 0), torch.device("cpu"), torch._C.TensorBase
COPIES = ("copy_", "_to_copy", "set_")  # from one device to the other
# With these and `index` a tensor on the GPU may be indexed by one on the CPU.
WRITING = (
    "index_put_",
    "_index_put_impl_",
)

# By address, which the reference keeps from being given to another.
noted: dict[int, StorageWeakRef] = {}
making = [False]  # whether what is made from nothing lies on the GPU


def storage_of(x: Tensor) -> Any:
    with torch._C.DisableTorchFunction():
        return x.untyped_storage()


def on_gpu(x: Tensor) -> bool:
    key = storage_of(x)._cdata
    if key in noted and noted[key].expired():
        del noted[key]
    return key in noted


def note(x: Tensor, gpu: bool) -> Tensor:
    storage = storage_of(x)
    noted.pop(storage._cdata, None)
    if gpu:
        noted[storage._cdata] = StorageWeakRef(storage)
    return x


def tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def is_cuda(device: Any) -> bool:
    return torch.device(device).type == "cuda"


class Notes(TorchDispatchMode):
    """Where the outputs of an operator lie; a 0-dimensional CPU tensor may stand beside ones on the
    GPU, as on CUDA.
    """

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        given, name = tensors((args, kwargs)), func._schema.name.removeprefix("aten::")
        where = [on_gpu(x) for x in given]
        astray = [
            tuple(x.shape)
            for x, gpu in zip(given, where, strict=True)
            if not gpu and (x.dim() or name in ("cat", "stack"))
        ]
        if name in WRITING and where[0] and args[2].dim() and not on_gpu(args[2]):
            raise RuntimeError(f"{func}: the values {tuple(args[2].shape)} are not on the GPU")
        if (
            any(where)
            and astray
            and name not in COPIES
            and not (name in (*WRITING, "index") and where[0])
        ):
            raise RuntimeError(
                f"{func}: of {[tuple(x.shape) for x in given]} not on the GPU: {astray}"
            )
        before = {storage_of(x)._cdata for x in given}
        found = func(*args, **kwargs or {})
        for x in tensors(found):
            if storage_of(x)._cdata not in before:
                note(x, any(where) or (not given and making[0]))
        return found


class Answers(TorchFunctionMode):
    """What a program asks of devices, and what it asks for on one."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs, name, given = (
            dict(kwargs or {}),
            getattr(func, "__name__", ""),
            tensors((args, kwargs)),
        )
        asked = (
            getattr(getattr(func, "__self__", None), "__name__", "") if name == "__get__" else ""
        )
        if asked in ("device", "is_cuda", "is_cpu"):
            gpu = on_gpu(args[0])
            return {"device": CUDA if gpu else func(*args), "is_cuda": gpu, "is_cpu": not gpu}[
                asked
            ]
        if func is torch.Tensor.backward:  # what runs below it asks for devices too
            with self:
                return torch.autograd.backward(args[0], kwargs.pop("gradient", None), **kwargs)
        if name in ("numpy", "__array__") and on_gpu(args[0]):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if name in ("cpu", "cuda", "to") and given:
            return moved(*args, *([] if name == "to" else [name]), **kwargs)
        return func(*args, **kwargs) if name == "_parse_to" else made(func, args, kwargs, given)


def made(func: Any, args: tuple, kwargs: dict[str, Any], given: list[Tensor]) -> Any:
    """Call `func`, which may be told a device to make its output on; else that is made where its
    arguments lie.
    """
    devices = [x for x in args if isinstance(x, torch.device)]
    if kwargs.get("device") is not None:
        devices.append(torch.device(kwargs["device"]))
    gpu = is_cuda(devices[0]) if devices else any(map(on_gpu, given))
    if devices and gpu:
        args = tuple(CPU if isinstance(x, torch.device) else x for x in args)
        kwargs |= {"device": CPU} if "device" in kwargs else {}
    outer, making[0] = making[0], gpu
    try:
        found = func(*args, **kwargs)
    finally:
        making[0] = outer
    for x in tensors(found) if devices else []:
        note(x, gpu)
    return found


def moved(x: Tensor, *how: Any, **also: Any) -> Tensor:
    """`x.to(…)`: onto another device it is copied, and noted."""
    asked = how[0] if how and isinstance(how[0], (torch.device, str)) else also.get("device")
    if how and isinstance(how[0], Tensor):
        asked = CUDA if on_gpu(how[0]) else CPU
    real = torch.device("meta") if asked is not None and torch.device(asked).type == "meta" else CPU
    how = tuple(real if isinstance(h, (torch.device, str)) else h for h in how)
    also |= {"device": real} if also.get("device") is not None else {}
    if asked is None or real.type == "meta" or is_cuda(asked) == on_gpu(x):
        return PLAIN.to(x, *how, **also)
    return note(PLAIN.to(x, *how, **also | {"copy": True}), is_cuda(asked))


# What stands in for kernels, with the signatures of what it stands in for.


def varlen_attn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    ends: Tensor,
    _: Tensor,
    longest: int,
    __: int,
    scale: Any,
    window_size: Any,
):
    assert all(map(on_gpu, (q, k, v, ends)))
    assert q.dtype == k.dtype == v.dtype == torch.bfloat16
    assert ends.dtype == torch.int32
    assert isinstance(longest, int)
    pieces = [x.transpose(0, 1).split(ends.diff().tolist(), dim=1) for x in (q, k, v)]
    how = {"is_causal": window_size == (-1, 0), "scale": scale}
    found = [scaled_dot_product_attention(*sample, **how) for sample in zip(*pieces, strict=True)]
    return torch.cat(found, dim=1).transpose(0, 1)


def add_product_(total: Tensor, a: Tensor, b: Tensor) -> None:
    assert all(map(on_gpu, (total, a, b)))
    assert a.dtype == b.dtype
    total += a.to(total.dtype) @ b.to(total.dtype)


def words_to_gradient_(
    z: Tensor,
    bins_1: Tensor,
    bins_t: Tensor,
    scale: Tensor,
    temperature: float,
    targets: Tensor | None,
):
    assert all(map(on_gpu, tensors((z, bins_1, bins_t, scale, targets)))), (
        "scalars too: a kernel reads by address"
    )
    assert z.stride(1) == 1
    wide = z.float()
    top = wide.amax(-1, keepdim=True)
    lse_1 = torch.logaddexp(wide.logsumexp(-1, keepdim=True), bins_1)
    lse_t = torch.logaddexp((wide / temperature).logsumexp(-1, keepdim=True), bins_t)
    gradient = scale * (wide / temperature - lse_t).exp()
    z.copy_(
        gradient
        if targets is None
        else gradient.scatter_add_(-1, targets, -scale.expand(len(z), 1))
    )
    return top, lse_1, lse_t


def pretend() -> None:
    """From now on, and for this process alone, there is a GPU."""
    from coordexp.losses import gradients
    from coordexp.models import attention

    enter_autocast, start = torch.autocast.__init__, accelerate.Accelerator.__init__

    def accelerator(self: Any, *args: Any, cpu: bool = False, **kwargs: Any) -> None:
        start(self, *args, cpu=True, **kwargs)
        for state in (AcceleratorState._shared_state, PartialState._shared_state):
            state["device"] = CPU if cpu else CUDA

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        enter_autocast(self, device_type.replace("cuda", "cpu"), *args, **kwargs)

    torch.autocast.__init__, accelerate.Accelerator.__init__ = autocast, accelerator
    for name in ("is_autocast_enabled", "get_autocast_dtype"):
        real = getattr(torch, name)
        setattr(torch, name, lambda device="cpu", real=real: real(device.replace("cuda", "cpu")))
    for name, answer in {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "get_rng_state": None,
        "set_rng_state": None,
    }.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)
    attention.varlen_attn, gradients.add_product_ = varlen_attn, add_product_
    if importlib.util.find_spec("triton"):
        from coordexp.losses import kernel

        kernel.words_to_gradient_ = words_to_gradient_
    Notes().__enter__()
    Answers().__enter__()
