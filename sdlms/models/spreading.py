"""A model that is larger than one device: accelerate spreads its modules over several.

Modules that no accelerator has room for stay in the machine's memory, then on its disk; hooks
bring their weights in for each forward, and move what flows between devices.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from sdlms.errors import UserError
from sdlms.models.calibration import DeviceMemory, bytes_to_leave
from sdlms.models.device import dtype_of, memory_of, n_cuda_devices, read_cuda_memory
from sdlms.models.failures import quiet_transformers
from sdlms.models.fresh import empty_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

WEIGHTS_FRACTION = 0.9  # of the memory that may be used; the rest is for activations
CPU = torch.device("cpu")
DeviceMap = Literal["none", "auto"]
ModuleDevices = dict[str, int | str]
"""Path of a module -> index of a CUDA device, `cpu`, `mps` or `disk`; path "" is all of it."""


@dataclass(frozen=True)
class Spread:
    """How a model is to be spread.

    Attributes:
        modules: where each module goes, as `planned_modules` says.
        offload: folder for weights that go to the disk and are there in no other file.
    """

    modules: ModuleDevices
    offload: Path

    def arguments(self) -> dict[str, Any]:
        """What `from_pretrained` is given.

        Raises:
            UserError: a module goes to a device that this machine lacks.
        """
        for place in self.modules.values():
            if isinstance(place, int) and place >= n_cuda_devices():
                raise UserError(
                    f"the run's model lay on cuda:{place} too; this machine has {n_cuda_devices()} "
                    "CUDA devices. Resume it where it was begun, or start anew without --resume."
                )
        return {"device_map": self.modules, "offload_folder": self.offload}


def check_device_map(device_map: DeviceMap, device: str) -> None:
    """Make sure that `--device-map` can work, beside `--device` and on this machine.

    Raises:
        UserError: both settings place the model, or accelerate is not installed.
    """
    if device_map == "none":
        return
    if device != "auto":
        raise UserError(
            f"--device-map auto takes all devices, --device {device} names one. Give one of them."
        )
    if importlib.util.find_spec("accelerate") is None:
        raise UserError(
            "--device-map auto needs accelerate, which is not installed. "
            "Install it: pip install 'sdlms[large]'"
        )


def decided_modules(
    device_map: DeviceMap,
    config: "PreTrainedConfig",
    dtype: str,
    free_memory: str,
    device: torch.device,
) -> tuple[ModuleDevices | None, torch.device]:
    """Where `--device-map` puts each module of a base model on this machine; None: on one device.

    Args:
        device_map: as `--device-map` has it.
        config: the model's; no weights are read.
        dtype: of the weights, as `--dtype` has it; `auto` is that of the device which is returned.
        free_memory: as `--free-memory` has it.
        device: what `--device` means.

    Returns:
        The map, and the device that speaks for it: `device` itself where there is no map.

    Raises:
        UserError: the type is not for the device which the map falls back on.
    """
    if device_map == "none":
        return None, device
    room = room_for_weights(free_memory)
    modules = planned_modules(config, dtype_of(dtype, device), room)
    used = first_device(modules)
    if dtype_of(dtype, used) != dtype_of(dtype, device):  # weights of another size
        modules = planned_modules(config, dtype_of(dtype, used), room)
    return modules, used


def first_device(modules: ModuleDevices) -> torch.device:
    """The device by which a map is known: its first CUDA device, or else MPS, or else the CPU."""
    if indices := [place for place in modules.values() if isinstance(place, int)]:
        return torch.device("cuda", min(indices))
    return torch.device("mps") if "mps" in modules.values() else CPU


def planned_modules(
    config: "PreTrainedConfig", dtype: torch.dtype, max_memory: dict[int | str, int] | None
) -> ModuleDevices:
    """Where each module of a base model goes: accelerate fills the devices, blocks are kept whole.

    Args:
        config: the model's; no weights are read.
        dtype: of the weights.
        max_memory: CUDA index or `cpu` -> bytes that weights may take; None: what is free there.
    """
    from accelerate import infer_auto_device_map  # type: ignore[import-untyped]
    from accelerate.utils import get_balanced_memory  # type: ignore[import-untyped]

    with quiet_transformers():
        model = empty_model(config, dtype)
        whole = {"no_split_module_classes": list(model._no_split_modules or []), "dtype": dtype}
        balanced = get_balanced_memory(model, max_memory, **whole)
        return dict(infer_auto_device_map(model, max_memory=balanced, **whole))


def room_for_weights(free_memory: str) -> dict[int | str, int] | None:
    """Bytes that weights may take on this machine's devices; None where there is no CUDA device."""
    cuda = [memory_of(torch.device("cuda", index)) for index in range(n_cuda_devices())]
    return weights_bytes(cuda, memory_of(CPU)[1], free_memory) if cuda else None


def weights_bytes(
    cuda: Sequence[tuple[int, int]], available_bytes: int, free_memory: str
) -> dict[int | str, int]:
    """How much of each device weights may take, so that `free_memory` and activations have room.

    Args:
        cuda: total and free bytes of each CUDA device.
        available_bytes: free memory of the machine.
        free_memory: as `--free-memory` has it.
    """
    usable = [max(free - bytes_to_leave(free_memory, total), 0) for total, free in cuda]
    limits: dict[int | str, int] = {i: int(WEIGHTS_FRACTION * n) for i, n in enumerate(usable)}
    return {**limits, "cpu": int(WEIGHTS_FRACTION * available_bytes)}


def with_head(spread: Spread, config: "PreTrainedConfig") -> Spread:
    """The same places for a causal model, whose base model is one of its modules.

    The head goes where its weights are, or else where the base model ends.

    Args:
        spread: as planned for the base model.
        config: the causal model's; no weights are read.
    """
    if "" in spread.modules:
        return spread
    with quiet_transformers():
        model = empty_model(config, torch.float32, "causal")
    names = {module: name for name, module in model.named_modules()}
    modules = {f"{model.base_model_prefix}.{name}": at for name, at in spread.modules.items()}
    embedding = model.get_input_embeddings()
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    place = list(modules.values())[-1]
    if head.weight is embedding.weight:
        path = names[embedding]
        place = next(at for name, at in modules.items() if f"{path}.".startswith(f"{name}."))
    return Spread({**modules, names[head]: place}, spread.offload)


def is_spread(model: "PreTrainedModel") -> bool:
    """Whether hooks move weights and activations; not where one device holds everything."""
    return hasattr(model, "hf_device_map")


def input_device(model: "PreTrainedModel") -> torch.device:
    """Where a batch is handed over. The hooks of a spread model take it from there."""
    return CPU if is_spread(model) else model.device


def cuda_devices(model: "PreTrainedModel") -> list[torch.device]:
    """The CUDA devices that hold parts of the model, in order."""
    spread: ModuleDevices = getattr(model, "hf_device_map", {})
    indices = {place for place in spread.values() if isinstance(place, int)}
    if not is_spread(model) and model.device.type == "cuda":
        return [model.device]
    return [torch.device("cuda", index) for index in sorted(indices)]


def read_memory(model: "PreTrainedModel") -> list[DeviceMemory]:
    """The memory of each CUDA device that holds a part of the model; their peaks start anew."""
    return [read_cuda_memory(device) for device in cuda_devices(model)]
