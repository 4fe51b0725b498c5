"""Folders that `save_pretrained` of transformers wrote: networks with a semantic head, and universal ones."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.network_files import checked_file, read_json
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated
from magnet_cli.options.foreign_network import ClassChoice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from magnet_cli.models.foreign.foreign_spec import ForeignSpec
    from magnet_cli.options.foreign_network import NetworkOptions
    from magnet_cli.options.shared import EngineName

ADVICE = "Write the folder again with save_pretrained of transformers"

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
JOINED, IMAGES = "processor_config.json", "image_processor"
"""File, and its key, of the processor of images where one of texts belongs to the network too, since version 5."""
WEIGHTS, INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"
SEMANTIC = ("beit", "data2vec-vision", "dpt", "mobilenet_v2", "mobilevit", "mobilevitv2", "segformer", "upernet")
"""Types whose heads give logits of each pixel's classes."""
UNIVERSAL = ("mask2former", "maskformer", "eomt", "oneformer")
"""Types that give masks, and classes for each mask."""
TASK = "the task is semantic"
"""Sentence that OneFormer takes beside the image, as numbers of its vocabulary."""
TASK_LENGTH = 77
"""Numbers of that sentence where the configuration states no other count; the rest are zeros."""
VOCABULARY, TOKENIZER = ("vocab.json", "merges.txt"), "tokenizer.json"
"""Files of the vocabulary of that sentence. Since its version 5 the library writes one file in place of the two."""
OF_TRAINING = "model.text_mapper."
"""Beginning of the names of OneFormer's weights that its training alone uses."""
BYTE = 255.0
PLAIN = "MobileViT"
"""Beginning of the names of processors that exchange red and blue unless their file denies it, and never normalise: the
library writes a mean and a deviation into their files, and does not apply them."""
WRONG = {"missing_keys": "missing", "unexpected_keys": "left over", "mismatched_keys": "of another shape"}
"""Lists of the weights that do not fit, which the library reports and passes over."""


class TransformersFolder:
    """Reads and loads networks of transformers."""

    name = "transformers"
    extra = "transformers"
    packages: tuple[str, ...] = ("transformers",)
    modules: tuple[str, ...] = ("transformers",)
    engines: tuple[EngineName, ...] = ("torch",)

    def claims(self, path: Path) -> bool:
        """Return whether a folder's config.json names a type of the library."""
        return (path / CONFIG).is_file() and "model_type" in read_json(path, CONFIG)

    def read(self, path: Path, options: NetworkOptions) -> NetworkReading:
        """Return what config.json and preprocessor_config.json state."""
        del options
        config = read_json(path, CONFIG)
        _check_type(config, file=path / CONFIG)
        files = [CONFIG, *_weights(path)]
        name, processor = _processor(path)
        if processor:
            files.append(name)
        return NetworkReading(
            kind=self.name,
            path=path,
            root=path,
            files=tuple(files),
            stated={**_stated(config, file=path / CONFIG), **_stated_by_processor(name, processor)},
            options={"task": _task(path, config)} if config["model_type"] == "oneformer" else {},
        )

    def load(self, folder: Path, spec: ForeignSpec, engine: EngineName) -> nn.Module:
        """Load the weights in float32, and refuse those that are missing or left over: the library would go on."""
        import transformers  # noqa: PLC0415 - an extra

        del engine
        config = read_json(folder, CONFIG)
        _check_type(config, file=folder / CONFIG)
        for name in spec.files:
            checked_file(folder, name)
        universal = config["model_type"] in UNIVERSAL
        library: Any = transformers
        head = library.AutoModelForUniversalSegmentation if universal else library.AutoModelForSemanticSegmentation
        if config["model_type"] == "maskformer":
            head = library.MaskFormerForInstanceSegmentation
        try:
            with _apart():
                network, loaded = head.from_pretrained(
                    folder,
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    dtype=torch.float32,
                    output_loading_info=True,
                )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as exc:
            line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
            raise WeightsError(
                f"transformers cannot load the network: {line}",
                file=folder,
                advice=ADVICE,
            ) from exc
        amiss = {
            key: sorted(name for name in map(str, loaded.get(key) or ()) if not name.startswith(OF_TRAINING))
            for key in WRONG
        }
        wrong = [f"{len(amiss[key])} {word}: {', '.join(amiss[key][:4])}" for key, word in WRONG.items() if amiss[key]]
        if wrong:
            raise WeightsError(
                "the weights do not fit the network",
                value="; ".join(wrong),
                file=folder,
                advice="Take weights of this very network: random numbers in their place give a mask without meaning",
            )
        found = cast("nn.Module", network)
        return MaskClasses(found, task=spec.options.get("task")) if universal else SemanticHead(found)


