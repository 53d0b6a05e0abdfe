"""Arrays as small pictures: tiles, sheets of them, PNG files inside a page."""

from __future__ import annotations

import base64
import dataclasses
import io
import math

import numpy as np
from markupsafe import Markup
from PIL import Image

# The longest side of a picture on the page, in pixels of its own.
SIDE = 48


@dataclasses.dataclass(frozen=True)
class Sheet:
    """Tiles of one size in one PNG picture, which the page holds once.

    Args:
        name: Its identifier in the page.
        uri: The picture, as a `data:` address.
        tile: Height and width of a tile.
        shape: Rows and columns of tiles.
    """

    name: str
    uri: str
    tile: tuple[int, int]
    shape: tuple[int, int]

    @property
    def definition(self) -> Markup:
        """What the page holds once."""
        (height, width), (rows, columns) = self.tile, self.shape
        return Markup('<image id="{}" width="{}" height="{}" href="{}"/>').format(
            self.name, width * columns, height * rows, self.uri
        )

    def show(self, index: int, says: str) -> Markup:
        """Show a tile; `says` is read aloud in its place."""
        (height, width), row = self.tile, index // self.shape[1]
        box = f"{index % self.shape[1] * width} {row * height} {width} {height}"
        return Markup(
            '<svg class="tile" role="img" aria-label="{}" viewBox="{}">'
            '<title>{}</title><use href="#{}"/></svg>'
        ).format(says, box, says, self.name)


def sheet(name: str, tiles: np.ndarray) -> Sheet:
    """Lay tiles, uint8 `(n, height, width, 1 or 3)`, out as a sheet."""
    n, height, width, channels = tiles.shape
    columns = max(math.ceil(math.sqrt(n)), 1)
    rows = max(math.ceil(n / columns), 1)
    whole = np.zeros((rows * columns, height, width, channels), "uint8")
    whole[:n] = tiles
    whole = whole.reshape(rows, columns, height, width, channels)
    whole = whole.transpose(0, 2, 1, 3, 4)
    whole = whole.reshape(rows * height, columns * width, channels)
    return Sheet(name, png(whole), (height, width), (rows, columns))


def png(image: np.ndarray) -> str:
    """Return an image, uint8 `(height, width, 1 or 3)`, as a `data:` address."""
    file = io.BytesIO()
    squeezed = image[..., 0] if image.shape[-1] == 1 else image
    Image.fromarray(squeezed).save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def thumbnails(images: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Return images, uint8, no longer than `side` pixels, of 1 or 3 channels."""
    n, height, width, channels = images.shape
    if channels not in (1, 3):
        images = images[..., :1]
    if max(height, width) <= side:
        return np.ascontiguousarray(images)
    scale = side / max(height, width)
    size = max(round(width * scale), 1), max(round(height * scale), 1)
    small = [
        np.asarray(
            Image.fromarray(image.squeeze(-1) if channels == 1 else image).resize(
                size, Image.Resampling.BOX
            )
        )
        for image in images
    ]
    return np.stack(small).reshape(n, size[1], size[0], -1) if n else images


def enlarged(tiles: np.ndarray, side: int) -> np.ndarray:
    """Return tiles `(n, height, width, ...)` with each pixel a square, about `side`."""
    times = max(side // max(tiles.shape[1:3]), 1)
    return tiles.repeat(times, 1).repeat(times, 2)


def resized(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Interpolate maps, float `(n, rows, columns)`, bilinearly to a size."""
    found = [
        np.asarray(
            Image.fromarray(each.astype("float32")).resize(
                (width, height), Image.Resampling.BILINEAR
            )
        )
        for each in maps
    ]
    return np.stack(found) if found else np.zeros((0, height, width), "float32")


def grey(maps: np.ndarray) -> np.ndarray:
    """Return maps `(n, height, width)` as grey tiles, each over its own range."""
    low = maps.min((1, 2), keepdims=True)
    span = maps.max((1, 2), keepdims=True) - low
    shares = (maps - low) / np.where(span > 0, span, 1)
    return (255 * shares).round().astype("uint8")[..., None]


def signed(kernels: np.ndarray) -> np.ndarray:
    """Return kernels `(n, height, width, 1 or 3)` as tiles, each over its own range.

    Three channels are red, green and blue, with zero mid grey; one channel is blue
    below zero, white at zero, orange above.
    """
    span = abs(kernels).max((1, 2, 3), keepdims=True)
    shares = kernels / np.where(span > 0, span, 1)
    if kernels.shape[-1] == 3:
        return (127.5 + 127.5 * shares).round().astype("uint8")
    below, above = np.array([27, 108, 168]), np.array([217, 95, 2])
    ends = np.where(shares > 0, above, below)
    return (255 + abs(shares) * (ends - 255)).round().astype("uint8")


def heated(images: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Lay maps, 0 to 1 `(n, height, width)`, over grey images of the same size."""
    from matplotlib import colormaps

    light = images.astype("float32").mean(-1, keepdims=True)
    colours = 255 * colormaps["inferno"](maps)[..., :3]
    strength = 0.25 + 0.5 * maps[..., None]
    return ((1 - strength) * light + strength * colours).round().astype("uint8")
