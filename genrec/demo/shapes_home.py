"""The demo's products for the home as drawings: one function per category, three silhouettes each.

Coordinates are those of `demo_render.Shape`; every product stands near y = 0.9.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from genrec.demo.render import (
    CREAM,
    INK,
    METAL,
    WOOD,
    Canvas,
    blob,
    box,
    line,
    oval,
    poly,
)

LEAF = (96, 134, 92)
LIGHT = (255, 244, 200)


def _lamp(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.part(INK, line("50,30 50,88", width=0.022))
        c.part(INK, box(0.38, 0.87, 0.62, 0.92, r=0.02))
        c.body(poly("42,8 58,8 70,38 30,38"))
        c.flat(LIGHT, oval(0.31, 0.36, 0.69, 0.40))
    elif shape == "round":
        c.body(oval(0.22, 0.12, 0.78, 0.68))
        c.part(METAL, box(0.42, 0.67, 0.58, 0.75))
        c.part(WOOD, poly("40,74 60,74 70,91 30,91"))
        c.flat((255, 250, 225), oval(0.32, 0.20, 0.46, 0.32), opacity=0.55)
    else:
        c.part(METAL, line("50,50 50,66", width=0.03))
        c.part(WOOD, box(0.36, 0.64, 0.64, 0.91, r=0.03))
        c.body(box(0.18, 0.14, 0.82, 0.54, r=0.02))
        c.flat(LIGHT, line("20,53 80,53", width=0.022))


def _cushion(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.body(blob("30,10 50,13 70,10 68,50 70,90 50,87 30,90 32,50"))
        for y in (0.17, 0.83):
            c.flat(c.dark, line((0.32, y), (0.68, y), width=0.022))
    elif shape == "round":
        c.body(oval(0.12, 0.14, 0.88, 0.90))
        for angle in np.arange(8) * np.pi / 4:
            end = (0.5 + 0.30 * float(np.cos(angle)), 0.52 + 0.30 * float(np.sin(angle)))
            c.flat(INK, line((0.5, 0.52), end, width=0.010), opacity=0.35)
        c.part(c.dark, oval(0.455, 0.475, 0.545, 0.565))
    else:
        c.body(blob("10,16 50,21 90,16 85,53 90,90 50,85 10,90 15,53"))
        for x, y in ((0.11, 0.17), (0.89, 0.17), (0.11, 0.89), (0.89, 0.89)):
            c.part(c.accent, oval(x - 0.035, y - 0.035, x + 0.035, y + 0.035))


def _planter(c: Canvas, shape: str) -> None:
    if shape == "tall":
        for x, y in ((0.36, 0.18), (0.45, 0.05), (0.54, 0.10), (0.63, 0.20)):
            c.part(
                LEAF,
                blob(
                    (0.48, 0.50), (x - 0.04, y + 0.16), (x, y), (x + 0.04, y + 0.16), (0.52, 0.50)
                ),
            )
        c.body(poly("30,42 70,42 63,91 37,91"))
        c.part(c.dark, box(0.28, 0.40, 0.72, 0.47, r=0.02))
    elif shape == "round":
        for x, y, r in (
            (0.34, 0.34, 0.13),
            (0.64, 0.33, 0.14),
            (0.49, 0.24, 0.16),
            (0.48, 0.42, 0.13),
        ):
            c.part(LEAF, oval(x - r, y - r, x + r, y + r))
        c.body(blob("18,50 22,76 40,90 60,90 78,76 82,50"))
        c.part(c.dark, box(0.16, 0.46, 0.84, 0.53, r=0.03))
    else:
        for x, y in ((0.26, 0.22), (0.50, 0.14), (0.74, 0.26)):
            c.part(LEAF, box(x - 0.06, y, x + 0.06, 0.58, r=0.06))
            c.part(
                LEAF,
                line((x + 0.05, y + 0.20), (x + 0.11, y + 0.20), (x + 0.11, y + 0.10), width=0.045),
            )
        c.body(box(0.10, 0.52, 0.90, 0.90, r=0.02))
        c.part(c.dark, box(0.08, 0.50, 0.92, 0.57, r=0.01))


def _mug(c: Canvas, shape: str) -> None:
    left, top, right, bottom = {
        "tall": (0.33, 0.14, 0.63, 0.88),
        "round": (0.24, 0.34, 0.68, 0.86),
        "boxy": (0.16, 0.42, 0.70, 0.84),
    }[shape]
    height = bottom - top
    handle = [
        (right - 0.02, top + 0.22 * height),
        (right + 0.13, top + 0.25 * height),
        (right + 0.14, top + 0.55 * height),
        (right - 0.02, top + 0.72 * height),
    ]
    c.part(c.dark, line(*handle, width=0.05, smooth=True))
    if shape == "round":
        bulge = [(left - 0.05, 0.62), (left + 0.06, bottom), (right - 0.06, bottom)]
        c.body(blob((left + 0.03, top), *bulge, (right + 0.05, 0.62), (right - 0.03, top)))
        left, right = left + 0.03, right - 0.03
    else:
        c.body(box(left, top, right, bottom, r=0.05), oval(left, bottom - 0.08, right, bottom))
    c.part(c.dark, oval(left, top - 0.05, right, top + 0.05))
    c.flat((70, 44, 30), oval(left + 0.03, top - 0.02, right - 0.03, top + 0.04))


def _notebook(c: Canvas, shape: str) -> None:
    left, top, right, bottom = {
        "tall": (0.32, 0.10, 0.66, 0.90),
        "round": (0.22, 0.16, 0.74, 0.88),
        "boxy": (0.16, 0.18, 0.82, 0.88),
    }[shape]
    radius = 0.10 if shape == "round" else 0.015
    c.part(CREAM, box(left + 0.03, top + 0.025, right + 0.035, bottom + 0.02, r=radius))
    c.body(box(left, top, right, bottom, r=radius))
    if shape == "tall":
        for x in np.linspace(left + 0.04, right - 0.04, 6):
            c.part(METAL, line((float(x), top - 0.03), (float(x), top + 0.05), width=0.022))
    elif shape == "round":
        c.flat(INK, line((right - 0.08, top), (right - 0.08, bottom), width=0.022))
        c.part(c.dark, line((0.45, bottom), (0.45, bottom + 0.06), width=0.02))
    else:
        for y in np.linspace(top + 0.05, bottom - 0.05, 9):
            c.part(METAL, line((left - 0.04, float(y)), (left + 0.05, float(y)), width=0.022))
    middle = (left + right) / 2 - (0.03 if shape == "round" else 0)
    c.part(CREAM, box(middle - 0.12, top + 0.14, middle + 0.12, top + 0.28))
    for y in (0.19, 0.23):
        c.flat(INK, line((middle - 0.08, top + y), (middle + 0.08, top + y), width=0.010))


def _bottle(c: Canvas, shape: str) -> None:
    if shape == "tall":
        c.part(METAL, box(0.43, 0.08, 0.57, 0.19, r=0.02))
        c.body(poly("44,18 56,18 60,32 60,60 40,60 40,32"), box(0.40, 0.50, 0.60, 0.90, r=0.05))
    elif shape == "round":
        c.part(METAL, box(0.43, 0.13, 0.57, 0.22, r=0.02))
        c.body(box(0.44, 0.21, 0.56, 0.50), oval(0.25, 0.38, 0.75, 0.90))
    else:
        c.part(INK, line("42,22 42,11 58,11 58,22", width=0.035))
        c.part(METAL, box(0.38, 0.19, 0.62, 0.30, r=0.02))
        c.body(box(0.28, 0.29, 0.72, 0.90, r=0.07))


HOME: dict[str, Callable[[Canvas, str], None]] = {
    "lamp": _lamp,
    "cushion": _cushion,
    "planter": _planter,
    "mug": _mug,
    "notebook": _notebook,
    "bottle": _bottle,
}
