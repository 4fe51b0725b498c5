"""The levels of a TIFF's image: the candidates that the file calls levels, and those that look like one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from magnet_cli.images.levels import placements
from magnet_cli.images.likeness import compare
from magnet_cli.images.tiff_pages import Layer, full_layer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from magnet_cli.images.tiff_colour import Colour
    from magnet_cli.images.tiff_pages import Candidate, TiffImage
    from magnet_cli.images.tiff_store import TiffStore


def find_layers(
    image: TiffImage, colour: Colour, usable: Callable[[Candidate], bool], store: Callable[[Sequence[Layer]], TiffStore]
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """Return the levels of an image, finest first, and notes for the user about pages that were left out.

    A page that the file does not call a level counts as one only where it shows what the next finer level shows. The
    same holds for one whose downsample is no whole number: programs mark overviews of the glass as reduced, too.

    Args:
        image: Image with the pages that may be its levels.
        colour: Meaning of the samples of level 0.
        usable: Whether the pages of a candidate can be read by region, and have samples of that colour.
        store: Function that opens layers for reading.
    """
    layers, notes = [full_layer(image)], list[str]()
    for candidate in filter(usable, image.candidates):
        # Without its own mask a level would show pixels without data as black ones.
        if layers[0].mask is not None and candidate.size not in image.masks:
            continue
        before = [layer.downsample for layer in layers[1:]]
        places = [
            place
            for place in placements(layers[0].size, candidate.size, tile=candidate.tile, before=before)
            if place.downsample.x > layers[-1].downsample.x and place.downsample.y > layers[-1].downsample.y
        ]
        if not places:
            continue
        found = [
            Layer(
                size=place.size,
                downsample=place.downsample,
                pages=candidate.pages,
                mask=image.masks.get(candidate.size),
            )
            for place in places
        ]
        step, why = found[0].downsample, ""
        if not candidate.stated or len(found) > 1 or step.x.denominator != 1 or step.y.denominator != 1:
            found, why = _similar_layers(layers[-1], found, colour, store, stated=candidate.stated)
        if found:
            layers.append(found[0])
        else:
            notes.append(
                f"a picture of {candidate.size} pixels has the shape of a reduced level and {why}: it is left out"
            )
    return tuple(layers), tuple(notes)


def _similar_layers(
    finer: Layer, found: list[Layer], colour: Colour, store: Callable[[Sequence[Layer]], TiffStore], *, stated: bool
) -> tuple[list[Layer], str]:
    """Return the layers that show what the finer level shows, the most similar first, or why there is none.

    Where the file says that it is a level, the likeliest place stays where no comparison decides, or where its
    content decides between several places and fits none.
    """
    opened = store([finer, replace(found[0], mask=None)])
    judged = [
        (compare(opened, (0, finer.level), (1, layer.level), dtype=colour.dtype, bands=len(colour.bands)), layer)
        for layer in found
    ]
    opened.forget()
    alike = [(likeness.error, index) for index, (likeness, _) in enumerate(judged) if likeness.alike]
    if not alike:
        decided = judged[0][0].decided
        why = "shows something else" if decided else "is too small to be compared"
        return (found[:1] if stated and not (decided and len(found) == 1) else []), why
    return [found[index] for _, index in sorted(alike)], ""