class SemanticHead(nn.Module):
    """Calls a network of transformers with patches, and takes the logits out of its answer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """`(n, bands, h, w)` to logits `(n, classes, h', w')`."""
        found: Tensor = self.network(pixel_values=x).logits
        return found


class MaskClasses(nn.Module):
    """Makes scores of classes of the masks of a universal network and of the classes of each mask.

    The score of a class is the sum over all masks of the mask's probability of that class times the pixel's probability
    of lying in the mask (the null class is left out), as the library's own processors have it; they take its maximum.

    Args:
        network: The network of the library.
        task: Numbers of the sentence that names the task, where the network takes one.
    """

    def __init__(self, network: nn.Module, task: Sequence[int] | None = None) -> None:
        super().__init__()
        self.network = network
        self.task: Tensor | None
        self.register_buffer("task", None if task is None else torch.tensor([list(task)]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, bands, h, w)` to scores `(n, classes, h, w)`, which sum to anything."""
        given = {} if self.task is None else {"task_inputs": self.task.expand(len(x), -1)}
        found = self.network(pixel_values=x, **given)
        masks = found.masks_queries_logits.float()
        masks = nn.functional.interpolate(masks, size=x.shape[2:], mode="bilinear", align_corners=False)
        classes = found.class_queries_logits.float().softmax(dim=-1)[..., :-1]
        return torch.einsum("bqc,bqhw->bchw", classes, masks.sigmoid())


@contextmanager
def _apart() -> Iterator[None]:
    """Keep the library from asking its hub, and its bar and its table of missing weights off the terminal.

    A configuration may name pretrained weights of an inner network, which would be fetched and then replaced.
    """
    from huggingface_hub import constants  # noqa: PLC0415 - an extra
    from transformers.utils import logging  # noqa: PLC0415 - an extra

    hub: Any = constants
    library: Any = logging
    offline, before, showed = hub.HF_HUB_OFFLINE, library.get_verbosity(), library.is_progress_bar_enabled()
    hub.HF_HUB_OFFLINE = True
    library.set_verbosity(library.CRITICAL)
    library.disable_progress_bar()
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        library.set_verbosity(before)
        if showed:
            library.enable_progress_bar()


def _check_type(config: Mapping[str, Any], *, file: Path) -> None:
    kind = config.get("model_type")
    if kind not in (*SEMANTIC, *UNIVERSAL):
        raise WeightsError(
            "no network of transformers that segments",
            value=kind,
            file=file,
            advice=f"Take a network of one of the types {', '.join((*SEMANTIC, *UNIVERSAL))}",
        )


def _processor(path: Path) -> tuple[str, Mapping[str, Any]]:
    """Return the name of the file with the settings of the processor of images, and these, empty without a file."""
    if (path / PROCESSOR).exists():
        return PROCESSOR, read_json(path, PROCESSOR)
    if not (path / JOINED).exists():
        return PROCESSOR, {}
    found = read_json(path, JOINED).get(IMAGES)
    return JOINED, found if isinstance(found, dict) else {}


