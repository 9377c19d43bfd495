"""Draws products with Pillow: patterned bodies, plain parts, light from the left, a soft shadow.

Everything is drawn at three times the size and scaled down, so edges are smooth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from genrec.demo.vocabulary import COLOURS

OVERSAMPLE = 3
Colour = tuple[int, int, int]
Point = tuple[float, float]
CREAM: Colour = (248, 240, 222)
INK: Colour = (44, 42, 48)
METAL: Colour = (176, 178, 184)
WHITE: Colour = (240, 239, 235)
WOOD: Colour = (168, 124, 84)
_EDGE = 4  # pixels, before scaling down, over which a part darkens towards its outline


@dataclass(frozen=True)
class Shape:
    """A region in unit coordinates: x to the right, y down, both from 0 to 1.

    Where a drawing is written down, points may stand in percent in one string: "50,12 86,90".
    `width` is None for a filled polygon, else that of a line along `points`.
    """

    points: tuple[Point, ...]
    width: float | None = None


def poly(*points: Point | str) -> Shape:
    """A polygon."""
    return Shape(tuple(_points(points)))


def blob(*points: Point | str) -> Shape:
    """A smooth closed region through `points`."""
    return Shape(tuple(_smooth(_points(points), closed=True)))


def line(*points: Point | str, width: float, smooth: bool = False) -> Shape:
    """A line with round ends."""
    corners = _points(points)
    return Shape(tuple(_smooth(corners, closed=False) if smooth else corners), width)


def oval(x0: float, y0: float, x1: float, y1: float) -> Shape:
    """An ellipse within a box."""
    angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return Shape(
        tuple(
            (float(x + (x1 - x0) / 2 * np.cos(a)), float(y + (y1 - y0) / 2 * np.sin(a)))
            for a in angles
        )
    )


def box(x0: float, y0: float, x1: float, y1: float, r: float = 0.0) -> Shape:
    """A rectangle with corners of radius `r`."""
    if r == 0:
        return poly((x0, y0), (x1, y0), (x1, y1), (x0, y1))
    centres = ((x1 - r, y0 + r), (x1 - r, y1 - r), (x0 + r, y1 - r), (x0 + r, y0 + r))
    corner = np.linspace(-np.pi / 2, 0, 8)
    return Shape(
        tuple(
            (float(cx + r * np.cos(a + k * np.pi / 2)), float(cy + r * np.sin(a + k * np.pi / 2)))
            for k, (cx, cy) in enumerate(centres)
            for a in corner
        )
    )


def _points(points: Sequence[Point | str]) -> list[Point]:
    plain: list[Point] = []
    for point in points:
        if isinstance(point, str):
            pairs = (pair.split(",") for pair in point.split())
            plain += [(float(x) / 100, float(y) / 100) for x, y in pairs]
        else:
            plain.append(point)
    return plain


def _smooth(points: Sequence[Point], *, closed: bool) -> list[Point]:
    """Ten points per segment of the Catmull-Rom spline through `points`."""
    p = np.asarray(points, dtype=float)
    p = np.concatenate([p[-1:], p, p[:2]] if closed else [p[:1], p, p[-1:]])
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))  # [segments, 1, 2]
    t = np.linspace(0, 1, 10, endpoint=False)[:, None]
    cubic = (3 * b - a - 3 * c + d) * t**3 + (2 * a - 5 * b + 4 * c - d) * t**2
    curve = 0.5 * (cubic + (c - a) * t + 2 * b)  # [segments, 10, 2]
    return [(float(x), float(y)) for x, y in (*curve.reshape(-1, 2), p[-2])]


class Canvas:
    """One image in the making.

    Args:
        colour, pattern: keys of the demo's word tables.
        size: width and height of the finished image in pixels.
        rng: small differences between products of the same look.
    """

    def __init__(self, colour: str, pattern: str, *, size: int, rng: np.random.Generator) -> None:
        self.side = size * OVERSAMPLE
        self.size = size
        jitter = rng.integers(-9, 10, size=3)
        red, green, blue = (
            int(np.clip(c + j, 0, 255)) for c, j in zip(COLOURS[colour], jitter, strict=True)
        )
        self.base: Colour = (red, green, blue)
        self.dark = _scaled(self.base, 0.62)
        self.accent = CREAM if sum(self.base) < 420 else _scaled(self.base, 0.42)
        self._fabric = _fabric(pattern, self.base, self.accent, self.side, rng)
        self._backdrop = _backdrop(self.side, rng)
        self._product = Image.new("RGBA", (self.side, self.side))
        self._flip = bool(rng.random() < 0.5)

    def body(self, *shapes: Shape, minus: Sequence[Shape] = ()) -> None:
        """Paints a part of the product in its colour and pattern."""
        self._paint(self._mask(shapes, minus), self._fabric)

    def part(self, colour: Colour, *shapes: Shape, minus: Sequence[Shape] = ()) -> None:
        """Paints a plain part."""
        plain = Image.new("RGB", (self.side, self.side), colour)
        self._paint(self._mask(shapes, minus), plain)

    def flat(self, colour: Colour, *shapes: Shape, opacity: float = 1.0) -> None:
        """Paints a detail without shading: seams, zips, shadows within the product."""
        mask = self._mask(shapes, ()).point([round(v * opacity) for v in range(256)])
        self._product.paste(Image.new("RGBA", (self.side, self.side), (*colour, 255)), mask=mask)

    def finish(self) -> Image.Image:
        """Returns the image: backdrop, shadow, product."""
        alpha = self._product.getchannel("A")
        left, _, right, bottom = alpha.getbbox() or (0, 0, self.side, self.side)
        image = self._backdrop
        image.paste((58, 54, 60), mask=self._shadow(left, right, bottom))
        image.paste(self._product, mask=alpha)
        if self._flip:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return image.resize((self.size, self.size), Image.Resampling.BOX)

    def _shadow(self, left: int, right: int, floor: int) -> Image.Image:
        """A soft ellipse on the floor; drawn small, for it has no edges to lose."""
        shadow = Image.new("L", (self.size, self.size))
        inset, height = (right - left) * 0.04, self.side * 0.025
        corners = (left + inset, floor - 1.6 * height, right - inset, floor + height)
        ImageDraw.Draw(shadow).ellipse([v / OVERSAMPLE for v in corners], fill=120)
        shadow = shadow.filter(ImageFilter.GaussianBlur(self.size * 0.018))
        return shadow.resize((self.side, self.side), Image.Resampling.BILINEAR)

    def _mask(self, shapes: Sequence[Shape], minus: Sequence[Shape]) -> Image.Image:
        mask = Image.new("L", (self.side, self.side))
        draw = ImageDraw.Draw(mask)
        for shape, fill in [*((s, 255) for s in shapes), *((s, 0) for s in minus)]:
            points = [(x * self.side, y * self.side) for x, y in shape.points]
            if shape.width is None:
                draw.polygon(points, fill=fill)
                continue
            width = shape.width * self.side
            draw.line(points, fill=fill, width=max(1, round(width)), joint="curve")
            for x, y in (points[0], points[-1]):
                draw.ellipse(
                    (x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=fill
                )
        return mask

    def _paint(self, mask: Image.Image, fill: Image.Image) -> None:
        """Adds light from the left and darker edges, then puts the part on the product."""
        bounds = mask.getbbox()
        if bounds is None:
            return
        mask, fill = mask.crop(bounds), fill.crop(bounds)
        x = np.linspace(0, 1, mask.width, dtype=np.float32)
        light = 0.80 + 0.32 * np.exp(-((x - 0.32) ** 2) / 0.09)  # [width], brightest at a third
        padded = ImageOps.expand(mask, _EDGE)
        blurred = np.asarray(padded.filter(ImageFilter.BoxBlur(_EDGE)), dtype=np.float32)
        inside = blurred[_EDGE:-_EDGE, _EDGE:-_EDGE] / 255
        edge = 0.62 + 0.38 * np.clip((inside - 0.5) * 2.4, 0, 1)
        shaded = np.asarray(fill, dtype=np.float32) * (light * edge)[..., None]
        layer = Image.fromarray(np.clip(shaded, 0, 255).astype(np.uint8)).convert("RGBA")
        self._product.paste(layer, bounds[:2], mask)


def _scaled(colour: Colour, factor: float) -> Colour:
    red, green, blue = (round(c * factor) for c in colour)
    return red, green, blue


def _backdrop(side: int, rng: np.random.Generator) -> Image.Image:
    """A pale wall that darkens towards the floor."""
    tone = np.array([236.0, 235.0, 232.0]) + rng.uniform(-6, 6, size=3)
    column = np.linspace(1.03, 0.93, side)[:, None, None] * tone  # [side, 1, 3]
    return Image.fromarray(np.clip(column, 0, 255).astype(np.uint8)).resize((side, side))


def _fabric(
    pattern: str, base: Colour, accent: Colour, side: int, rng: np.random.Generator
) -> Image.Image:
    """A square of patterned material; `pattern` is a key of `PATTERNS`."""
    pitch = side * rng.uniform(0.115, 0.135)
    along = np.arange(side, dtype=np.float32) / np.float32(pitch)
    start = rng.uniform(size=2).astype(np.float32)
    ink = _INKS[pattern](along[None, :] + start[0], along[:, None] + start[1])  # [side, side]
    share = Image.fromarray((np.broadcast_to(ink, (side, side)) * 255).astype(np.uint8))
    fabric = Image.new("RGB", (side, side), base)
    fabric.paste(accent, mask=share)
    return fabric


# Patterns: share of accent colour at x [1, side] and y [side, 1], both in units of the pitch.


def _solid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 0.0 * (x + y)


def _stripes(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(y % 1 < 0.42, 1.0, 0.0 * x)


def _dots(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    shifted = x + 0.5 * (np.floor(y) % 2)
    return np.where((shifted % 1 - 0.5) ** 2 + (y % 1 - 0.5) ** 2 < 0.28**2, 1.0, 0.0)


def _checks(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where(x % 1 < 0.5, 0.5, 0.0) + np.where(y % 1 < 0.5, 0.5, 0.0)


def _zigzag(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.where((y + 0.9 * np.abs(x % 1 - 0.5)) % 0.9 < 0.34, 1.0, 0.0)


def _floral(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Five-petalled flowers on a staggered grid."""
    x, y = x / 1.45, y / 1.45
    u, v = (x + 0.5 * (np.floor(y) % 2)) % 1 - 0.5, y % 1 - 0.5
    radius, angle = np.hypot(u, v), np.arctan2(v, u)
    petals = np.where(radius < 0.27 + 0.13 * np.cos(5 * angle), 1.0, 0.0)
    return np.where(radius < 0.1, 0.25, petals)


_INKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "solid": _solid,
    "stripes": _stripes,
    "dots": _dots,
    "checks": _checks,
    "zigzag": _zigzag,
    "floral": _floral,
}


def save_png(image: Image.Image, path: Path) -> None:
    """Writes a PNG whose bytes depend on the pixels only."""
    image.save(path, format="PNG", compress_level=6)
