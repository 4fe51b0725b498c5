"""Networks of transformers with every type of head run, and their processors describe the input."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from magnet_cli.errors import WeightsError
from magnet_cli.geometry import Size
from magnet_cli.models.foreign.adapter import Adapted
from magnet_cli.models.foreign.completion import described
from magnet_cli.models.foreign.foreign_bundle import tried_network
from magnet_cli.models.foreign.kinds import KINDS
from magnet_cli.models.foreign.loading import frozen
from magnet_cli.models.foreign.network_kind import NetworkReading, Stated
from magnet_cli.models.foreign.transformers_folder import _stated_by_processor
from magnet_cli.models.foreign.trial import windows_of_description
from magnet_cli.options.foreign_network import NetworkOptions
from tests.models.foreign.makers import BANDS, SIDE, transformers_saved

if TYPE_CHECKING:
    from pathlib import Path

# Importing the first network of transformers takes ten seconds.
pytestmark = pytest.mark.full

TYPES = (
    "segformer", "upernet", "dpt", "beit", "data2vec-vision", "mobilevit", "mobilenet_v2", "mask2former", "eomt",
    "oneformer",
)  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_every_head_gives_what_the_library_gives(kind: str, tmp_path: Path) -> None:
    saved = transformers_saved(tmp_path, kind)
    tried = tried_network(saved.options())
    network = frozen(KINDS["transformers"].load(saved.path, tried.spec, "torch"))
    patches = torch.randn(2, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, wanted = Adapted(network, spec=tried.spec)(patches), saved.eager(patches)
    assert float((found - wanted).abs().max()) < 1e-5
    assert float((found.sum(dim=1) - 1).abs().max()) < 1e-4


def stated(folder: Path, **more: Any) -> dict[str, Any]:
    """Return the description of a saved network before its trial pass."""
    saved = transformers_saved(folder, **more)
    options = saved.options()
    description = described(KINDS["transformers"].read(saved.path, options), options)
    return {name: description[name] for name in description.values}


def test_the_processor_states_size_and_normalisation(tmp_path: Path) -> None:
    found = stated(tmp_path)
    assert found["input"] == Size(width=SIDE, height=SIDE)
    assert found["range"] == (0.0, 255.0)
    assert (found["mean"], found["std"]) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    assert found["bands"] == ("red", "green", "blue")
    assert [each.name for each in found["classes"]] == ["LABEL_0", "LABEL_1", "LABEL_2"]


def test_processors_that_do_otherwise_are_followed(tmp_path: Path) -> None:
    sides = {"height": 32, "width": 48}
    crop = stated(tmp_path / "a", do_center_crop=True, crop_size=sides, size={"shortest_edge": 80})
    assert crop["input"] == Size(width=48, height=32)
    swapped = stated(tmp_path / "b", do_flip_channel_order=True, do_normalize=False)
    assert swapped["bands"] == ("blue", "green", "red")
    assert (swapped["mean"], swapped["std"]) == ((0.0,) * 3, (1.0,) * 3)
    unscaled = stated(tmp_path / "c", do_rescale=False)
    assert unscaled["mean"] == pytest.approx([0.4 / 255, 0.5 / 255, 0.6 / 255])
    stored = stated(tmp_path / "d", do_rescale=False, do_normalize=False)
    # The network gets the stored values themselves: value / 255 less 0, divided by 1 / 255.
    assert (stored["mean"], stored["std"]) == ((0.0,) * 3, (1 / 255,) * 3)


@pytest.mark.parametrize("kind", ["Segformer", "MobileViT"])
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image_mean": 0.5, "image_std": 0.25},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 1 / 127.5, "do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "image_mean": [123.0, 116.0, 103.0], "image_std": [58.0, 57.0, 57.0]},
        {"do_normalize": False},
        {"do_normalize": True},
        {"do_normalize": None},
        {"image_mean": None},
        {"image_std": None},
        {"do_flip_channel_order": None},
        {"do_normalize": None, "do_rescale": None},
    ],
)
def test_a_patch_gets_the_values_that_the_library_gives_it(kind: str, change: dict[str, Any], tmp_path: Path) -> None:
    library: Any = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    processor = getattr(library, f"{kind}ImageProcessor")
    processor(size={"height": SIDE, "width": SIDE}, do_center_crop=False).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    # None leaves a key out: the library has a value of its own then.
    table = {key: value for key, value in {**json.loads(file.read_text()), **change}.items() if value is not None}
    file.write_text(json.dumps(table))
    facts = {"bands": Stated(value=BANDS, origin=""), **_stated_by_processor(file.name, table)}
    options = NetworkOptions(network=str(tmp_path))
    reading = NetworkReading(kind="transformers", path=tmp_path, root=tmp_path, files=(), stated=facts)
    missing = [name for name in ("mean", "std") if change.get(f"image_{name}", 0) is None and kind == "Segformer"]
    if missing:
        with pytest.raises(WeightsError, match=f"do not state {', '.join(missing)};"):
            described(reading, options)
        return
    found = described(reading, options)
    pixels = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, BANDS), dtype=np.uint8)
    wanted = processor.from_pretrained(tmp_path)(images=pixels, return_tensors="pt")["pixel_values"]
    order = [("red", "green", "blue").index(band) for band in found["bands"]]
    windows = windows_of_description(found, pixels.transpose(2, 0, 1)[order])
    assert float((windows.patch(0, 0) - wanted).abs().max()) < 1e-3


def test_names_without_a_channel_are_not_believed(tmp_path: Path) -> None:
    saved = transformers_saved(tmp_path)
    config = json.loads((saved.path / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b", "3": "c"}
    (saved.path / "config.json").write_text(json.dumps(config))
    tried = tried_network(saved.options())
    assert [each.name for each in tried.classes] == ["class0", "class1", "class2"]


def test_weights_that_the_library_would_make_up_are_refused(tmp_path: Path) -> None:
    saved = transformers_saved(tmp_path)
    file = saved.path / "model.safetensors"
    state = load_file(file)
    key = "decode_head.classifier.weight"
    save_file({name: value for name, value in state.items() if name != key}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=rf"1 missing: {key}"):
        tried_network(saved.options())
    save_file({**state, "more": torch.ones(1)}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="1 left over: more"):
        tried_network(saved.options())
    file.rename(saved.path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="are pickled"):
        tried_network(saved.options())


def _save_as_version_5(folder: Path) -> None:
    """Replace the files of the processors by those that version 5 of the library writes for a network with two."""
    library: Any = pytest.importorskip("transformers", reason="the extra transformers is not installed")
    tokens = library.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink()
    tokens.save_pretrained(folder)
    if not (folder / "tokenizer.json").exists() or (folder / "vocab.json").exists():
        pytest.skip("an older version of transformers is installed")
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    joined = {"processor_class": "OneFormerProcessor", "image_processor": settings}
    (folder / "processor_config.json").write_text(json.dumps(joined))


def test_the_task_of_oneformer_is_a_sentence_of_its_vocabulary(tmp_path: Path) -> None:
    saved = transformers_saved(tmp_path, "oneformer")
    tried = tried_network(saved.options())
    assert tried.spec.options["task"] == [1, 3, 4, 5, 6, 2, *[0] * 71]
    assert tried.description["task"] == "semantic"
    # The sentence changes the result: it is not left out on the way.
    other = replace(tried.spec, options={"task": [1, 3, 4, 5, 5, 2, *[0] * 71]})
    with torch.inference_mode():
        found, wanted = (
            Adapted(frozen(KINDS["transformers"].load(saved.path, spec, "torch")), spec=spec)(
                torch.randn(1, BANDS, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
            )
            for spec in (other, tried.spec)
        )
    assert float((found - wanted).abs().max()) > 1e-5
    # Weights that training alone uses may be left over.
    file = saved.path / "model.safetensors"
    save_file({**load_file(file), "model.text_mapper.a": torch.ones(1)}, file, metadata={"format": "pt"})
    assert tried_network(saved.options()).spec.channels == 3
    _save_as_version_5(saved.path)
    newer = tried_network(saved.options())
    assert newer.spec.options["task"] == tried.spec.options["task"]
    assert newer.description["mean"] == pytest.approx([0.4, 0.5, 0.6])
    assert newer.description.values["mean"].origin == "processor_config.json: image_mean"
    (saved.path / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"a file of the network is missing .*vocab\.json"):
        tried_network(saved.options())