def _task(path: Path, config: Mapping[str, Any]) -> list[int]:
    """Numbers of the sentence that names the task, by the vocabulary beside the network.

    Raises:
        WeightsError: The vocabulary is missing or cannot be read.
    """
    import transformers  # noqa: PLC0415 - an extra

    library: Any = transformers
    length = config.get("task_seq_len", TASK_LENGTH)
    has_one = (path / TOKENIZER).exists() and not (path / VOCABULARY[0]).exists()
    for name in (TOKENIZER,) if has_one else VOCABULARY:
        checked_file(path, name)
    try:
        with _apart():
            tokens = library.CLIPTokenizer.from_pretrained(path, local_files_only=True)
            found = tokens(TASK, padding="max_length", max_length=length, truncation=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as exc:
        line = (str(exc).strip().splitlines() or [type(exc).__name__])[0][:200]
        raise WeightsError(
            f"transformers cannot read the vocabulary: {line}",
            file=path,
            advice=ADVICE,
        ) from exc
    # The library's own processor sets what the attention mask leaves out to zero.
    return [number * seen for number, seen in zip(found["input_ids"], found["attention_mask"], strict=True)]


def _weights(path: Path) -> list[str]:
    """Return the names of the files of weights.

    Raises:
        WeightsError: The folder has no weights, or only pickled ones.
    """
    if (path / INDEX).exists():
        parts = read_json(path, INDEX).get("weight_map")
        if not isinstance(parts, dict) or not all(isinstance(name, str) for name in parts.values()):
            raise WeightsError(
                "weight_map must name a file for each weight",
                file=path / INDEX,
                advice=ADVICE,
            )
        names = sorted(set(parts.values()))
        for name in names:
            checked_file(path, name)
        return [INDEX, *names]
    if not (path / WEIGHTS).exists() and (path / PICKLED).exists():
        raise WeightsError(
            "the weights are pickled",
            value=PICKLED,
            file=path,
            advice="Save the network again with save_pretrained(folder, safe_serialization=True)",
        )
    checked_file(path, WEIGHTS)
    return [WEIGHTS]


def _stated(config: Mapping[str, Any], *, file: Path) -> dict[str, Stated]:
    universal = config["model_type"] in UNIVERSAL
    found = {
        "activation": Stated(
            value="share" if universal else "softmax",
            origin=f"transformers: {config['model_type']} gives " + ("scores of masks" if universal else "logits"),
        )
    }
    bands = config.get("num_channels", (config.get("backbone_config") or {}).get("num_channels", 3))
    if not isinstance(bands, int) or bands < 1:
        raise WeightsError(
            "num_channels is a positive whole number",
            value=bands,
            file=file,
            advice=ADVICE,
        )
    found["bands"] = Stated(value=bands, origin=f"{CONFIG}: num_channels")
    if config["model_type"] == "oneformer":
        found["task"] = Stated(value="semantic", origin=f'transformers: oneformer takes the sentence "{TASK}"')
    labels = config.get("id2label")
    if isinstance(labels, dict) and labels:
        found |= _classes(labels)
    size = config.get("image_size")
    sides = [size, size] if isinstance(size, int) else size
    if isinstance(sides, list) and len(sides) == 2 and all(isinstance(side, int) and side > 0 for side in sides):  # noqa: PLR2004 - height and width
        found["input"] = Stated(value=Size(width=sides[1], height=sides[0]), origin=f"{CONFIG}: image_size")
    return found


def _classes(labels: Mapping[str, Any]) -> dict[str, Stated]:
    """Return the names of the channels. A table whose keys are no channels is ignored."""
    count = len(labels)
    channels = Stated(value=count, origin=f"{CONFIG}: id2label")
    if {str(index) for index in range(count)} != set(labels):
        origin = f"{CONFIG}: id2label has keys that are no channels, so its names are left out"
        return {"channels": channels, "classes": Stated(value=count, origin=origin)}
    names: list[str] = []
    for index in range(count):
        name = str(labels[str(index)]).strip() or f"class{index}"
        names.append(f"{name} ({index})" if name in names else name)
    choices = tuple(ClassChoice(name=name, channels=None) for name in names)
    return {"channels": channels, "classes": Stated(value=choices, origin=f"{CONFIG}: id2label")}


def _stated_by_processor(name: str, processor: Mapping[str, Any]) -> dict[str, Stated]:
    """Return size and normalisation of the pixels that the library's own processor would hand over.

    Args:
        name: Name of the file, for origins.
        processor: The settings of the processor of images; empty where there are none.
    """
    found: dict[str, Stated] = {}
    if not processor:
        return found
    size, key = processor.get("size"), "size"
    if processor.get("do_center_crop") and processor.get("crop_size") is not None:
        size, key = processor["crop_size"], "crop_size"
    sides = _sides(size)
    if sides is not None and processor.get("do_resize", True):
        found["input"] = Stated(value=sides, origin=f"{name}: {key}")
    plain = _class_of(processor).startswith(PLAIN)
    if processor.get("do_flip_channel_order", plain):
        origin = f"{name}: do_flip_channel_order"
        found["bands"] = Stated(value=("blue", "green", "red"), origin=origin)
    factor = processor.get("rescale_factor", 1 / BYTE)
    rescaled = processor.get("do_rescale", True) and isinstance(factor, float | int) and factor > 0
    unit = 1.0 if rescaled else BYTE
    if rescaled:
        # A range that ends below 255 would cut off what the library goes on scaling.
        end = max(BYTE, round(1 / factor, 9))
        unit = round(end * factor, 9)
        found["range"] = Stated(value=(0.0, end), origin=f"{name}: rescale_factor")
    if not plain and processor.get("do_normalize", True):
        # What a file leaves out has a value of the library's own for each class of processors: the user is asked.
        for value, key in (("mean", "image_mean"), ("std", "image_std")):
            numbers = _numbers(processor.get(key))
            if numbers is not None:
                found[value] = Stated(value=tuple(number / unit for number in numbers), origin=f"{name}: {key}")
    elif rescaled:
        origin = f"{name}: " + (f"{_class_of(processor)} does not normalise" if plain else "do_normalize is off")
        found["mean"], found["std"] = Stated(value=(0.0,), origin=origin), Stated(value=(1 / unit,), origin=origin)
    else:
        found["values"] = Stated(value="stored", origin=f"{name}: do_rescale is off")
    return found


def _class_of(processor: Mapping[str, Any]) -> str:
    """Return the name of the library's class of a processor of images; empty where the file does not state it."""
    return str(processor.get("image_processor_type") or processor.get("feature_extractor_type") or "")


def _numbers(value: object) -> tuple[float, ...] | None:
    """Return one number for all bands, or a number for each; None for anything else."""
    listed = value if isinstance(value, list) else [value]
    right = listed and all(isinstance(each, float | int) and not isinstance(each, bool) for each in listed)
    return tuple(map(float, listed)) if right else None


def _sides(size: object) -> Size | None:
    if isinstance(size, int) and size > 0:
        return Size(width=size, height=size)
    if not isinstance(size, dict):
        return None
    height, width = (size.get(key, size.get("shortest_edge")) for key in ("height", "width"))
    if isinstance(height, int) and isinstance(width, int) and min(height, width) > 0:
        return Size(width=width, height=height)
    return None
